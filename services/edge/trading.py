"""Orders over a socket: one TradingSession behind each socket that trades.

Requests take effect in the order they came, with many under way at once; each is answered with the `id` it came with.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import structlog
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2, trading_session_pb2
from google.protobuf.message import Message

from libs.reasons import Reason, Refused, RefusedError, away
from libs.rpc.errors import refused_from_call, refused_of
from services.edge.backends import GATEWAY, Backends, Origin
from services.edge.transcoding import as_json, message_from

IN_FLIGHT_MAX = 100
OPERATIONS: dict[str, type[Message]] = {
    "place": order_requests_pb2.PlaceOrderRequest,
    "amend": order_requests_pb2.AmendOrderRequest,
    "reduce": order_requests_pb2.ReduceOrderRequest,
    "cancel": order_requests_pb2.CancelOrderRequest,
    "options": trading_session_pb2.SessionOptions,
}
RequestId = str | int | None
Answer = Callable[[dict[str, Any]], Awaitable[None]]

log = structlog.get_logger()


class SocketTrader:
    """A socket's TradingSession, opened with its first order; again with the next one where it has broken off.

    What its options asked for holds for every session of the socket.
    """

    def __init__(self, *, backends: Backends, origin: Origin, answer: Answer) -> None:
        self._stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(backends.channel(GATEWAY))
        self._metadata = backends.metadata(GATEWAY, origin)
        self._answer = answer
        self._timeout_s = backends.timeout_s
        self._options = trading_session_pb2.SessionOptions()
        self._call: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._number = 0
        self._waiting: dict[int, tuple[str, RequestId]] = {}
        self._all_answered = asyncio.Event()
        self._all_answered.set()

    async def submit(self, operation: str, request_id: RequestId, params: dict[str, Any]) -> None:
        """Send one request; its answer comes by itself. Raises RefusedError; then nothing was sent."""
        message = message_from(OPERATIONS[operation], params)
        if len(self._waiting) >= IN_FLIGHT_MAX:
            detail = {"queue": "requests of this socket", "retry_after_s": "1"}
            raise RefusedError(Refused(Reason.OVERLOADED, detail=detail))
        if self._call is None:
            options = message if isinstance(message, trading_session_pb2.SessionOptions) else self._options
            begun = await self._begin(options)
            if options is message:
                self._options = options
                await self._answer(_content(operation, request_id, begun))
                return
        self._number += 1
        self._waiting[self._number] = operation, request_id
        self._all_answered.clear()
        request = trading_session_pb2.TradingSessionRequest(request_id=self._number)
        getattr(request, operation).CopyFrom(message)
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            log.debug("session ended while a request was written")  # the reader tells why, to all that wait

    async def all_answered(self) -> None:
        """Wait until nothing that was submitted is under way."""
        await self._all_answered.wait()

    async def close(self) -> None:
        """End the session; its options say what becomes of its orders."""
        if self._call is not None:
            self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()

    async def _begin(self, options: trading_session_pb2.SessionOptions) -> trading_session_pb2.TradingSessionResponse:
        """Open a session; nothing is sent in it before its options hold. Raises RefusedError."""
        request = trading_session_pb2.TradingSessionRequest(options=options)
        request.options.answers_only = True  # who wants updates reads the channel `orders`
        call = self._stub.TradingSession(metadata=self._metadata)
        try:
            async with asyncio.timeout(self._timeout_s):
                with contextlib.suppress(asyncio.InvalidStateError):  # it is over already; reading tells why
                    await call.write(request)
                answer: Any = await call.read()
        except TimeoutError:
            raise RefusedError(away("order gateway")) from None
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency="order gateway") from error
        if answer is grpc.aio.EOF:
            raise RefusedError(away("order gateway"))
        begun: trading_session_pb2.TradingSessionResponse = answer
        if begun.HasField("error"):
            call.cancel()
            raise RefusedError(refused_of(begun.error))
        self._call = call
        self._reading = asyncio.create_task(self._read(call))
        return begun

    async def _read(self, call: Any) -> None:
        refused = away("order gateway")
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                operation, request_id = self._waiting.pop(response.request_id)
                await self._answer(_content(operation, request_id, response))
                if not self._waiting:
                    self._all_answered.set()
        except grpc.aio.AioRpcError as error:
            refused = refused_from_call(error, dependency="order gateway").refused
        self._call = None
        waiting, self._waiting = self._waiting, {}
        for operation, request_id in waiting.values():
            await self._answer(refusal(operation, request_id, refused))
        if not self._waiting:
            self._all_answered.set()


def refusal(operation: str, request_id: RequestId, refused: Refused) -> dict[str, Any]:
    """An answer that says no."""
    known = {} if request_id is None else {"id": request_id}
    return {"op": "error", "of": operation, **known, "reason": refused.reason.name, **refused.metadata()}


def _content(
    operation: str, request_id: RequestId, response: trading_session_pb2.TradingSessionResponse
) -> dict[str, Any]:
    if response.HasField("error"):
        return refusal(operation, request_id, refused_of(response.error))
    known = {} if request_id is None else {"id": request_id}
    content: dict[str, Any] = {"op": operation, **known}
    if response.HasField("order"):
        content["order"] = as_json(response.order)
    if response.fills:
        fills = [as_json(fill) for fill in response.fills]
        content["fills"] = fills
        if response.more_fills:
            content["moreFills"] = True
    if response.session_id:
        content["sessionId"] = response.session_id
    return content
