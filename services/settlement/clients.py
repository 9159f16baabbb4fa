"""The matchers as settlement asks them: how many trades there are, and to tell some of them again."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from exchange.events.v1 import trade_pb2
from exchange.matcher.v1 import matcher_pb2

from libs.clients.leader import ShardLeader

REPLAY_TIMEOUT_S = 3600.0


class Matchers:
    """All shards."""

    def __init__(self, leaders: Sequence[ShardLeader]) -> None:
        self._leaders = leaders
        self._shard_of: dict[str, ShardLeader] = {}

    async def heads(self) -> dict[str, int]:
        """The number of every symbol's last committed trade. Raises RefusedError where a shard does not answer."""
        heads: dict[str, int] = {}
        answers = await asyncio.gather(
            *(leader.call("ListTradeHeads", matcher_pb2.ListTradeHeadsRequest()) for leader in self._leaders)
        )
        for leader, answer in zip(self._leaders, answers, strict=True):
            for head in answer.heads:
                self._shard_of[head.symbol] = leader
                heads[head.symbol] = head.sequence
        return heads

    async def replay(self, symbol: str, first: int, last: int) -> AsyncIterator[trade_pb2.TradeEvents]:
        """These trades, made again from the journal. Raises RefusedError. Ask for the heads first."""
        request = matcher_pb2.ReplayTradesRequest(symbol=symbol, first_sequence=first, last_sequence=last)
        leader = self._shard_of[symbol]
        async for response in leader.stream("ReplayTrades", request, timeout_s=REPLAY_TIMEOUT_S):
            yield response.events

    async def close(self) -> None:
        """Close the channels."""
        for leader in self._leaders:
            await leader.close()
