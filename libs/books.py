"""What the world sees of the books: the newest view per symbol, and a short ring of deltas for those who keep up.

Who publishes never waits for a subscriber, and no subscriber has a queue: each remembers the sequence it was last told, and
is told the deltas since, or, where the ring no longer has them, a new snapshot. The matcher tells its own books so, market
data what it mirrors of them.
"""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from exchange.matcher.v1 import book_pb2, matcher_pb2
from prometheus_client import Gauge

from libs.money import format_units
from libs.orders import Side
from libs.reasons import Reason, Refused, RefusedError, symbol_unknown
from libs.seats import Seats

DEPTH_DEFAULT = 20
RING_MAX = 256
VIEWS_MAX = 64
CHECKSUM_LEVELS = 10

SUBSCRIBERS = Gauge("book_stream_subscribers", "Open StreamBook calls")

Levels = dict[int, int]


class Book(Protocol):
    """A book as it is told: the matcher's own, or a mirror of it."""

    changed: bool

    def depth(self, side: Side, levels: int) -> list[tuple[int, int]]:
        """(price, quantity shown) of the best levels, best first."""


class _View:
    """One symbol to one depth, as its subscribers know it."""

    def __init__(self, symbol: str, depth: int) -> None:
        self.symbol = symbol
        self.depth = depth
        self.readers = 0
        self.left_at = 0  # the sequence at which its last reader went
        self.asks: Levels = {}
        self.bids: Levels = {}
        self.ring: deque[book_pb2.BookDelta] = deque(maxlen=RING_MAX)

    def begin(self, book: Book) -> None:
        """Forget what was, and show this."""
        self.asks = dict(book.depth(Side.SELL, self.depth))
        self.bids = dict(book.depth(Side.BUY, self.depth))
        self.ring.clear()

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
        self.ring.append(delta)
        self.asks, self.bids = asks, bids


class _Market:
    def __init__(self, book: Book, sequence: int = 0) -> None:
        self.book = book
        self.sequence = sequence
        self.views: dict[int, _View] = {}
        self.moved = asyncio.Event()

    def wake(self) -> None:
        """Wake the subscribers."""
        self.moved.set()
        self.moved = asyncio.Event()


class BookHub:
    """Views and subscribers of all books of this process, to a depth of at most `depth_max` levels."""

    def __init__(self, *, subscribers_max: int, depth_max: int) -> None:
        self._markets: dict[str, _Market] = {}
        self._seats = Seats(subscribers_max, SUBSCRIBERS)
        self._depth_max = depth_max

    def load(self, symbol: str, book: Book, sequence: int) -> None:
        """Show a book as it was recovered, numbered from here on; who had it before is told the whole.

        A sequence never stands for two states: a matcher's begins at the last command of its journal, and no book has
        changed more often than that.
        """
        before = self._markets.get(symbol)
        market = self._markets[symbol] = before or _Market(book)
        market.book, market.sequence = book, sequence
        book.changed = False
        for view in market.views.values():
            view.begin(book)
        market.wake()

    def publish(self, changed: Mapping[str, Book]) -> None:
        """Tell what a commit changed."""
        for symbol, book in changed.items():
            book.changed = False
            market = self._markets.get(symbol)
            if market is None:
                market = self._markets[symbol] = _Market(book)
            market.sequence += 1
            if market.views:
                checksum = book_checksum(book)
                for view in list(market.views.values()):
                    view.advance(book, market.sequence, checksum)
                    if not view.readers and market.sequence - view.left_at > RING_MAX:
                        del market.views[view.depth]  # who comes back now could not go on anyway
            market.wake()

    def snapshot(self, symbol: str, depth: int) -> book_pb2.Book:
        """The best levels. Raises RefusedError (SYMBOL_UNKNOWN, AMOUNT_OUT_OF_RANGE for the depth)."""
        market, depth = self._market(symbol), self._checked_depth(depth)
        return book_pb2.Book(
            symbol=symbol,
            sequence=market.sequence,
            asks=[_level(*item) for item in market.book.depth(Side.SELL, depth)],
            bids=[_level(*item) for item in market.book.depth(Side.BUY, depth)],
            checksum=book_checksum(market.book),
        )

    async def subscribe(
        self, symbol: str, depth: int, after_sequence: int = 0
    ) -> AsyncIterator[book_pb2.Book | book_pb2.BookDelta]:
        """A snapshot, then deltas; a snapshot again for who was too slow.

        Who comes back and names the sequence it has goes on with deltas, if the ring still reaches back to there.
        Raises RefusedError as `snapshot` does, and TOO_MANY_SUBSCRIBERS.
        """
        market, depth = self._market(symbol), self._checked_depth(depth)
        with self._seats.one():
            view = self._open_view(market, symbol, depth)
            told = after_sequence or -1
            if told > market.sequence:  # of a future that was never committed
                told = -1
            try:
                while True:
                    moved = market.moved
                    if told < market.sequence:
                        missed = market.sequence - told
                        changes = [view.ring[-place] for place in range(min(missed, len(view.ring)), 0, -1)]
                        if told >= 0 and changes and changes[0].sequence == told + 1:
                            for change in changes:
                                yield change
                                told = change.sequence
                        else:
                            told = market.sequence
                            yield self.snapshot(symbol, depth)
                        continue
                    await moved.wait()
            finally:
                view.readers -= 1
                view.left_at = market.sequence

    async def tops(self, symbol: str) -> AsyncIterator[matcher_pb2.StreamTopOfBookResponse]:
        """The best levels whenever they change; who is slow is told the newest. Raises as `subscribe`."""
        market = self._market(symbol)
        with self._seats.one():
            told: matcher_pb2.StreamTopOfBookResponse | None = None
            while True:
                moved = market.moved
                ask, bid = market.book.depth(Side.SELL, 1), market.book.depth(Side.BUY, 1)
                top = matcher_pb2.StreamTopOfBookResponse(
                    symbol=symbol,
                    ask=_level(*ask[0]) if ask else None,
                    bid=_level(*bid[0]) if bid else None,
                )
                if told is None or (top.ask, top.bid) != (told.ask, told.bid):
                    told = top
                    yield matcher_pb2.StreamTopOfBookResponse(
                        symbol=symbol,
                        sequence=market.sequence,
                        ask=told.ask if ask else None,
                        bid=told.bid if bid else None,
                    )
                    continue
                await moved.wait()

    def _market(self, symbol: str) -> _Market:
        market = self._markets.get(symbol)
        if market is None:
            raise RefusedError(symbol_unknown(symbol))
        return market

    def _open_view(self, market: _Market, symbol: str, depth: int) -> _View:
        view = market.views.get(depth)
        if view is None:
            for idle in [other.depth for other in market.views.values() if not other.readers]:
                if len(market.views) >= VIEWS_MAX:
                    del market.views[idle]
            if len(market.views) >= VIEWS_MAX:
                rule = f"at most {VIEWS_MAX} different depths at a time"
                raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, field="depth", rule=rule))
            view = market.views[depth] = _View(symbol, depth)
            view.begin(market.book)
        view.readers += 1
        return view

    def _checked_depth(self, depth: int) -> int:
        if depth == 0:
            return DEPTH_DEFAULT
        if not 1 <= depth <= self._depth_max:
            raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="depth", rule=f"1 to {self._depth_max}"))
        return depth


def book_checksum(book: Book) -> int:
    """CRC32 as Kraken's WebSocket v2 book: ten best asks, then bids; price and quantity without point and leading zeros.

    The digits are those of the decimal strings that the stream sends. Source: Kraken API docs, guides/spot-ws-book-v2.
    """
    levels = [*book.depth(Side.SELL, CHECKSUM_LEVELS), *book.depth(Side.BUY, CHECKSUM_LEVELS)]
    return zlib.crc32("".join(_digits(price) + _digits(quantity) for price, quantity in levels).encode("ascii"))


def _digits(units: int) -> str:
    return format_units(units).replace(".", "").lstrip("0")


def _difference(before: Levels, after: Levels) -> list[book_pb2.BookLevel]:
    gone = [_level(price, 0) for price in before if price not in after]
    return gone + [_level(price, quantity) for price, quantity in after.items() if before.get(price) != quantity]


def _level(price: int, quantity: int) -> book_pb2.BookLevel:
    return book_pb2.BookLevel(price=format_units(price), quantity=format_units(quantity))
