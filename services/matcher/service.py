"""The matcher's gRPC face."""

from collections.abc import AsyncIterator
from typing import Any

from exchange.matcher.v1 import command_pb2, matcher_pb2, matcher_pb2_grpc

from libs.batching import Batcher
from libs.money import format_units
from libs.orders import Side, symbol_name
from libs.reasons import Reason, Refused, RefusedError
from services.matcher.books import BookHub
from services.matcher.core.engine import Engine
from services.matcher.journal import Journal
from services.matcher.relay import Relay
from services.matcher.sequencer import COMMANDS_MAX, Sequencer
from services.matcher.wire import symbol_message

Answer = command_pb2.CommandResult | RefusedError


class MatcherService(matcher_pb2_grpc.MatcherServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(
        self,
        *,
        intake: Batcher[command_pb2.Command, Answer],
        sequencer: Sequencer,
        engine: Engine,
        books: BookHub,
        journal: Journal,
        relay: Relay,
        batch_max: int,
    ) -> None:
        self._intake = intake
        self._sequencer = sequencer
        self._engine = engine
        self._books = books
        self._journal = journal
        self._relay = relay
        self._batch_max = min(batch_max, COMMANDS_MAX)

    async def Submit(self, request: matcher_pb2.SubmitRequest, context: Any) -> matcher_pb2.SubmitResponse:
        """See the proto."""
        del context
        if not request.commands:
            raise RefusedError(Refused(Reason.BATCH_EMPTY, field="commands"))
        if len(request.commands) > self._batch_max:
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="commands", rule=f"at most {self._batch_max}"))
        if any(command.HasField("put_symbol") for command in request.commands):
            rule = "symbols come from the matcher's own table"
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="commands.put_symbol", rule=rule))
        answers = await self._intake.submit(request.commands)
        return matcher_pb2.SubmitResponse(results=[_result(answer) for answer in answers])

    async def GetBook(self, request: matcher_pb2.GetBookRequest, context: Any) -> matcher_pb2.GetBookResponse:
        """See the proto."""
        del context
        return matcher_pb2.GetBookResponse(book=self._books.snapshot(symbol_name(request.symbol), request.depth))

    async def StreamBook(
        self, request: matcher_pb2.StreamBookRequest, context: Any
    ) -> AsyncIterator[matcher_pb2.StreamBookResponse]:
        """See the proto."""
        del context
        async for response in self._books.subscribe(symbol_name(request.symbol), request.depth):
            yield response

    async def ListSymbols(
        self, request: matcher_pb2.ListSymbolsRequest, context: Any
    ) -> matcher_pb2.ListSymbolsResponse:
        """See the proto."""
        del request, context
        symbols = sorted(self._sequencer.symbols.items())
        return matcher_pb2.ListSymbolsResponse(symbols=[symbol_message(symbol) for _, symbol in symbols])

    async def GetReferencePrice(
        self, request: matcher_pb2.GetReferencePriceRequest, context: Any
    ) -> matcher_pb2.GetReferencePriceResponse:
        """See the proto."""
        del context
        market = self._engine.markets.get(request.symbol)
        if market is None:
            raise RefusedError(Refused(Reason.SYMBOL_UNKNOWN, field="symbol"))
        best_ask = market.book.best(Side.SELL)
        price = market.last_price or (best_ask.price if best_ask is not None else 0)
        return matcher_pb2.GetReferencePriceResponse(price=format_units(price) if price else "")

    async def GetStatus(self, request: matcher_pb2.GetStatusRequest, context: Any) -> matcher_pb2.GetStatusResponse:
        """See the proto."""
        del request, context
        return matcher_pb2.GetStatusResponse(
            shard=self._journal.shard,
            epoch=self._journal.epoch,
            sequence=self._sequencer.sequence,
            state_hash=self._engine.state_hash(),
            outbox_lag=self._relay.lag,
        )


def _result(answer: Answer) -> command_pb2.CommandResult:
    if not isinstance(answer, RefusedError):
        return answer
    refused = answer.refused
    return command_pb2.CommandResult(
        refusal=refused.reason.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        refused_field=refused.field,
    )
