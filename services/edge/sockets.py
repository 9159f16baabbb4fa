"""`/ws`: subscribe to books, trades, tickers and candles."""

import asyncio
import json
from typing import Any

import structlog
from prometheus_client import Gauge
from starlette.websockets import WebSocket, WebSocketDisconnect

from libs.orders import symbol_name
from libs.reasons import Reason, Refused, RefusedError
from services.edge.feeds import VIEWS, Feeds, Subject

DEPTHS = (5, 20, 100)
INTERVALS = ("1m", "5m", "1h", "1d")
SUBSCRIPTIONS_MAX = 20
MESSAGE_MAX_CHARS = 4096

log = structlog.get_logger()
SOCKETS = Gauge("websocket_connections", "Open WebSocket connections")


class MarketSocket:
    """One WebSocket connection.

    It takes `{"op":"subscribe","channel":"book","symbol":"BTC/USDT","depth":20}`, `unsubscribe` likewise, and `ping`; the
    other channels are `trades`, `ticker` and `candles` (with `interval`). Bad messages are answered with an error that
    names the field, and change nothing.
    """

    def __init__(self, socket: WebSocket, feeds: Feeds) -> None:
        self._socket = socket
        self._feeds = feeds
        self._subscriptions: dict[Subject, asyncio.Task[None]] = {}

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
                subject = _subject(message)
                if subject in self._subscriptions:
                    return
                if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
                    rule = f"at most {SUBSCRIPTIONS_MAX} a connection"
                    raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=rule))
                self._subscriptions[subject] = asyncio.create_task(self._send(subject))
            case "unsubscribe":
                task = self._subscriptions.pop(_subject(message), None)
                if task is not None:
                    task.cancel()
            case _:
                raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="op", rule="subscribe, unsubscribe or ping"))

    async def _send(self, subject: Subject) -> None:
        try:
            await self._feeds.send_all(self._socket, subject)
        except RefusedError as error:
            self._subscriptions.pop(subject, None)
            await self._send_error(error.refused)
        except (WebSocketDisconnect, RuntimeError):
            log.debug("socket closed while sending", symbol=subject.symbol)

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


def _subject(message: dict[str, Any]) -> Subject:
    channel, symbol = message.get("channel"), message.get("symbol")
    if not isinstance(channel, str) or channel not in VIEWS:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="channel", rule=", ".join(VIEWS)))
    if not isinstance(symbol, str) or not symbol:
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="symbol"))
    match channel:
        case "book":
            depth = message.get("depth", 20)
            if depth not in DEPTHS or isinstance(depth, bool):
                raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="depth", rule="5, 20 or 100"))
            option = str(depth)
        case "candles":
            option = message.get("interval", "1m")
            if option not in INTERVALS:
                raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="interval", rule=", ".join(INTERVALS)))
        case _:
            option = ""
    return Subject(channel, symbol_name(symbol), option)
