"""SIGHUP: the settings are read again. The log level and limits change at once; what cannot change says so.

Settings come from the file that TRADE_ENGINE_CONFIG names; a process's environment stays as it was.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator

import structlog
from pydantic import BaseModel, SecretStr

from libs.config import ConfigError, Settings, load_settings
from libs.telemetry import set_level

log = structlog.get_logger()
Apply = Callable[[Settings], None]
_appliers: dict[str, Apply] = {"log.level": lambda settings: set_level(settings.log.level)}


def on_reload(*paths: str, apply: Apply) -> None:
    """Call `apply` with the new settings when one of these (such as `edge.rate_per_s`) is another."""
    for path in paths:
        _appliers[path] = apply


def listen(settings: Settings) -> None:
    """Take SIGHUP from now on. Needs a running loop."""
    current = settings

    def reload() -> None:
        nonlocal current
        try:
            wanted = load_settings()
        except ConfigError as error:
            log.error("settings stay as they were", problem=str(error))  # noqa: TRY400 - it is not a fault of ours
            return
        changed = [path for path, before, after in _leaves(current, wanted) if before != after]
        for apply in {_appliers[path]: None for path in changed if path in _appliers}:
            apply(wanted)
        log.warning(
            "settings read again",
            changed=[path for path in changed if path in _appliers],
            needs_restart=[path for path in changed if path not in _appliers],
        )
        current = wanted

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _leaves(before: BaseModel, after: BaseModel, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from _leaves(old, new, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _plain(old), _plain(new)


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
