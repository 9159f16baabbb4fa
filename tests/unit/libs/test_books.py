"""How many views of a book there are: those that somebody reads, and for a while those that somebody may come back to."""

from collections.abc import AsyncIterator

import pytest
from exchange.matcher.v1 import book_pb2

from libs.books import RING_MAX, VIEWS_MAX, BookHub
from libs.orders import Side
from libs.reasons import RefusedError

SYMBOL = "BTC/USDT"


class Book:
    """One bid, whose quantity changes."""

    def __init__(self) -> None:
        self.changed = False
        self.quantity = 1

    def depth(self, side: Side, levels: int) -> list[tuple[int, int]]:
        return [(100, self.quantity)][:levels] if side is Side.BUY else []


class Told:
    def __init__(self) -> None:
        self.book = Book()
        self.hub = BookHub(subscribers_max=VIEWS_MAX + 10, depth_max=1000)
        self.hub.load(SYMBOL, self.book, 0)

    def change(self, times: int = 1) -> None:
        for _ in range(times):
            self.book.quantity += 1
            self.hub.publish({SYMBOL: self.book})

    async def reader(self, depth: int, after: int = 0) -> AsyncIterator[book_pb2.Book | book_pb2.BookDelta]:
        stream = self.hub.subscribe(SYMBOL, depth, after)
        await anext(stream)
        return stream

    @property
    def views(self) -> set[int]:
        return set(self.hub._markets[SYMBOL].views)


async def test_a_view_that_nobody_can_go_on_with_is_forgotten() -> None:
    told = Told()
    stays, leaves = await told.reader(5), await told.reader(7)
    told.change()
    await leaves.aclose()
    told.change(RING_MAX)
    assert told.views == {5, 7}, "who had the last one it was told can still go on"
    told.change()
    assert told.views == {5}
    assert (await anext(stays)).sequence == RING_MAX + 2, "the whole: it was too slow for the ring"
    await stays.aclose()


async def test_a_view_that_is_read_is_kept_however_long() -> None:
    told = Told()
    reader = await told.reader(5)
    told.change(3 * RING_MAX)
    assert told.views == {5}
    await reader.aclose()


async def test_who_comes_back_in_time_is_told_what_it_missed() -> None:
    told = Told()
    reader = await told.reader(5)
    told.change()
    await reader.aclose()
    told.change(RING_MAX)
    again = told.hub.subscribe(SYMBOL, 5, 1)
    assert [(await anext(again)).sequence for _ in range(3)] == [2, 3, 4]
    await again.aclose()


async def test_there_are_so_many_depths_and_no_more() -> None:
    told = Told()
    readers = [await told.reader(depth) for depth in range(1, VIEWS_MAX + 1)]
    with pytest.raises(RefusedError, match="different depths"):
        await told.reader(VIEWS_MAX + 1)
    await readers[0].aclose()
    another = await told.reader(VIEWS_MAX + 1)
    assert told.views == set(range(2, VIEWS_MAX + 2)), "the place of one that nobody reads"
    for reader in (*readers[1:], another):
        await reader.aclose()
