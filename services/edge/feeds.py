"""What sockets read: one upstream stream per subject, however many sockets read it.

A socket that reads too slowly is not buffered: it goes on with what is newest when it is ready again, a book with a new
snapshot.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

import grpc.aio
import structlog
from exchange.market_data.v1 import candle_pb2, market_data_pb2, market_data_pb2_grpc
from exchange.matcher.v1 import book_pb2
from starlette.websockets import WebSocket

from libs.ids import new_id
from libs.money import own_units
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import refused_from_call
from services.edge.backends import MARKET_DATA, Backends, Origin
from services.edge.transcoding import as_json

RING_MAX = 64
_RECONNECT_S = 0.5

log = structlog.get_logger()


class Subject(NamedTuple):
    """What a subscription is about; `option` is a book's depth or a candle's interval."""

    channel: str
    symbol: str
    option: str = ""


class View(Protocol):
    """What is known of a subject: takes responses from upstream, and tells a latecomer the whole."""

    def stream(self, backends: Backends, metadata: tuple[tuple[str, str], ...]) -> AsyncIterator[Any]:
        """Upstream's responses."""

    def take(self, response: Any) -> list[tuple[int, str]]:
        """The messages that a response makes, each with its sequence number; 0 where there are none."""

    def whole(self) -> str | None:
        """One message that stands for everything before it; None where there is nothing yet."""


class BookView:
    """A book to a depth."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._asks: dict[str, str] = {}
        self._bids: dict[str, str] = {}
        self._head: dict[str, Any] = {}

    def stream(self, backends: Backends, metadata: tuple[tuple[str, str], ...]) -> AsyncIterator[Any]:
        """See View."""
        stub = market_data_pb2_grpc.MarketDataServiceStub(backends.channel(MARKET_DATA))
        request = market_data_pb2.StreamBookRequest(symbol=self._subject.symbol, depth=int(self._subject.option))
        return aiter(stub.StreamBook(request, metadata=metadata))

    def take(self, response: market_data_pb2.StreamBookResponse) -> list[tuple[int, str]]:
        """See View."""
        book: book_pb2.Book | book_pb2.BookDelta
        if response.HasField("snapshot"):
            book = response.snapshot
            self._asks, self._bids = {}, {}
            kind = "snapshot"
        else:
            book, kind = response.delta, "delta"
        for side, levels in ((self._asks, book.asks), (self._bids, book.bids)):
            for level in levels:
                if level.quantity == "0":
                    side.pop(level.price, None)
                else:
                    side[level.price] = level.quantity
        self._head = {"symbol": book.symbol, "sequence": book.sequence, "checksum": book.checksum}
        changed = {
            "asks": [[level.price, level.quantity] for level in book.asks],
            "bids": [[level.price, level.quantity] for level in book.bids],
        }
        return [(book.sequence, json.dumps({"channel": "book", "type": kind, **self._head, **changed}))]

    def whole(self) -> str | None:
        """See View."""
        if not self._head:
            return None
        asks = sorted(self._asks.items(), key=_price)
        bids = sorted(self._bids.items(), key=_price, reverse=True)
        return json.dumps({"channel": "book", "type": "snapshot", **self._head, "asks": asks, "bids": bids})


class TradesView:
    """New trades. Their numbers show a slow reader what it missed; `/api/v1/trades` has it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._after: int | None = None

    def stream(self, backends: Backends, metadata: tuple[tuple[str, str], ...]) -> AsyncIterator[Any]:
        """See View."""
        stub = market_data_pb2_grpc.MarketDataServiceStub(backends.channel(MARKET_DATA))
        request = market_data_pb2.StreamTradesRequest(symbol=self._subject.symbol, after_sequence=self._after)
        return aiter(stub.StreamTrades(request, metadata=metadata))

    def take(self, response: market_data_pb2.StreamTradesResponse) -> list[tuple[int, str]]:
        """See View."""
        self._after = response.trades[-1].sequence
        trades = [as_json(trade) for trade in response.trades]
        content = {"channel": "trades", "symbol": self._subject.symbol, "sequence": self._after, "trades": trades}
        return [(self._after, json.dumps(content))]

    def whole(self) -> str | None:
        """See View: who comes now hears what comes."""
        return None


class TickerView:
    """The last 24 hours."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._newest: str | None = None

    def stream(self, backends: Backends, metadata: tuple[tuple[str, str], ...]) -> AsyncIterator[Any]:
        """See View."""
        stub = market_data_pb2_grpc.MarketDataServiceStub(backends.channel(MARKET_DATA))
        request = market_data_pb2.StreamTickersRequest(symbol=self._subject.symbol)
        return aiter(stub.StreamTickers(request, metadata=metadata))

    def take(self, response: market_data_pb2.StreamTickersResponse) -> list[tuple[int, str]]:
        """See View."""
        self._newest = json.dumps({"channel": "ticker", **as_json(response.ticker)})
        return [(0, self._newest)]

    def whole(self) -> str | None:
        """See View."""
        return self._newest


class CandlesView:
    """The newest candle of an interval."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._newest: str | None = None

    def stream(self, backends: Backends, metadata: tuple[tuple[str, str], ...]) -> AsyncIterator[Any]:
        """See View."""
        stub = market_data_pb2_grpc.MarketDataServiceStub(backends.channel(MARKET_DATA))
        interval = candle_pb2.CandleInterval.Value(f"CANDLE_INTERVAL_{self._subject.option.upper()}")
        request = market_data_pb2.StreamCandlesRequest(symbol=self._subject.symbol, interval=interval)
        return aiter(stub.StreamCandles(request, metadata=metadata))

    def take(self, response: market_data_pb2.StreamCandlesResponse) -> list[tuple[int, str]]:
        """See View."""
        content = {**as_json(response.candle), "interval": self._subject.option}
        self._newest = json.dumps({"channel": "candles", **content})
        return [(0, self._newest)]

    def whole(self) -> str | None:
        """See View."""
        return self._newest


VIEWS: dict[str, type[BookView | TradesView | TickerView | CandlesView]] = {
    "book": BookView,
    "trades": TradesView,
    "ticker": TickerView,
    "candles": CandlesView,
}


class _Feed:
    """A subject's view, and the last messages about it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.readers = 0
        self.number = 0
        self.ring: deque[tuple[int, int, str]] = deque(maxlen=RING_MAX)
        self.refused: Refused | None = None
        self.moved = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def take(self, response: Any) -> None:
        """Remember what upstream says, and wake the readers."""
        for sequence, text in self.view.take(response):
            self.number += 1
            self.ring.append((self.number, sequence, text))
        self.wake()

    def told_up_to(self, after: int) -> int:
        """The number of the message after which a reader goes on that has seen sequence `after`; 0: it begins anew."""
        for number, sequence, _ in self.ring:
            if after and sequence == after:
                return number
        return 0 if self.view.whole() is not None else self.number

    def refuse(self, refused: Refused) -> None:
        """Upstream said no for good."""
        self.refused = refused
        self.wake()

    def after(self, told: int) -> list[tuple[int, str]]:
        """What a reader is told next: what it missed, or the whole where the ring no longer has that."""
        missed = [(number, text) for number, _, text in self.ring if number > told]
        whole = self.view.whole()
        if whole is not None and (not told or missed[0][0] != told + 1):
            return [(self.number, whole)]
        return missed

    def wake(self) -> None:
        """Wake the readers."""
        self.moved.set()
        self.moved = asyncio.Event()


class Feeds:
    """Feeds by subject; each lives while somebody reads it."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._feeds: dict[Subject, _Feed] = {}

    async def send_all(self, socket: WebSocket, subject: Subject, *, after: int = 0) -> None:
        """Send a subject's messages to a socket until cancelled. Raises RefusedError(SYMBOL_UNKNOWN).

        Who has seen sequence `after` goes on there, where that is still remembered.
        """
        feed = self._feeds.get(subject)
        if feed is None:
            feed = self._feeds[subject] = _Feed(VIEWS[subject.channel](subject))
            feed.task = asyncio.create_task(self._follow(feed, subject))
        feed.readers += 1
        told = feed.told_up_to(after)
        try:
            while True:
                moved = feed.moved
                if feed.refused is not None:
                    raise RefusedError(feed.refused)
                if told < feed.number:
                    for number, text in feed.after(told):
                        await socket.send_text(text)
                        told = number
                    continue
                await moved.wait()
        finally:
            feed.readers -= 1
            if feed.readers == 0:
                self._feeds.pop(subject, None)
                if feed.task is not None:
                    feed.task.cancel()

    async def _follow(self, feed: _Feed, subject: Subject) -> None:
        while True:
            metadata = self._backends.metadata(MARKET_DATA, Origin(None, "", new_id()))
            try:
                async for response in feed.view.stream(self._backends, metadata):
                    feed.take(response)
            except grpc.aio.AioRpcError as error:
                refused = refused_from_call(error, dependency=subject.channel).refused
                if refused.reason is Reason.SYMBOL_UNKNOWN:
                    feed.refuse(refused)
                    return
                log.warning("stream lost", channel=subject.channel, symbol=subject.symbol, refused=str(refused))
            except Exception:
                log.exception("unexpected fault in a feed", channel=subject.channel, symbol=subject.symbol)
                feed.refuse(Refused(Reason.INTERNAL))
                return
            await asyncio.sleep(_RECONNECT_S)


def _price(level: tuple[str, str]) -> int:
    return own_units(level[0])
