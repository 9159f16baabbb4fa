"""Logs (JSON by structlog, with request ids) and metrics (Prometheus). Secrets never go into either."""

import logging
import sys
import time
from typing import Any, TextIO

import structlog
from prometheus_client import Counter, Gauge, Histogram, start_http_server

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

BATCH_ITEMS = Histogram("batch_items", "Items per batch", ["batcher"], buckets=_SIZES)
QUEUE_ITEMS = Gauge("queue_items", "Items that wait for the next batch", ["batcher"])
RPC_SECONDS = Histogram("rpc_server_duration_seconds", "Time in the handler", ["method"], buckets=_FAST)
RPC_TOTAL = Counter("rpc_server_requests_total", "Finished calls", ["method", "code"])
BUS_PUBLISHED = Counter("bus_published_total", "Messages confirmed by the bus", ["exchange"])
BUS_CONSUMED = Counter("bus_consumed_total", "Messages acknowledged after their effect", ["queue"])
BUS_RETRIES = Counter("bus_retries_total", "Batches that were tried again after a passing fault", ["queue"])
LOG_WRITES_LOST = Counter("log_writes_lost_total", "Writes to the log that failed, such as to a full disk")

SELDOM_S = 10.0

_level = logging.INFO


def set_level(level: str) -> None:
    """Write events of this severity and above from now on."""
    global _level  # noqa: PLW0603 - one log a process
    _level = logging.getLevelNamesMapping()[level]
    logging.getLogger().setLevel(max(_level, logging.WARNING))


def _drop_below_level(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger
    if logging.getLevelNamesMapping()["ERROR" if method == "exception" else method.upper()] < _level:
        raise structlog.DropEvent
    return event


class _Unfailing:
    """A stream for logs: where they cannot be written, what they tell of goes on all the same."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError:
            LOG_WRITES_LOST.inc()

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            LOG_WRITES_LOST.inc()


def setup_logging(*, service: str, level: str, json: bool) -> None:
    """Send structlog and the standard library's logging to stderr, one line an event."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)]
    )
    stream: Any = _Unfailing(sys.stderr)
    structlog.configure(
        processors=[_drop_below_level, *shared, *render],
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[
        structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shared, *render,
    ]))  # fmt: skip
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


class SeldomWarning:
    """A warning that many can have at once, and again and again, such as all streams of a service that is away.

    The first is told at once, and then one line every SELDOM_S, with how many `times` it was since the line before.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._times = 0
        self._quiet_until = 0.0

    def tell(self, **fields: object) -> None:
        """Count it, and write a line if there was none lately."""
        self._times += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            structlog.get_logger().warning(self._event, times=self._times, **fields)
            self._times, self._quiet_until = 0, now + SELDOM_S


def serve_metrics(host: str, port: int) -> None:
    """Serve /metrics on this port of all interfaces, with IPv6 where `host` has it; 0: not at all.

    Raises OSError where the port is taken.
    """
    if port:
        start_http_server(port, addr="::" if ":" in host else "0.0.0.0")  # noqa: S104 - pages for Prometheus
