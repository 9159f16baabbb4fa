"""`/ws`: subscribe to books. One upstream stream per book and depth, however many sockets read it.

A socket that reads too slowly is not buffered: it is sent a new snapshot when it is ready again.
"""

import asyncio
import json
from collections import deque
from typing import Any

import grpc.aio
import structlog
from exchange.matcher.v1 import book_pb2, matcher_pb2, matcher_pb2_grpc
from prometheus_client import Gauge
from starlette.websockets import WebSocket, WebSocketDisconnect

from libs.ids import new_id
from libs.money import parse_units
from libs.orders import symbol_name
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import refused_from_call
from services.edge.backends import MATCHER, Backends

DEPTHS = (5, 20, 100)
SUBSCRIPTIONS_MAX = 20
MESSAGE_MAX_CHARS = 4096
RING_MAX = 64
_RECONNECT_S = 0.5

log = structlog.get_logger()
SOCKETS = Gauge("websocket_connections", "Open WebSocket connections")


class _Feed:
    """One book as it is upstream, and the last messages about it."""

    def __init__(self) -> None:
        self.readers = 0
        self.number = 0
        self.ring: deque[tuple[int, str]] = deque(maxlen=RING_MAX)
        self.asks: dict[str, str] = {}
        self.bids: dict[str, str] = {}
        self.head: dict[str, Any] = {}
        self.refused: Refused | None = None
        self.moved = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def take(self, response: matcher_pb2.StreamBookResponse) -> None:
        """Apply what upstream says, and wake the readers."""
        book: book_pb2.Book | book_pb2.BookDelta
        if response.HasField("snapshot"):
            book = response.snapshot
            self.asks, self.bids = {}, {}
            kind = "snapshot"
        else:
            book, kind = response.delta, "delta"
        for side, levels in ((self.asks, book.asks), (self.bids, book.bids)):
            for level in levels:
                if level.quantity == "0":
                    side.pop(level.price, None)
                else:
                    side[level.price] = level.quantity
        self.head = {"symbol": book.symbol, "sequence": book.sequence, "checksum": book.checksum}
        changed = {
            "asks": [[level.price, level.quantity] for level in book.asks],
            "bids": [[level.price, level.quantity] for level in book.bids],
        }
        self.number += 1
        self.ring.append((self.number, json.dumps({"channel": "book", "type": kind, **self.head, **changed})))
        self._wake()

    def refuse(self, refused: Refused) -> None:
        """Upstream said no for good."""
        self.refused = refused
        self._wake()

    def snapshot(self) -> str:
        """The book as it is now, for a reader that has nothing yet or fell behind."""
        asks = sorted(self.asks.items(), key=_price)
        bids = sorted(self.bids.items(), key=_price, reverse=True)
        return json.dumps({"channel": "book", "type": "snapshot", **self.head, "asks": asks, "bids": bids})

    def _wake(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()


class BookFeeds:
    """Feeds by symbol and depth; each lives while somebody reads it."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._feeds: dict[tuple[str, int], _Feed] = {}

    async def send_all(self, socket: WebSocket, symbol: str, depth: int) -> None:
        """Send a book to a socket until cancelled. Raises RefusedError(SYMBOL_UNKNOWN)."""
        key = (symbol, depth)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = _Feed()
            feed.task = asyncio.create_task(self._follow(feed, symbol, depth))
        feed.readers += 1
        told = 0
        try:
            while True:
                moved = feed.moved
                if feed.refused is not None:
                    raise RefusedError(feed.refused)
                if told < feed.number:
                    missed = [(number, text) for number, text in feed.ring if number > told]
                    if told and missed[0][0] == told + 1:
                        for number, text in missed:
                            await socket.send_text(text)
                            told = number
                    else:
                        told = feed.number
                        await socket.send_text(feed.snapshot())
                    continue
                await moved.wait()
        finally:
            feed.readers -= 1
            if feed.readers == 0:
                self._feeds.pop(key, None)
                if feed.task is not None:
                    feed.task.cancel()

    async def _follow(self, feed: _Feed, symbol: str, depth: int) -> None:
        stub = matcher_pb2_grpc.MatcherServiceStub(self._backends.channel(MATCHER))
        request = matcher_pb2.StreamBookRequest(symbol=symbol, depth=depth)
        while True:
            metadata = self._backends.metadata(MATCHER, authorization="", request_id=new_id())
            try:
                async for response in stub.StreamBook(request, metadata=metadata):
                    feed.take(response)
            except grpc.aio.AioRpcError as error:
                refused = refused_from_call(error, dependency="matcher").refused
                if refused.reason is Reason.SYMBOL_UNKNOWN:
                    feed.refuse(refused)
                    return
                log.warning("book stream lost", symbol=symbol, refused=str(refused))
            await asyncio.sleep(_RECONNECT_S)


class BookSocket:
    """One WebSocket connection.

    It takes `{"op":"subscribe","channel":"book","symbol":"BTC/USDT","depth":20}`, `unsubscribe` likewise, and `ping`. Bad
    messages are answered with an error that names the field, and change nothing.
    """

    def __init__(self, socket: WebSocket, feeds: BookFeeds) -> None:
        self._socket = socket
        self._feeds = feeds
        self._subscriptions: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve until the other side closes."""
        await self._socket.accept()
        SOCKETS.inc()
        try:
            while True:
                await self._answer(await self._socket.receive_text())
        except WebSocketDisconnect:
            pass
        finally:
            SOCKETS.dec()
            for task in self._subscriptions.values():
                task.cancel()

    async def _answer(self, text: str) -> None:
        try:
            await self._do(_message(text))
        except RefusedError as error:
            await self._send_error(error.refused)

    async def _do(self, message: dict[str, Any]) -> None:
        match message.get("op"):
            case "ping":
                await self._socket.send_text('{"op":"pong"}')
            case "subscribe":
                key = _book_named(message)
                if key in self._subscriptions:
                    return
                if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
                    rule = f"at most {SUBSCRIPTIONS_MAX} a connection"
                    raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=rule))
                self._subscriptions[key] = asyncio.create_task(self._send_book(key))
            case "unsubscribe":
                task = self._subscriptions.pop(_book_named(message), None)
                if task is not None:
                    task.cancel()
            case _:
                raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="op", rule="subscribe, unsubscribe or ping"))

    async def _send_book(self, key: tuple[str, int]) -> None:
        try:
            await self._feeds.send_all(self._socket, *key)
        except RefusedError as error:
            self._subscriptions.pop(key, None)
            await self._send_error(error.refused)
        except (WebSocketDisconnect, RuntimeError):
            log.debug("socket closed while sending", symbol=key[0])

    async def _send_error(self, refused: Refused) -> None:
        content = {"op": "error", "reason": refused.reason.name, **refused.metadata()}
        await self._socket.send_text(json.dumps(content))


def _message(text: str) -> dict[str, Any]:
    if len(text) > MESSAGE_MAX_CHARS:
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule=f"at most {MESSAGE_MAX_CHARS} characters"))
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule="JSON")) from error
    if not isinstance(message, dict):
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule="a JSON object"))
    return message


def _book_named(message: dict[str, Any]) -> tuple[str, int]:
    if message.get("channel") != "book":
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="channel", rule="book"))
    symbol = message.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="symbol"))
    depth = message.get("depth", 20)
    if depth not in DEPTHS or isinstance(depth, bool):
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="depth", rule="5, 20 or 100"))
    return symbol_name(symbol), depth


def _price(level: tuple[str, str]) -> int:
    return parse_units(level[0], field="price")
