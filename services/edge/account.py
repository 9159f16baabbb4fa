"""The private channels of a socket: the caller's own orders and balances."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import structlog
from exchange.gateway.v1 import order_gateway_pb2
from exchange.wallet.v1 import wallet_pb2
from google.protobuf.descriptor import MethodDescriptor
from starlette.websockets import WebSocket

from libs.reasons import PASSING
from libs.rpc.access import access_rule, admit
from libs.rpc.errors import refused_from_call
from services.edge.backends import GATEWAY, WALLET, Backends, Origin
from services.edge.transcoding import as_json

_RECONNECT_S = 0.5
_STREAM_ORDERS: MethodDescriptor = GATEWAY.methods_by_name["StreamOrders"]
_STREAM_BALANCES: MethodDescriptor = WALLET.methods_by_name["StreamBalances"]
CHANNELS = {"orders": _STREAM_ORDERS, "balances": _STREAM_BALANCES}
_REQUESTS: dict[str, Any] = {
    "orders": order_gateway_pb2.StreamOrdersRequest,
    "balances": wallet_pb2.StreamBalancesRequest,
}
Message = tuple[str, dict[str, Any]]

log = structlog.get_logger()


async def send_account(socket: WebSocket, backends: Backends, origin: Origin, channel: str) -> None:
    """Send a channel's messages until cancelled: first all there is, then what changes, numbered from 1.

    When the stream behind is lost, it begins again: with all there is. Raises RefusedError (UNAUTHENTICATED,
    SCOPE_MISSING, TOO_MANY_SUBSCRIBERS).
    """
    method = CHANNELS[channel]
    caller = admit(access_rule(method), origin.caller)
    user_id = caller.acting_for("")
    messages = _orders if channel == "orders" else _balances
    number = 0
    while True:
        try:
            request = _REQUESTS[channel](user_id=user_id)
            async for kind, content in messages(backends.stream(method, request, origin)):
                number += 1
                await socket.send_text(json.dumps({"channel": channel, "type": kind, "number": number, **content}))
        except grpc.aio.AioRpcError as error:
            refused = refused_from_call(error, dependency=channel)
            if refused.refused.reason not in PASSING:
                raise refused from error
            log.warning("stream lost", channel=channel, refused=str(refused))
        await asyncio.sleep(_RECONNECT_S)


async def _orders(responses: AsyncIterator[Any]) -> AsyncIterator[Message]:
    snapshot: list[dict[str, Any]] = []
    async for response in responses:
        order = as_json(response.order)
        if response.snapshot_complete:
            yield "snapshot", {"orders": snapshot}
        elif response.snapshot:
            snapshot.append(order)
        else:
            yield "update", {"orders": [order]}


async def _balances(responses: AsyncIterator[Any]) -> AsyncIterator[Message]:
    kind = "snapshot"
    async for response in responses:
        yield kind, as_json(response)
        kind = "update"
