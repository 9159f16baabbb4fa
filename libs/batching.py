"""Micro-batching: everything that waits goes into the next batch, and an idle system adds no wait.

Measured: several batches in flight make more and smaller ones, and lose; unless the second begins only when so much waits
that it is a large one, too.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from libs.reasons import Reason, Refused, RefusedError
from libs.telemetry import BATCH_ITEMS, QUEUE_ITEMS

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Coalesces concurrent calls into batches for `handle`, in the order they came.

    `handle` gets 1 to `max_items` items and returns one result per item in the same order. A call's items are never
    split over two batches, so a call may bring at most `max_items`. If `handle` raises, every caller of that batch gets
    the exception and the next batch goes on, unless it is one of `fatal`, which also ends `run`.

    As many batches are in flight as `run` runs. One begins beside another only when at least `beside_from` items wait;
    `handle` is entered in the order they came, and has to keep that order itself.
    """

    def __init__(
        self,
        handle: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        name: str,
        max_items: int,
        max_waiting: int,
        beside_from: int = 1,
        fatal: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._handle = handle
        self._max_items = max_items
        self._max_waiting = max_waiting
        self._beside_from = beside_from
        self._fatal = fatal
        self._calls: deque[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]] = deque()
        self._waiting = 0
        self._in_flight = 0
        self._may_begin = asyncio.Event()
        self._batch_items = BATCH_ITEMS.labels(name)
        self._queue_items = QUEUE_ITEMS.labels(name)
        self._name = name

    def enqueue(self, items: Sequence[Item]) -> asyncio.Future[Sequence[Result]]:
        """Take a place in the queue now; the future has the results. What waits is served in the order of these calls.

        Raises RefusedError(OVERLOADED) where more than `max_waiting` items would wait.
        """
        assert 0 < len(items) <= self._max_items, "callers check their batch limit first"
        if self._waiting + len(items) > self._max_waiting:
            detail = {"queue": self._name, "retry_after_s": "1"}
            raise RefusedError(Refused(Reason.OVERLOADED, detail=detail))
        done: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()
        self._calls.append((items, done))
        self._waiting += len(items)
        self._note()
        return done

    async def submit(self, items: Sequence[Item]) -> Sequence[Result]:
        """Results of these items; errors as in `enqueue`."""
        return await self.enqueue(items)

    async def submit_one(self, item: Item) -> Result:
        """Result of one item; errors as in `submit`."""
        return (await self.submit((item,)))[0]

    async def run(self) -> None:
        """Serve until cancelled; whoever still waits then is cancelled too."""
        try:
            while True:
                await self._may_begin.wait()
                if not self._may_begin.is_set():  # another run was quicker
                    continue
                calls, items = self._take()
                if calls:
                    await self._serve(calls, items)
        finally:
            for _, done in self._calls:
                done.cancel()
            self._calls.clear()

    def _take(self) -> tuple[list[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]], list[Item]]:
        calls = []
        items: list[Item] = []
        while self._calls and len(items) + len(self._calls[0][0]) <= self._max_items:
            call = self._calls.popleft()
            self._waiting -= len(call[0])
            if not call[1].done():  # a caller that gave up while waiting is left out: nothing of it has begun
                calls.append(call)
                items.extend(call[0])
        self._queue_items.set(self._waiting)
        self._note()
        return calls, items

    async def _serve(
        self, calls: list[tuple[Sequence[Item], asyncio.Future[Sequence[Result]]]], items: list[Item]
    ) -> None:
        self._batch_items.observe(len(items))
        self._in_flight += 1
        self._note()
        try:
            results = await self._handle(items)
        except BaseException as error:
            for _, done in calls:
                if not done.done():
                    if isinstance(error, Exception):
                        done.set_exception(error)
                    else:
                        done.cancel()
            if isinstance(error, self._fatal) or not isinstance(error, Exception):
                raise
            return
        finally:
            self._in_flight -= 1
            self._note()
        assert len(results) == len(items), "one result per item"
        start = 0
        for call_items, done in calls:
            end = start + len(call_items)
            if not done.done():
                done.set_result(results[start:end])
            start = end

    def _note(self) -> None:
        """Wake who begins batches where one may begin."""
        if self._calls and (not self._in_flight or self._waiting >= self._beside_from):
            self._may_begin.set()
        else:
            self._may_begin.clear()
