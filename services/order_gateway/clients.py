"""The matchers as the gateway calls them: every symbol belongs to one shard. And settlement, for fills."""

import asyncio
import itertools
import math
import time
from collections.abc import Sequence

import grpc.aio
from exchange.common.v1 import symbol_pb2
from exchange.matcher.v1 import command_pb2, matcher_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.clients.leader import ShardLeader
from libs.clients.shards import Shards
from libs.money import parse_optional
from libs.reasons import Refused, RefusedError, away
from libs.rpc.client import Peer
from services.order_gateway.core.admission import Filters
from services.order_gateway.wire import filters_from

FILTERS_KEPT_S = 30.0
# A shard that is away keeps nobody waiting for the others' symbols.
TOLD_WITHIN_S = 1.0
_NEVER = -math.inf

Result = command_pb2.CommandResult | Refused


class MatcherClient:
    """Routes commands by symbol. Commands are idempotent by order id, so that each is tried again."""

    def __init__(self, leaders: Sequence[ShardLeader]) -> None:
        self._shards = Shards(leaders)
        self._filters: dict[str, Filters] = {}
        self._asking: dict[ShardLeader, asyncio.Task[None]] = {}
        self._asked_at = _NEVER

    async def submit(self, commands: Sequence[command_pb2.Command]) -> list[Result]:
        """One result per command, in order. Those of a shard that does not answer are refused, with the outcome unknown.

        So are those of a symbol that no shard has told yet: another shard would take a tombstone for its word.
        Raises RefusedError where symbols are not known yet and no shard tells them.
        """
        symbols = [_symbol_of(command) for command in commands]
        if not self._shards.shard_of.keys() >= set(symbols):
            self._asked_at = _NEVER
            await self._look()
        places: dict[ShardLeader, list[int]] = {}
        results: list[Result | None] = [None] * len(commands)
        for place, symbol in enumerate(symbols):
            leader = self._shards.shard_of.get(symbol)
            if leader is None:
                results[place] = self._shards.unknown(symbol)
            else:
                places.setdefault(leader, []).append(place)
        answers = await asyncio.gather(
            *(self._submit_to(leader, [commands[place] for place in mine]) for leader, mine in places.items())
        )
        for mine, answer in zip(places.values(), answers, strict=True):
            for place, result in zip(mine, answer, strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    async def cancel_all(self, command: command_pb2.CancelAll) -> list[Result]:
        """One result per shard that it concerns: that of its symbol, or, without one, all."""
        message = command_pb2.Command(cancel_all=command)
        if command.symbol:
            return await self.submit([message])
        answers = await asyncio.gather(*(self._submit_to(leader, [message]) for leader in self._shards.leaders))
        return [answer[0] for answer in answers]

    async def reference_price(self, symbol: str) -> int:
        """Units; 0 where there is none. Raises RefusedError."""
        await self.filters(symbol)
        request = matcher_pb2.GetReferencePriceRequest(symbol=symbol)
        response: matcher_pb2.GetReferencePriceResponse = await self._shards.shard_of[symbol].call(
            "GetReferencePrice", request
        )
        return parse_optional(response.price, field="price")

    async def filters(self, symbol: str) -> Filters:
        """A symbol's filters, as `symbols` tells them. Raises RefusedError: SYMBOL_UNKNOWN, DEPENDENCY_UNAVAILABLE."""
        await self._look()
        known = self._filters.get(symbol)
        if known is None:
            raise RefusedError(self._shards.unknown(symbol))
        return known

    async def symbols(self) -> list[symbol_pb2.Symbol]:
        """All symbols by name, at most half a minute old; of a shard that is away those that it told before.

        Raises RefusedError where nothing was ever told.
        """
        await self._look()
        return sorted(itertools.chain.from_iterable(self._shards.told.values()), key=lambda symbol: symbol.symbol)

    async def close(self) -> None:
        """Close the channels."""
        for asking in list(self._asking.values()):
            asking.cancel()
        await self._shards.close()

    async def _look(self) -> None:
        """Ask every shard, where that was not done lately; a shard that takes long is not waited for once one has answered.

        Raises RefusedError where nothing was ever told.
        """
        now = time.monotonic()
        if now >= self._asked_at + FILTERS_KEPT_S:
            self._asked_at = now
            for leader in self._shards.leaders:
                if leader not in self._asking:
                    self._asking[leader] = asyncio.create_task(self._ask(leader))
        told = self._shards.told
        while self._asking and (not told or time.monotonic() < self._asked_at + TOLD_WITHIN_S):
            left_s = self._asked_at + TOLD_WITHIN_S - time.monotonic() if told else None
            await asyncio.wait(self._asking.values(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if not told:
            self._asked_at = _NEVER
            raise RefusedError(away("matcher"))

    async def _ask(self, leader: ShardLeader) -> None:
        try:
            symbols = await self._shards.ask(leader)
        finally:
            del self._asking[leader]
        self._filters |= {symbol.symbol: filters_from(symbol) for symbol in symbols}

    @staticmethod
    async def _submit_to(leader: ShardLeader, commands: list[command_pb2.Command]) -> Sequence[Result]:
        try:
            response: matcher_pb2.SubmitResponse = await leader.call(
                "Submit", matcher_pb2.SubmitRequest(commands=commands)
            )
        except RefusedError as error:
            return [error.refused] * len(commands)
        return response.results


class SettlementClient:
    """What is settled."""

    def __init__(self, channel: grpc.aio.Channel, peer: Peer) -> None:
        self._stub = settlement_pb2_grpc.SettlementServiceStub(channel)
        self._peer = peer

    async def fills(self, question: settlement_pb2.ListFillsRequest) -> settlement_pb2.ListFillsResponse:
        """A user's fills. Raises RefusedError."""
        answer: settlement_pb2.ListFillsResponse = await self._peer.call(self._stub.ListFills, question)
        return answer


def _symbol_of(command: command_pb2.Command) -> str:
    kind = command.WhichOneof("command")
    assert kind is not None, "we make no empty commands"
    symbol: str = command.new_order.symbol if kind == "new_order" else getattr(command, kind).symbol
    return symbol
