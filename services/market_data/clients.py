"""Where market data comes from: which markets there are (the matchers), and their settled trades (settlement)."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc.aio
from exchange.matcher.v1 import book_pb2, matcher_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.clients.leader import ShardLeader
from libs.clients.shards import Shards
from libs.money import parse_units
from libs.reasons import RefusedError, away
from libs.rpc.client import Peer
from libs.rpc.errors import refused_from_call
from services.market_data.core.chart import Tick

PublicTrade = matcher_pb2.PublicTrade


class Sources:
    """All shards, and settlement."""

    def __init__(self, *, leaders: Sequence[ShardLeader], settlement: grpc.aio.Channel, peer: Peer) -> None:
        self._shards = Shards(leaders)
        self._settlement = settlement_pb2_grpc.SettlementServiceStub(settlement)
        self._peer = peer

    @property
    def all_told(self) -> bool:
        """See Shards."""
        return self._shards.all_told

    async def symbols(self) -> list[str]:
        """Every market that was ever told. Raises RefusedError where none was."""
        await asyncio.gather(*(self._shards.ask(leader) for leader in self._shards.leaders))
        if not self._shards.shard_of:
            raise RefusedError(away("matcher"))
        return sorted(self._shards.shard_of)

    async def book(
        self, symbol: str, depth: int, *, after_sequence: int
    ) -> AsyncIterator[book_pb2.Book | book_pb2.BookDelta]:
        """A known market's book as its matcher tells it, without end. Raises RefusedError when it breaks off."""
        request = matcher_pb2.StreamBookRequest(symbol=symbol, depth=depth, after_sequence=after_sequence)
        async for response in self._shards.shard_of[symbol].follow("StreamBook", request):
            yield response.snapshot if response.HasField("snapshot") else response.delta

    async def newest_trades(self, symbol: str, *, after_sequence: int) -> AsyncIterator[Sequence[PublicTrade]]:
        """A known market's trades after a number, as far back as its matcher remembers, without end. Raises as `book`."""
        request = matcher_pb2.StreamTradesRequest(symbol=symbol, after_sequence=after_sequence)
        async for response in self._shards.shard_of[symbol].follow("StreamTrades", request):
            yield response.trades

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
        await self._shards.close()
