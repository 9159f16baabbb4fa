"""All shards' leaders: which of them has a market, as far as they have told."""

from collections.abc import Sequence

import structlog
from exchange.common.v1 import symbol_pb2
from exchange.matcher.v1 import matcher_pb2

from libs.clients.leader import ShardLeader
from libs.reasons import Refused, RefusedError, away, symbol_unknown

log = structlog.get_logger()


class Shards:
    """What each shard told of its markets when it was asked last; one that is away keeps what it told before."""

    def __init__(self, leaders: Sequence[ShardLeader]) -> None:
        self.leaders = leaders
        self.told: dict[ShardLeader, Sequence[symbol_pb2.Symbol]] = {}
        self.shard_of: dict[str, ShardLeader] = {}

    @property
    def all_told(self) -> bool:
        """Whether every shard has told its markets: before that one that is not known may well exist."""
        return len(self.told) == len(self.leaders)

    async def ask(self, leader: ShardLeader) -> Sequence[symbol_pb2.Symbol]:
        """The markets that a shard tells now; none where it does not answer."""
        try:
            answer: matcher_pb2.ListSymbolsResponse = await leader.call("ListSymbols", matcher_pb2.ListSymbolsRequest())
        except RefusedError as error:
            log.warning("symbols are not told", shard=leader.shard, error=str(error))
            return ()
        self.told[leader] = answer.symbols
        self.shard_of |= dict.fromkeys((symbol.symbol for symbol in answer.symbols), leader)
        return answer.symbols

    def unknown(self, symbol: str) -> Refused:
        """What to say of a market that nobody has told."""
        return symbol_unknown(symbol) if self.all_told else away("matcher")

    async def close(self) -> None:
        """Close the channels."""
        for leader in self.leaders:
            await leader.close()
