"""Traces of orders (OpenTelemetry, to any OTLP collector such as Jaeger); off, at no cost, unless `tracing.endpoint` is set.

An order's trace id is its own id: whoever has the order has its trace, and no hop (a batch of many orders, the journal, a
broker) needs to carry a context along. A trade belongs to the traces of both of its orders.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from libs.config import Tracing

if TYPE_CHECKING:
    from libs.spans import Traces

_traces: "Traces | None" = None


def setup_tracing(tracing: Tracing, *, service: str) -> None:
    """Send spans from now on, if it is set up."""
    global _traces  # noqa: PLW0603 - one exporter a process
    if tracing.endpoint:
        from libs.spans import Traces  # noqa: PLC0415 - not small, and needed only here

        _traces = Traces(tracing, service)


def end_tracing() -> None:
    """Send what is left."""
    if _traces is not None:
        _traces.close()


@contextmanager
def traced(name: str, order_ids: Callable[[], Iterable[str]], **attributes: str | float) -> Iterator[None]:
    """A step of these orders, from here to its end. `order_ids` is asked only where traces are on."""
    if _traces is None:
        yield
        return
    started_ns = time.time_ns()
    try:
        yield
    finally:
        for order_id in order_ids():
            _traces.emit(name, order_id, started_ns, attributes, is_root=False)


def trace(name: str, order_id: str, started_ns: int, *, is_root: bool = False, **attributes: str | float) -> None:
    """A step of one order that began then and ends now; the root is what the others hang on."""
    if _traces is not None and order_id:
        _traces.emit(name, order_id, started_ns, attributes, is_root=is_root)
