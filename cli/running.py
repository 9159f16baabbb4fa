"""The engine that runs on this machine, found by its folder."""

import os
import signal
import time
from pathlib import Path

from pydantic import SecretStr

from cli.stack import PID_FILE, Stack, StackError, development_secret
from libs.config import Database, Settings, load_settings

STOP_PATIENCE_S = 60.0


def settings_of_running_stack() -> Settings:
    """The settings; where database or secret are embedded, those of the `trade-engine up` that runs with this data_dir.

    Raises StackError where nothing runs.
    """
    settings = load_settings()
    update: dict[str, object] = {"database": _database(settings)}
    if not settings.auth.has_keys:
        secret = type(settings.auth).model_validate(
            {"hs256_secret": development_secret(settings.data_dir, create=False)}
        )
        update["auth"] = settings.auth.model_copy(update={"hs256_secret": secret.hs256_secret})
    return settings.model_copy(update=update)


def dsn_of_running_stack() -> str:
    """The database's server itself, not a pooler before it. Raises StackError where nothing runs."""
    return _database(load_settings()).server_dsn()


def _database(settings: Settings) -> Database:
    configured = settings.database
    if configured.dsn.get_secret_value():
        return configured
    dsn = configured.server_dsn() or Stack.running_environment(settings.data_dir)["TRADE_ENGINE_DATABASE_DSN"]
    return configured.model_copy(update={"dsn": SecretStr(dsn)})


def signal_running_stack(data_dir: Path, number: signal.Signals) -> int:
    """Send a signal to the `trade-engine up` of this folder; returns its process id. Raises StackError where none runs."""
    try:
        pid = int((data_dir / PID_FILE).read_text(encoding="ascii"))
        os.kill(pid, number)
    except (FileNotFoundError, ProcessLookupError, ValueError) as error:
        raise StackError(f"nothing runs with data_dir {data_dir}") from error
    return pid


def stop_running_stack(data_dir: Path) -> None:
    """Stop it, and wait until it is gone. Raises StackError where none runs, or it does not go."""
    pid = signal_running_stack(data_dir, signal.SIGTERM)
    deadline = time.monotonic() + STOP_PATIENCE_S
    while (data_dir / PID_FILE).exists():
        if time.monotonic() > deadline:
            raise StackError(f"process {pid} does not stop; its logs are in {data_dir / 'logs'}")
        time.sleep(0.1)
