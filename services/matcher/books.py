"""What the world sees of the books: the newest view per symbol, and a short ring of deltas for those who keep up.

The matcher never waits for a subscriber, and no subscriber has a queue: each remembers the sequence it was last told, and
is told the deltas since, or, where the ring no longer has them, a new snapshot.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from exchange.matcher.v1 import book_pb2, matcher_pb2
from prometheus_client import Gauge

from libs.money import format_units
from libs.orders import Side
from libs.reasons import Reason, Refused, RefusedError
from services.matcher.core.book import Book

DEPTH_DEFAULT = 20
DEPTH_MAX = 1000
RING_MAX = 256
VIEWS_MAX = 64
CHECKSUM_LEVELS = 10

SUBSCRIBERS = Gauge("book_stream_subscribers", "Open StreamBook calls")

Levels = dict[int, int]


@dataclass(frozen=True, slots=True)
class _Change:
    sequence: int
    response: matcher_pb2.StreamBookResponse


class _View:
    """One symbol to one depth, as its subscribers know it."""

    def __init__(self, symbol: str, depth: int) -> None:
        self.symbol = symbol
        self.depth = depth
        self.readers = 0
        self.asks: Levels = {}
        self.bids: Levels = {}
        self.ring: deque[_Change] = deque(maxlen=RING_MAX)

    def advance(self, book: Book, sequence: int, checksum: int) -> None:
        """Work out what changed since the last commit. An empty delta keeps the sequence gapless."""
        asks = dict(book.depth(Side.SELL, self.depth))
        bids = dict(book.depth(Side.BUY, self.depth))
        delta = book_pb2.BookDelta(
            symbol=self.symbol,
            sequence=sequence,
            asks=_difference(self.asks, asks),
            bids=_difference(self.bids, bids),
            checksum=checksum,
        )
        self.ring.append(_Change(sequence, matcher_pb2.StreamBookResponse(delta=delta)))
        self.asks, self.bids = asks, bids


class _Market:
    def __init__(self, book: Book) -> None:
        self.book = book
        self.sequence = 0
        self.views: dict[int, _View] = {}
        self.moved = asyncio.Event()


class BookHub:
    """Views and subscribers of all books of this shard."""

    def __init__(self, *, subscribers_max: int) -> None:
        self._markets: dict[str, _Market] = {}
        self._subscribers_max = subscribers_max
        self._subscribers = 0

    def load(self, symbol: str, book: Book) -> None:
        """Show a book as it was recovered."""
        self._markets[symbol] = _Market(book)
        book.changed = False

    def publish(self, changed: dict[str, Book]) -> None:
        """Tell what a commit changed."""
        for symbol, book in changed.items():
            book.changed = False
            market = self._markets.get(symbol)
            if market is None:
                market = self._markets[symbol] = _Market(book)
            market.sequence += 1
            if market.views:
                checksum = book_checksum(book)
                for view in market.views.values():
                    view.advance(book, market.sequence, checksum)
            market.moved.set()
            market.moved = asyncio.Event()

    def snapshot(self, symbol: str, depth: int) -> book_pb2.Book:
        """The best levels. Raises RefusedError (SYMBOL_UNKNOWN, AMOUNT_OUT_OF_RANGE for the depth)."""
        market, depth = self._market(symbol), _checked_depth(depth)
        return book_pb2.Book(
            symbol=symbol,
            sequence=market.sequence,
            asks=[_level(*item) for item in market.book.depth(Side.SELL, depth)],
            bids=[_level(*item) for item in market.book.depth(Side.BUY, depth)],
            checksum=book_checksum(market.book),
        )

    async def subscribe(self, symbol: str, depth: int) -> AsyncIterator[matcher_pb2.StreamBookResponse]:
        """A snapshot, then deltas; a snapshot again for who was too slow.

        Raises RefusedError as `snapshot` does, and TOO_MANY_SUBSCRIBERS.
        """
        market, depth = self._market(symbol), _checked_depth(depth)
        if self._subscribers >= self._subscribers_max:
            raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=f"at most {self._subscribers_max}"))
        view = self._open_view(market, symbol, depth)
        self._subscribers += 1
        SUBSCRIBERS.set(self._subscribers)
        try:
            told = -1
            while True:
                moved = market.moved
                if told < market.sequence:
                    changes = [change for change in view.ring if change.sequence > told]
                    if told >= 0 and changes and changes[0].sequence == told + 1:
                        for change in changes:
                            yield change.response
                            told = change.sequence
                    else:
                        told = market.sequence
                        yield matcher_pb2.StreamBookResponse(snapshot=self.snapshot(symbol, depth))
                    continue
                await moved.wait()
        finally:
            self._subscribers -= 1
            SUBSCRIBERS.set(self._subscribers)
            view.readers -= 1
            if view.readers == 0:
                market.views.pop(depth, None)

    def _market(self, symbol: str) -> _Market:
        market = self._markets.get(symbol)
        if market is None:
            raise RefusedError(Refused(Reason.SYMBOL_UNKNOWN, field="symbol", detail={"symbol": symbol[:40]}))
        return market

    def _open_view(self, market: _Market, symbol: str, depth: int) -> _View:
        view = market.views.get(depth)
        if view is None:
            if len(market.views) >= VIEWS_MAX:
                rule = f"at most {VIEWS_MAX} different depths at a time"
                raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, field="depth", rule=rule))
            view = market.views[depth] = _View(symbol, depth)
            view.asks = dict(market.book.depth(Side.SELL, depth))
            view.bids = dict(market.book.depth(Side.BUY, depth))
        view.readers += 1
        return view


def book_checksum(book: Book) -> int:
    """CRC32 as Kraken's WebSocket v2 book: ten best asks, then bids; price and quantity without point and leading zeros.

    The digits are those of the decimal strings that the stream sends. Source: Kraken API docs, guides/spot-ws-book-v2.
    """
    levels = [*book.depth(Side.SELL, CHECKSUM_LEVELS), *book.depth(Side.BUY, CHECKSUM_LEVELS)]
    return zlib.crc32("".join(_digits(price) + _digits(quantity) for price, quantity in levels).encode("ascii"))


def _digits(units: int) -> str:
    return format_units(units).replace(".", "").lstrip("0")


def _checked_depth(depth: int) -> int:
    if depth == 0:
        return DEPTH_DEFAULT
    if not 1 <= depth <= DEPTH_MAX:
        raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="depth", rule=f"1 to {DEPTH_MAX}"))
    return depth


def _difference(before: Levels, after: Levels) -> list[book_pb2.BookLevel]:
    gone = [_level(price, 0) for price in before if price not in after]
    return gone + [_level(price, quantity) for price, quantity in after.items() if before.get(price) != quantity]


def _level(price: int, quantity: int) -> book_pb2.BookLevel:
    return book_pb2.BookLevel(price=format_units(price), quantity=format_units(quantity))
