"""The wallet as its callers see it: batches in, one answer or refusal per item out; passing faults are waited out."""

from collections.abc import Sequence

import grpc.aio
from exchange.wallet.v1 import operation_pb2, wallet_pb2, wallet_pb2_grpc

from libs.reasons import Refused
from libs.rpc.client import Peer
from libs.rpc.errors import refused_of


class WalletClient:
    """Every call here is idempotent by its keys, so that each is tried again until the peer's patience is over."""

    def __init__(self, channel: grpc.aio.Channel, peer: Peer) -> None:
        self._stub = wallet_pb2_grpc.WalletServiceStub(channel)
        self._peer = peer

    async def reserve(
        self, items: Sequence[operation_pb2.ReserveRequest]
    ) -> list[operation_pb2.ReserveResponse | Refused]:
        """Hold amounts for orders. Raises RefusedError where the whole call failed."""
        request = operation_pb2.BatchReserveRequest(items=items)
        response: operation_pb2.BatchReserveResponse = await self._peer.call_patiently(self._stub.BatchReserve, request)
        return [item.response if item.HasField("response") else refused_of(item.error) for item in response.results]

    async def increase(
        self, item: operation_pb2.IncreaseReservationRequest
    ) -> operation_pb2.IncreaseReservationResponse:
        """Hold more for an order. Raises RefusedError."""
        response: operation_pb2.IncreaseReservationResponse = await self._peer.call_patiently(
            self._stub.IncreaseReservation, item
        )
        return response

    async def release(
        self, items: Sequence[operation_pb2.ReleaseRequest]
    ) -> list[operation_pb2.ReleaseResponse | Refused]:
        """Free parts of reservations. Raises RefusedError where the whole call failed."""
        request = operation_pb2.BatchReleaseRequest(items=items)
        response: operation_pb2.BatchReleaseResponse = await self._peer.call_patiently(self._stub.BatchRelease, request)
        return [item.response if item.HasField("response") else refused_of(item.error) for item in response.results]

    async def settle(
        self, items: Sequence[operation_pb2.SettleTradeRequest]
    ) -> list[operation_pb2.SettleTradeResponse | Refused]:
        """Settle trades. Raises RefusedError where the whole call failed."""
        request = operation_pb2.SettleTradesRequest(items=items)
        response: operation_pb2.SettleTradesResponse = await self._peer.call_patiently(self._stub.SettleTrades, request)
        return [item.response if item.HasField("response") else refused_of(item.error) for item in response.results]

    async def deposit(self, item: operation_pb2.DepositRequest) -> operation_pb2.DepositResponse:
        """Credit from outside. Raises RefusedError."""
        response: operation_pb2.DepositResponse = await self._peer.call_patiently(self._stub.Deposit, item)
        return response

    async def balances(self, user_id: str) -> dict[str, operation_pb2.Balance]:
        """A user's balances by asset. Raises RefusedError."""
        request = wallet_pb2.GetBalancesRequest(user_id=user_id)
        response: wallet_pb2.GetBalancesResponse = await self._peer.call_patiently(self._stub.GetBalances, request)
        return {balance.asset: balance for balance in response.balances}
