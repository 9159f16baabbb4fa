"""How every service process begins and ends: settings, logs, metrics, event loop, exit codes."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import structlog
import uvloop

from libs.config import ConfigError, Edge, Service, Settings, load_settings, require
from libs.reload import listen
from libs.telemetry import serve_metrics, setup_logging
from libs.tracing import end_tracing, setup_tracing

EXIT_FAILED = 1
STOP_LIMIT_S = 8.0
FILES_MAX = 65_536
SUPERVISOR_PID = "SUPERVISOR_PID"
_SUPERVISOR_POLL_S = 0.5
EXIT_BAD_CONFIG = 78  # sysexits.h EX_CONFIG

log = structlog.get_logger()


def run_service(
    name: str,
    main: Callable[[Settings], Awaitable[None]],
    own: Callable[[Settings], Service | Edge] | None = None,
    *,
    needs: tuple[str, ...] = ("database.dsn",),
) -> None:
    """Run `main` until it returns, with /metrics where its `own` settings say.

    Exits 78 for unusable settings, or without those it needs, 1 where something broke.
    """
    try:
        settings = load_settings()
        require(settings, *needs)
    except ConfigError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(EXIT_BAD_CONFIG)
    _follow_supervisor()
    raise_files_limit()
    setup_tracing(settings.tracing, service=name)
    setup_logging(service=name, level=settings.log.level, json=settings.log.json_lines)
    collect_garbage_rarely()
    try:
        if own is not None:
            serve_metrics(own(settings).host, own(settings).metrics_port)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_as_coroutine(main, settings))
    except ConfigError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(EXIT_BAD_CONFIG)
    except Exception:
        log.exception("stopped by a fault")
        sys.exit(EXIT_FAILED)
    end_tracing()
    log.info("stopped")


def raise_files_limit() -> None:
    """Have as many open files as the system lets us, up to FILES_MAX: every connection is one.

    Shells and init systems begin with 1,024, less than the sockets that an edge takes; the hard limit is for the asking.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a Mac says that there is no limit, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def collect_garbage_rarely() -> None:
    """Leave what was loaded at start out of collections, and have fewer of them.

    A batch makes thousands of small objects, hardly any in cycles: at CPython's thresholds collecting them cost the
    wallet a quarter of its time (80 -> 58 us of CPU a trade, measured).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@contextlib.contextmanager
def loading_for_good() -> Iterator[None]:
    """While much is loaded that stays: no garbage is collected, and later collections leave out what there is then."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _follow_supervisor() -> None:
    """Under `trade-engine up`: stop gently when the supervisor is gone, however it went."""
    supervisor = os.environ.get(SUPERVISOR_PID)
    if not supervisor:
        return

    def watch() -> None:
        while str(os.getppid()) == supervisor:
            time.sleep(_SUPERVISOR_POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


async def _as_coroutine(main: Callable[[Settings], Awaitable[None]], settings: Settings) -> None:
    listen(settings)
    await main(settings)


async def serve_until_stopped(*background: Awaitable[None], stop: Awaitable[None]) -> None:
    """Run background work until `stop` returns; a fault in any of them ends all. Raises what the fault raised."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_as_task(work)) for work in background]
        await stop
        _end_in_time()
        for task in tasks:
            task.cancel()


def _end_in_time() -> None:
    """Whatever hangs on the way out (a server that is gone, say) does not keep the process alive."""

    def end() -> None:
        log.error("did not stop in time", seconds=STOP_LIMIT_S)
        os._exit(EXIT_FAILED)

    timer = threading.Timer(STOP_LIMIT_S, end)
    timer.daemon = True
    timer.start()


async def _as_task(work: Awaitable[None]) -> None:
    await work
