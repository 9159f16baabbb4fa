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
from libs.seats import Seats
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
        self.left_at = 0  # the sequence at which its last reader went
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
    def __init__(self, book: Book, sequence: int = 0) -> None:
        self.book = book
        self.sequence = sequence
        self.views: dict[int, _View] = {}
        self.moved = asyncio.Event()


class BookHub:
    """Views and subscribers of all books of this shard."""

    def __init__(self, *, subscribers_max: int) -> None:
        self._markets: dict[str, _Market] = {}
        self._seats = Seats(subscribers_max, SUBSCRIBERS)

    def load(self, symbol: str, book: Book, sequence: int) -> None:
        """Show a book as it was recovered, numbered from here on.

        `sequence` is the last command of the journal: no book has changed more often, so that no number comes twice.
        """
        self._markets[symbol] = _Market(book, sequence)
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
                for view in list(market.views.values()):
                    view.advance(book, market.sequence, checksum)
                    if not view.readers and market.sequence - view.left_at > RING_MAX:
                        del market.views[view.depth]  # who comes back now could not go on anyway
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

    async def subscribe(
        self, symbol: str, depth: int, after_sequence: int = 0
    ) -> AsyncIterator[matcher_pb2.StreamBookResponse]:
        """A snapshot, then deltas; a snapshot again for who was too slow.

        Who comes back and names the sequence it has goes on with deltas, if the ring still reaches back to there.
        Raises RefusedError as `snapshot` does, and TOO_MANY_SUBSCRIBERS.
        """
        market, depth = self._market(symbol), _checked_depth(depth)
        with self._seats.one():
            view = self._open_view(market, symbol, depth)
            told = after_sequence or -1
            if told > market.sequence:  # of a future that was never committed
                told = -1
            try:
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
            raise RefusedError(Refused(Reason.SYMBOL_UNKNOWN, field="symbol", detail={"symbol": symbol[:40]}))
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
