import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from libs.batching import Batcher
from libs.reasons import RefusedError


class Recorder:
    """A handler that can be held, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: BaseException | None = None

    async def handle(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        return [item * 10 for item in items]


@contextlib.asynccontextmanager
async def running(recorder: Recorder, *, runs: int = 1, **limits) -> AsyncIterator[Batcher[int, int]]:
    options = {"max_items": 5, "max_waiting": 10, **limits}
    batcher: Batcher[int, int] = Batcher(recorder.handle, name="test", **options)
    tasks = [asyncio.create_task(batcher.run()) for _ in range(runs)]
    yield batcher
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def a_moment() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_idle_batcher_serves_one_at_once() -> None:
    recorder = Recorder()
    async with running(recorder) as batcher:
        assert await batcher.submit_one(1) == 10
        assert recorder.batches == [[1]]


async def test_what_waits_goes_into_the_next_batch_in_order_and_calls_are_not_split() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with running(recorder) as batcher:
        first = batcher.enqueue([1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = [batcher.enqueue(items) for items in ([2, 3], [4], [5, 6, 7])]
        recorder.gate.set()
        assert await first == [10]
        assert [await future for future in others] == [[20, 30], [40], [50, 60, 70]]
        assert recorder.batches == [[1], [2, 3, 4], [5, 6, 7]]


async def test_more_than_may_wait_is_refused_and_the_rest_goes_on() -> None:
    recorder = Recorder()
    async with running(recorder, max_waiting=3) as batcher:
        futures = [batcher.enqueue([n]) for n in range(3)]
        with pytest.raises(RefusedError, match="OVERLOADED"):
            batcher.enqueue([9])
        assert [await future for future in futures] == [[0], [10], [20]]
        assert await batcher.submit_one(4) == 40


async def test_a_failing_batch_fails_its_callers_only() -> None:
    recorder = Recorder()
    recorder.fail = ValueError("no")
    async with running(recorder) as batcher:
        with pytest.raises(ValueError, match="no"):
            await batcher.submit_one(1)
        recorder.fail = None
        assert await batcher.submit_one(2) == 20


async def test_a_fatal_fault_ends_the_batcher() -> None:
    recorder = Recorder()
    recorder.fail = KeyError("fatal")
    batcher: Batcher[int, int] = Batcher(recorder.handle, name="test", max_items=5, max_waiting=10, fatal=(KeyError,))
    task = asyncio.create_task(batcher.run())
    with pytest.raises(KeyError):
        await batcher.submit_one(1)
    with pytest.raises(KeyError):
        await task


async def test_a_caller_that_gave_up_while_waiting_is_left_out() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with running(recorder) as batcher:
        first = batcher.enqueue([1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second, third = batcher.enqueue([2]), batcher.enqueue([3])
        second.cancel()
        recorder.gate.set()
        assert await first == [10]
        assert await third == [30]
        assert recorder.batches == [[1], [3]]


async def test_stopping_cancels_who_waits() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with running(recorder) as batcher:
        waiting = [batcher.enqueue([n]) for n in range(2)]
        await asyncio.sleep(0)
    for future in waiting:
        with pytest.raises(asyncio.CancelledError):
            await future


async def test_a_batch_begins_beside_another_only_when_enough_waits() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with running(recorder, runs=2, beside_from=3) as batcher:
        futures = [batcher.enqueue([1])]
        await a_moment()
        futures += [batcher.enqueue([2]), batcher.enqueue([3])]
        await a_moment()
        assert recorder.batches == [[1]], "two are not worth a batch of their own"
        futures.append(batcher.enqueue([4]))
        await a_moment()
        assert recorder.batches == [[1], [2, 3, 4]]
        futures.append(batcher.enqueue([5, 6, 7]))
        await a_moment()
        assert recorder.batches == [[1], [2, 3, 4]], "never more in flight than it runs"
        recorder.gate.set()
        assert [await future for future in futures] == [[10], [20], [30], [40], [50, 60, 70]]


async def test_an_idle_batcher_that_runs_twice_serves_one_at_once() -> None:
    recorder = Recorder()
    async with running(recorder, runs=2, beside_from=3) as batcher:
        assert [await batcher.submit_one(number) for number in (1, 2)] == [10, 20]
        assert recorder.batches == [[1], [2]]
