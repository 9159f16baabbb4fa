"""`/ws`: market data for all, one's own orders and balances, and orders placed, for who is known."""

import asyncio
import contextlib
import json
import time
from collections.abc import Coroutine
from typing import Any

import structlog
from prometheus_client import Gauge
from starlette.websockets import WebSocket, WebSocketDisconnect

from libs.ids import parse_text
from libs.orders import symbol_name
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import access_rule, admit
from services.edge.account import CHANNELS, send_account
from services.edge.backends import GATEWAY, Backends, Origin
from services.edge.feeds import VIEWS, Feeds, Subject
from services.edge.identity import Identity
from services.edge.trading import OPERATIONS, RequestId, SocketTrader, refusal
from services.edge.transcoding import json_of, message_of_type

DEPTHS = (5, 20, 100)
INTERVALS = ("1m", "5m", "1h", "1d")
SUBSCRIPTIONS_MAX = 20
MESSAGE_MAX_CHARS = 16_384
MESSAGES_PER_S = 100
ID_MAX_CHARS = 100
CREDENTIAL_OVER = 3000  # "unauthorized" in IANA's registry of WebSocket close codes
_OPERATIONS = ("ping", "subscribe", "unsubscribe", *OPERATIONS, "cancelAll")
_CANCEL_ALL = GATEWAY.methods_by_name["CancelOrders"]
_TRADING = access_rule(GATEWAY.methods_by_name["TradingSession"])

log = structlog.get_logger()
SOCKETS = Gauge("websocket_connections", "Open WebSocket connections")
Subscription = Subject | str


class Socket:
    """One WebSocket connection; docs/api.md and docs/asyncapi.json have its messages.

    Bad messages are answered with an error that names the field, and change nothing.
    """

    def __init__(
        self,
        socket: WebSocket,
        *,
        feeds: Feeds,
        backends: Backends,
        identity: Identity,
        origin: Origin,
        heartbeat_s: float,
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self._identity = identity
        self._socket = socket
        self._feeds = feeds
        self._backends = backends
        self._origin = origin
        self._trader = SocketTrader(backends=backends, origin=origin, answer=self._tell)
        self._subscriptions: dict[Subscription, asyncio.Task[None]] = {}
        self._second = (0, 0)

    async def run(self) -> None:
        """Serve until the other side closes, or what it was opened with (a token, a key) is over."""
        await self._socket.accept()
        SOCKETS.inc()
        beside = [asyncio.create_task(self._heartbeat()), asyncio.create_task(self._end_with_its_credential())]
        try:
            while True:
                await self._answer(await self._socket.receive_text())
        except (WebSocketDisconnect, KeyError):  # starlette's KeyError: a binary message
            pass
        finally:
            SOCKETS.dec()
            for task in (*beside, *self._subscriptions.values()):
                task.cancel()
            await self._trader.close()

    async def _answer(self, text: str) -> None:
        operation, request_id = "", None
        try:
            self._count()
            message = _message(text)
            operation = _operation(message)
            request_id = _request_id(message)
            await self._do(operation, request_id, message)
        except RefusedError as error:
            await self._tell(refusal(operation, request_id, error.refused))

    async def _do(self, operation: str, request_id: RequestId, message: dict[str, Any]) -> None:
        known = {} if request_id is None else {"id": request_id}
        match operation:
            case "ping":
                await self._tell({"op": "pong", **known})
            case "subscribe":
                self._subscribe(message)
            case "unsubscribe":
                task = self._subscriptions.pop(_subscription(message), None)
                if task is not None:
                    task.cancel()
            case "cancelAll":
                admit(access_rule(_CANCEL_ALL), self._origin.caller)
                await self._trader.all_answered()  # what was sent before it is cancelled, too
                request = message_of_type(_CANCEL_ALL.input_type, _params(message))
                if self._origin.caller is not None:
                    request.user_id = self._origin.caller.acting_for(request.user_id)
                answer: Any = await self._backends.call(_CANCEL_ALL, request, self._origin)
                orders = [result.order.order_id for result in answer.results]
                await self._tell({"op": "cancelAll", **known, "orderIds": orders})
            case _:
                admit(_TRADING, self._origin.caller)
                await self._trader.submit(operation, request_id, _params(message))

    def _subscribe(self, message: dict[str, Any]) -> None:
        subject = _subscription(message)
        if subject in self._subscriptions:
            return
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=f"at most {SUBSCRIPTIONS_MAX} a connection"))
        if isinstance(subject, str):
            admit(access_rule(CHANNELS[subject]), self._origin.caller)
            sending: Coroutine[Any, Any, None] = send_account(self._socket, self._backends, self._origin, subject)
        else:
            sending = self._feeds.send_all(self._socket, subject, after=_after(message))
        self._subscriptions[subject] = asyncio.create_task(self._send(subject, sending))

    async def _send(self, subject: Subscription, sending: Coroutine[Any, Any, None]) -> None:
        try:
            await sending
        except RefusedError as error:
            self._subscriptions.pop(subject, None)
            channel = subject if isinstance(subject, str) else subject.channel
            await self._tell({**refusal("subscribe", None, error.refused), "channel": channel})
        except (WebSocketDisconnect, RuntimeError):
            log.debug("socket closed while sending", subject=str(subject))

    async def _heartbeat(self) -> None:
        """Shows that the connection lives."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            await self._tell({"op": "heartbeat"})

    async def _end_with_its_credential(self) -> None:
        if self._origin.caller is not None:
            over = await self._identity.until_over(self._origin.caller)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await self._socket.close(CREDENTIAL_OVER, over.rule)

    async def _tell(self, content: dict[str, Any]) -> None:
        try:
            await self._socket.send_text(json.dumps(content))
        except (WebSocketDisconnect, RuntimeError):
            log.debug("socket closed while answering")

    def _count(self) -> None:
        """Raises RefusedError(RATE_LIMITED): a limit of this connection, besides those of users and orders."""
        second, count = self._second
        now = int(time.monotonic())
        self._second = (now, count + 1 if second == now else 1)
        if self._second[1] > MESSAGES_PER_S:
            rule = f"{MESSAGES_PER_S} messages a second and connection"
            raise RefusedError(Refused(Reason.RATE_LIMITED, rule=rule, detail={"retry_after_s": "1"}))


def _message(text: str) -> dict[str, Any]:
    if len(text) > MESSAGE_MAX_CHARS:
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule=f"at most {MESSAGE_MAX_CHARS} characters"))
    message = json_of(text)
    if not isinstance(message, dict):
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule="a JSON object"))
    return message


def _operation(message: dict[str, Any]) -> str:
    operation = message.get("op")
    if not isinstance(operation, str) or operation not in _OPERATIONS:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="op", rule=", ".join(_OPERATIONS)))
    return operation


def _request_id(message: dict[str, Any]) -> RequestId:
    request_id = message.get("id")
    if request_id is not None and (not isinstance(request_id, str | int) or len(str(request_id)) > ID_MAX_CHARS):
        raise RefusedError(Refused(Reason.TEXT_MALFORMED, field="id", rule=f"at most {ID_MAX_CHARS} characters"))
    return request_id


def _params(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params", {})
    if not isinstance(params, dict):
        raise RefusedError(Refused(Reason.BODY_MALFORMED, field="params", rule="a JSON object"))
    return params


def _after(message: dict[str, Any]) -> int:
    after = message.get("after", 0)
    if not isinstance(after, int) or isinstance(after, bool) or not 0 <= after < 2**63:
        raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="after", rule="a sequence number"))
    return after


def _subscription(message: dict[str, Any]) -> Subscription:
    channel, symbol = message.get("channel"), message.get("symbol")
    if isinstance(channel, str) and channel in CHANNELS:
        return channel
    if not isinstance(channel, str) or channel not in VIEWS:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="channel", rule=", ".join((*VIEWS, *CHANNELS))))
    symbol = parse_text(symbol if isinstance(symbol, str) else "", field="symbol")
    match channel:
        case "book":
            depth = message.get("depth", 20)
            if type(depth) is not int or depth not in DEPTHS:
                raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="depth", rule="5, 20 or 100"))
            option = str(depth)
        case "candles":
            option = message.get("interval", "1m")
            if option not in INTERVALS:
                raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="interval", rule=", ".join(INTERVALS)))
        case _:
            option = ""
    return Subject(channel, symbol_name(symbol), option)
