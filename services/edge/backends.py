"""The services behind the edge: which RPCs live where, and with whose credential they are called.

The order gateway checks users itself and gets the user's own token. The internal services take only service credentials:
for them the edge lets the user in by the RPC's rule, puts the user into `user_id`, and calls with its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from exchange.gateway.v1 import api_key_pb2, order_gateway_pb2
from exchange.market_data.v1 import market_data_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import wallet_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.config import Settings
from libs.identity import Caller
from libs.rpc.access import acting_metadata
from libs.rpc.client import open_channel
from libs.rpc.errors import refused_from_call
from libs.rpc.server import REQUEST_ID

GATEWAY = order_gateway_pb2.DESCRIPTOR.services_by_name["OrderGatewayService"]
SETTLEMENT = settlement_pb2.DESCRIPTOR.services_by_name["SettlementService"]
MARKET_DATA = market_data_pb2.DESCRIPTOR.services_by_name["MarketDataService"]
WALLET = wallet_pb2.DESCRIPTOR.services_by_name["WalletService"]
API_KEYS = api_key_pb2.DESCRIPTOR.services_by_name["ApiKeyService"]
SERVICES: tuple[ServiceDescriptor, ...] = (GATEWAY, API_KEYS, SETTLEMENT, MARKET_DATA, WALLET)
_HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call comes from: who calls (nobody, for what is public), with which token if any, in which request."""

    caller: Caller | None
    authorization: str
    request_id: str


class Backends:
    """Channels to all services, and calls of any of their methods."""

    def __init__(self, settings: Settings, credential: Callable[[], str]) -> None:
        self._credential = credential
        self.timeout_s = settings.edge.timeout_s
        gateway = open_channel(settings.gateway.target(), settings.tls)
        self._channels = {
            GATEWAY.full_name: gateway,
            API_KEYS.full_name: gateway,
            SETTLEMENT.full_name: open_channel(settings.settlement.target(), settings.tls),
            MARKET_DATA.full_name: open_channel(settings.marketdata.target(), settings.tls),
            WALLET.full_name: open_channel(settings.wallet.target(), settings.tls),
        }
        self._methods: dict[str, Any] = {}

    async def call(self, method: MethodDescriptor, request: Message, origin: Origin) -> Message:
        """The response of a unary method. Raises RefusedError."""
        metadata = self.metadata(method.containing_service, origin)
        try:
            response: Message = await self._method(method)(request, timeout=self.timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency=method.containing_service.name) from error
        return response

    def stream(self, method: MethodDescriptor, request: Message, origin: Origin) -> Any:
        """The call of a server-streaming method; it raises AioRpcError when it is read."""
        return self._method(method)(request, metadata=self.metadata(method.containing_service, origin))

    def metadata(self, service: ServiceDescriptor, origin: Origin) -> tuple[tuple[str, str], ...]:
        """What goes with a call.

        The user's own token to the gateway, ours to the others, which the edge let the user into. A user who came without
        a token (by a key, or a socket's token) is named to the gateway with ours.
        """
        if service.file.package == GATEWAY.file.package:
            if origin.authorization:
                return (("authorization", origin.authorization), (REQUEST_ID, origin.request_id))
            if origin.caller is None:
                return ((REQUEST_ID, origin.request_id),)
            acting = acting_metadata(origin.caller)
            return (("authorization", f"Bearer {self._credential()}"), (REQUEST_ID, origin.request_id), *acting)
        return (("authorization", f"Bearer {self._credential()}"), (REQUEST_ID, origin.request_id))

    def channel(self, service: ServiceDescriptor) -> grpc.aio.Channel:
        """A service's channel, for streams."""
        return self._channels[service.full_name]

    async def is_serving(self, service: ServiceDescriptor) -> bool:
        """Whether a service says that it is serving."""
        return await says_serving(self._channels[service.full_name])

    async def close(self) -> None:
        """Close all channels."""
        for channel in set(self._channels.values()):
            await channel.close()

    def _method(self, method: MethodDescriptor) -> Any:
        call = self._methods.get(method.full_name)
        if call is None:
            service = method.containing_service
            channel = self._channels[service.full_name]
            make = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = self._methods[method.full_name] = make(
                f"/{service.full_name}/{method.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
        return call


async def says_serving(channel: grpc.aio.Channel) -> bool:
    """Whether what is at the end of a channel says that it is serving."""
    try:
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S
        )
    except grpc.aio.AioRpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
