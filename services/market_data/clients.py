"""Where market data comes from: which markets there are (the matchers), and their settled trades (settlement)."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc.aio
from exchange.matcher.v1 import matcher_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.clients.leader import ShardLeader
from libs.money import parse_units
from libs.rpc.client import Peer
from libs.rpc.errors import refused_from_call
from services.market_data.core.chart import Tick


class Sources:
    """All shards, and settlement."""

    def __init__(self, *, leaders: Sequence[ShardLeader], settlement: grpc.aio.Channel, peer: Peer) -> None:
        self._leaders = leaders
        self._settlement = settlement_pb2_grpc.SettlementServiceStub(settlement)
        self._peer = peer

    async def symbols(self) -> list[str]:
        """Every market. Raises RefusedError where a shard does not answer."""
        answers = await asyncio.gather(
            *(leader.call("ListSymbols", matcher_pb2.ListSymbolsRequest()) for leader in self._leaders)
        )
        return sorted(symbol.symbol for answer in answers for symbol in answer.symbols)

    async def trades(self, symbol: str, after_sequence: int) -> AsyncIterator[list[Tick]]:
        """Settled trades after a number, in order, without gaps and without end. Raises RefusedError when it breaks off."""
        request = settlement_pb2.StreamSettlementsRequest(symbol=symbol, after_sequence=after_sequence)
        try:
            async for response in self._settlement.StreamSettlements(request, metadata=self._peer.metadata()):
                yield [
                    Tick(
                        trade.sequence,
                        parse_units(trade.price, field="price"),
                        parse_units(trade.quantity, field="quantity"),
                        trade.executed_at.ToNanoseconds(),
                    )
                    for trade in response.trades
                ]
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency="settlement") from error

    async def close(self) -> None:
        """Close the channels to the matchers."""
        for leader in self._leaders:
            await leader.close()
