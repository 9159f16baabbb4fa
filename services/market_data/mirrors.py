"""Mirrors of the matchers' books and newest trades: one stream of each market in, any number of readers out."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import structlog
from exchange.matcher.v1 import book_pb2, matcher_pb2
from prometheus_client import Counter, Gauge

from libs.books import BookHub
from libs.money import own_units
from libs.reasons import RefusedError, away
from libs.tape import TradeHub
from libs.telemetry import SeldomWarning
from services.market_data.cache import LEVELS, MarketCache
from services.market_data.clients import Sources
from services.market_data.core.mirror import Level, MirrorBook

_RETRY_S = 0.2

log = structlog.get_logger()
BOOKS_BROKEN_OFF, TRADES_BROKEN_OFF = SeldomWarning("books broke off"), SeldomWarning("newest trades broke off")
SEQUENCE = Gauge("market_data_book_sequence", "Sequence of the mirrored book", ["symbol"])
BEGUN_ANEW = Counter("market_data_books_begun_anew_total", "Times a book was mirrored from a snapshot", ["symbol"])


class BrokenMirrorError(Exception):
    """A mirror does not show what the matcher says it should."""


class Mirrors:
    """Books to `depth` levels, and the newest trades, of every market that is followed."""

    def __init__(self, *, sources: Sources, cache: MarketCache, depth: int, subscribers_max: int) -> None:
        self._sources = sources
        self._cache = cache
        self._depth = depth
        self._books = BookHub(subscribers_max=subscribers_max, depth_max=depth)
        self._told: dict[str, bool] = {}  # by market: whether its matcher has told its book
        self._trades: TradeHub[matcher_pb2.PublicTrade] = TradeHub(subscribers_max=subscribers_max)

    def expect(self, symbol: str) -> None:
        """A market that is about to be followed: known, but not told yet."""
        self._told.setdefault(symbol, False)
        self._trades.load(symbol, 0)

    async def follow_book(self, symbol: str) -> None:
        """Keep one book, of an expected market, until cancelled."""
        book, sequence = MirrorBook(), 0
        while True:
            try:
                async for update in self._sources.book(symbol, self._depth, after_sequence=sequence):
                    self._take(symbol, book, update)
                    sequence = update.sequence
            except RefusedError as error:
                BOOKS_BROKEN_OFF.tell(symbol=symbol, error=str(error))
            except BrokenMirrorError as error:
                log.error("book begins anew", symbol=symbol, error=str(error))  # noqa: TRY400 - the message says it all
                sequence = 0
            await asyncio.sleep(_RETRY_S)

    async def follow_trades(self, symbol: str) -> None:
        """Keep an expected market's newest trades until cancelled."""
        last = 0
        while True:
            try:
                async for trades in self._sources.newest_trades(symbol, after_sequence=last):
                    last = trades[-1].sequence
                    self._trades.publish(symbol, trades)
            except RefusedError as error:
                TRADES_BROKEN_OFF.tell(symbol=symbol, error=str(error))
            await asyncio.sleep(_RETRY_S)

    def snapshot(self, symbol: str, depth: int) -> book_pb2.Book:
        """The best levels. Raises RefusedError: SYMBOL_UNKNOWN, AMOUNT_OUT_OF_RANGE, DEPENDENCY_UNAVAILABLE."""
        self._check_told(symbol)
        return self._books.snapshot(symbol, depth)

    def newest(self, symbol: str) -> book_pb2.Book | None:
        """A market's mirrored book, as far as it is put into Redis; None where there is none yet."""
        return self._books.snapshot(symbol, min(self._depth, LEVELS)) if self._told.get(symbol) else None

    def books(self, symbol: str, depth: int, after_sequence: int) -> AsyncIterator[book_pb2.Book | book_pb2.BookDelta]:
        """See BookHub.subscribe; raises as `snapshot`, too."""
        self._check_told(symbol)
        return self._books.subscribe(symbol, depth, after_sequence)

    def trades(self, symbol: str, after_sequence: int | None) -> AsyncIterator[list[matcher_pb2.PublicTrade]]:
        """See TradeHub.subscribe."""
        return self._trades.subscribe(symbol, after_sequence)

    def _check_told(self, symbol: str) -> None:
        """A market that is known, but whose matcher has not told its book yet, is not an unknown one."""
        if self._told.get(symbol) is False:
            raise RefusedError(away("matcher"))

    def _take(self, symbol: str, book: MirrorBook, update: book_pb2.Book | book_pb2.BookDelta) -> None:
        asks, bids = _levels(update.asks), _levels(update.bids)
        if isinstance(update, book_pb2.Book):
            book.replace(asks, bids)
            self._books.load(symbol, book, update.sequence)
            self._told[symbol] = True
            BEGUN_ANEW.labels(symbol).inc()
        else:
            book.change(asks, bids)
            self._books.publish({symbol: book})
        shown = self._books.snapshot(symbol, 1)
        if (shown.sequence, shown.checksum) != (update.sequence, update.checksum):
            raise BrokenMirrorError(f"{shown.sequence}/{shown.checksum} is {update.sequence}/{update.checksum}")
        SEQUENCE.labels(symbol).set(update.sequence)
        self._cache.changed(symbol)


def _levels(levels: Iterable[book_pb2.BookLevel]) -> list[Level]:
    return [(own_units(level.price), own_units(level.quantity)) for level in levels]
