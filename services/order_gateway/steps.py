"""The steps of an order's way, each taken by one batch at a time, in the order in which the batches came to it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import prometheus_client

from libs.tracing import traced
from services.order_gateway.items import Batch

STEP_SECONDS = prometheus_client.Histogram(
    "gateway_step_duration_seconds", "One step of one batch", ["step"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5),
)  # fmt: skip

T = TypeVar("T")


class Step:
    """One step of the way: taken by one batch at a time, in the order in which the batches came to it."""

    def __init__(self, name: str) -> None:
        self._name = f"gateway.{name}"
        self._seconds = STEP_SECONDS.labels(name)
        self._turn = asyncio.Lock()  # is taken in the order in which it was asked for
        self._started: float | None = None

    @property
    def under_way_s(self) -> float:
        """How long the batch whose turn it is has been in this step; 0 where there is none."""
        return 0.0 if self._started is None else time.perf_counter() - self._started

    async def take(self, work: Batch, do: Callable[[], Awaitable[T]]) -> T:
        """What `do` returns, or raises, once it is this batch's turn."""
        async with self._turn:
            self._started = time.perf_counter()
            try:
                with traced(self._name, work.order_ids):
                    return await do()
            finally:
                self._seconds.observe(self.under_way_s)
                self._started = None
