"""The matchers as the gateway calls them: every symbol belongs to one shard. And settlement, for fills."""

import asyncio
import time
from collections.abc import Sequence

import grpc.aio
from exchange.common.v1 import symbol_pb2
from exchange.matcher.v1 import command_pb2, matcher_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.clients.leader import ShardLeader
from libs.money import parse_optional
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.client import Peer
from services.order_gateway.core.admission import Filters
from services.order_gateway.wire import filters_from

FILTERS_KEPT_S = 30.0

Result = command_pb2.CommandResult | Refused


class MatcherClient:
    """Routes commands by symbol. Commands are idempotent by order id, so that each is tried again."""

    def __init__(self, leaders: Sequence[ShardLeader]) -> None:
        self._leaders = leaders
        self._shard_of: dict[str, ShardLeader] = {}
        self._filters: dict[str, Filters] = {}
        self._symbols: list[symbol_pb2.Symbol] = []
        self._filters_until = 0.0

    async def submit(self, commands: Sequence[command_pb2.Command]) -> list[Result]:
        """One result per command, in order. Those of a shard that does not answer are refused, with the outcome unknown.

        Raises RefusedError where symbols are not known yet and no shard tells them.
        """
        if any(_symbol_of(command) not in self._shard_of for command in commands):
            self._filters_until = 0.0
            await self.symbols()
        places: dict[ShardLeader, list[int]] = {}
        for place, command in enumerate(commands):
            leader = self._shard_of.get(
                _symbol_of(command), self._leaders[0]
            )  # which refuses a symbol it does not know
            places.setdefault(leader, []).append(place)
        results: list[Result | None] = [None] * len(commands)
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
        answers = await asyncio.gather(*(self._submit_to(leader, [message]) for leader in self._leaders))
        return [answer[0] for answer in answers]

    async def reference_price(self, symbol: str) -> int:
        """Units; 0 where there is none. Raises RefusedError."""
        await self.filters(symbol)
        request = matcher_pb2.GetReferencePriceRequest(symbol=symbol)
        response: matcher_pb2.GetReferencePriceResponse = await self._shard_of[symbol].call(
            "GetReferencePrice", request
        )
        return parse_optional(response.price, field="price")

    async def filters(self, symbol: str) -> Filters:
        """A symbol's filters, at most half a minute old. Raises RefusedError(SYMBOL_UNKNOWN)."""
        await self.symbols()
        known = self._filters.get(symbol)
        if known is None:
            raise RefusedError(Refused(Reason.SYMBOL_UNKNOWN, field="symbol", detail={"symbol": symbol[:40]}))
        return known

    async def symbols(self) -> list[symbol_pb2.Symbol]:
        """All symbols by name, at most half a minute old; a shard that is away keeps what it told before.

        Raises RefusedError where nothing was ever told.
        """
        if time.monotonic() >= self._filters_until:
            told = await asyncio.gather(*(self._ask(leader) for leader in self._leaders), return_exceptions=True)
            faults = [fault for fault in told if isinstance(fault, BaseException)]
            if faults and (not self._symbols or not isinstance(faults[0], RefusedError)):
                raise faults[0]
            for leader, symbols in zip(self._leaders, told, strict=True):
                if not isinstance(symbols, BaseException):
                    self._shard_of |= dict.fromkeys((symbol.symbol for symbol in symbols), leader)
                    self._filters |= {symbol.symbol: filters_from(symbol) for symbol in symbols}
                    self._symbols = [old for old in self._symbols if self._shard_of.get(old.symbol) is not leader]
                    self._symbols += symbols
            self._symbols.sort(key=lambda symbol: symbol.symbol)
            self._filters_until = time.monotonic() + FILTERS_KEPT_S
        return self._symbols

    async def close(self) -> None:
        """Close the channels."""
        for leader in self._leaders:
            await leader.close()

    @staticmethod
    async def _ask(leader: ShardLeader) -> Sequence[symbol_pb2.Symbol]:
        response: matcher_pb2.ListSymbolsResponse = await leader.call("ListSymbols", matcher_pb2.ListSymbolsRequest())
        return response.symbols

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
