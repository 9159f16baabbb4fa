"""The services behind the edge: which RPCs live where, and with whose credential they are called.

The order gateway checks users itself and gets the user's own token. The internal services take only service credentials:
for them the edge lets the user in by the RPC's rule, puts the user into `user_id`, and calls with its own.
"""

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from exchange.gateway.v1 import order_gateway_pb2
from exchange.market_data.v1 import market_data_pb2
from exchange.matcher.v1 import matcher_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import wallet_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.config import Settings
from libs.rpc.client import open_channel
from libs.rpc.errors import refused_from_call
from libs.rpc.server import REQUEST_ID

GATEWAY = order_gateway_pb2.DESCRIPTOR.services_by_name["OrderGatewayService"]
MATCHER = matcher_pb2.DESCRIPTOR.services_by_name["MatcherService"]
SETTLEMENT = settlement_pb2.DESCRIPTOR.services_by_name["SettlementService"]
MARKET_DATA = market_data_pb2.DESCRIPTOR.services_by_name["MarketDataService"]
WALLET = wallet_pb2.DESCRIPTOR.services_by_name["WalletService"]
SERVICES: tuple[ServiceDescriptor, ...] = (GATEWAY, MATCHER, SETTLEMENT, MARKET_DATA, WALLET)
_HEALTH_TIMEOUT_S = 2.0


class Backends:
    """Channels to all services, and calls of any of their methods."""

    def __init__(self, settings: Settings, credential: Callable[[], str]) -> None:
        self._credential = credential
        self._timeout_s = settings.edge.timeout_s
        self._channels = {
            GATEWAY.full_name: open_channel(settings.gateway.target()),
            MATCHER.full_name: open_channel(settings.matcher.target()),
            SETTLEMENT.full_name: open_channel(settings.settlement.target()),
            MARKET_DATA.full_name: open_channel(settings.marketdata.target()),
            WALLET.full_name: open_channel(settings.wallet.target()),
        }
        self._methods: dict[str, Any] = {}

    async def call(self, method: MethodDescriptor, request: Message, *, authorization: str, request_id: str) -> Message:
        """The response of a unary method. Raises RefusedError."""
        full_name = method.full_name
        call = self._methods.get(full_name)
        if call is None:
            call = self._methods[full_name] = self._unary(method)
        metadata = self.metadata(method.containing_service, authorization=authorization, request_id=request_id)
        try:
            response: Message = await call(request, timeout=self._timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency=method.containing_service.name) from error
        return response

    def metadata(
        self, service: ServiceDescriptor, *, authorization: str, request_id: str
    ) -> tuple[tuple[str, str], ...]:
        """What goes with a call: the user's own credential to the gateway, ours to the others."""
        own = authorization if service.full_name == GATEWAY.full_name else f"Bearer {self._credential()}"
        identity = (("authorization", own),) if own else ()
        return (*identity, (REQUEST_ID, request_id))

    def channel(self, service: ServiceDescriptor) -> grpc.aio.Channel:
        """A service's channel, for streams."""
        return self._channels[service.full_name]

    async def is_serving(self, service: ServiceDescriptor) -> bool:
        """Whether a service says that it is serving."""
        stub = health_pb2_grpc.HealthStub(self._channels[service.full_name])
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()

    def _unary(self, method: MethodDescriptor) -> Any:
        service = method.containing_service
        response_class = message_factory.GetMessageClass(method.output_type)
        return self._channels[service.full_name].unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )
