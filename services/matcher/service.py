"""The matcher's gRPC face."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from exchange.matcher.v1 import book_pb2, command_pb2, matcher_pb2, matcher_pb2_grpc

from libs.batching import Batcher
from libs.books import BookHub
from libs.money import format_units
from libs.orders import Side, symbol_name
from libs.reasons import Reason, Refused, RefusedError, away, symbol_unknown
from libs.tape import TradeHub
from services.matcher.core.orders import Trade
from services.matcher.journal import Journal
from services.matcher.relay import Relay
from services.matcher.retelling import Reteller
from services.matcher.sequencer import COMMANDS_MAX, FATAL, Sequencer
from services.matcher.wire import checked_symbol, public_trade, symbol_message

Answer = command_pb2.CommandResult | RefusedError


class MatcherService(matcher_pb2_grpc.MatcherServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(
        self,
        *,
        intake: Batcher[command_pb2.Command, Answer],
        sequencer: Sequencer,
        books: BookHub,
        trades: TradeHub[Trade],
        journal: Journal,
        relay: Relay,
        batch_max: int,
    ) -> None:
        self._intake = intake
        self._sequencer = sequencer
        self._books = books
        self._trades = trades
        self._journal = journal
        self._relay = relay
        self._reteller = Reteller()
        self._batch_max = min(batch_max, COMMANDS_MAX)

    async def Submit(self, request: matcher_pb2.SubmitRequest, context: Any) -> matcher_pb2.SubmitResponse:
        """See the proto."""
        del context
        if not request.commands:
            raise RefusedError(Refused(Reason.BATCH_EMPTY, field="commands"))
        if len(request.commands) > self._batch_max:
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="commands", rule=f"at most {self._batch_max}"))
        for command in request.commands:
            if (kind := command.WhichOneof("command")) in {"put_symbol", "tick"}:
                rule = "the matcher itself writes these"
                raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field=f"commands.{kind}", rule=rule))
        response = matcher_pb2.SubmitResponse(results=map(_result, await self._commit(request.commands)))
        told: set[str] = set()
        for result in reversed(response.results):
            # All that an order ever freed is told once: five hundred changes of one order would tell it five hundred times.
            if result.HasField("order"):
                if result.order.order_id in told:
                    result.order.ClearField("releases")
                told.add(result.order.order_id)
        return response

    async def GetBook(self, request: matcher_pb2.GetBookRequest, context: Any) -> matcher_pb2.GetBookResponse:
        """See the proto."""
        del context
        return matcher_pb2.GetBookResponse(book=self._books.snapshot(symbol_name(request.symbol), request.depth))

    async def StreamBook(
        self, request: matcher_pb2.StreamBookRequest, context: Any
    ) -> AsyncIterator[matcher_pb2.StreamBookResponse]:
        """See the proto."""
        del context
        async for update in self._books.subscribe(symbol_name(request.symbol), request.depth, request.after_sequence):
            if isinstance(update, book_pb2.Book):
                yield matcher_pb2.StreamBookResponse(snapshot=update)
            else:
                yield matcher_pb2.StreamBookResponse(delta=update)

    async def StreamTopOfBook(
        self, request: matcher_pb2.StreamTopOfBookRequest, context: Any
    ) -> AsyncIterator[matcher_pb2.StreamTopOfBookResponse]:
        """See the proto."""
        del context
        async for response in self._books.tops(symbol_name(request.symbol)):
            yield response

    async def StreamTrades(
        self, request: matcher_pb2.StreamTradesRequest, context: Any
    ) -> AsyncIterator[matcher_pb2.StreamTradesResponse]:
        """See the proto."""
        del context
        after = request.after_sequence if request.HasField("after_sequence") else None
        async for trades in self._trades.subscribe(symbol_name(request.symbol), after):
            yield matcher_pb2.StreamTradesResponse(trades=[public_trade(trade) for trade in trades])

    async def PutSymbol(self, request: matcher_pb2.PutSymbolRequest, context: Any) -> matcher_pb2.PutSymbolResponse:
        """See the proto."""
        del context
        symbol = checked_symbol(request.symbol)
        self._sequencer.check_change(symbol)
        if not await self._journal.put_symbol(symbol):
            rule = "a market of this shard, with the assets it has"
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="symbol.symbol", rule=rule))
        put = command_pb2.PutSymbol(symbol=symbol_message(symbol))
        (answer,) = await self._commit([command_pb2.Command(put_symbol=put)])
        if isinstance(answer, RefusedError):  # an order came in between
            raise answer
        return matcher_pb2.PutSymbolResponse(symbol=put.symbol)

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
        market = self._sequencer.engine.markets.get(request.symbol)
        if market is None:
            raise RefusedError(symbol_unknown(request.symbol))
        best_ask = market.book.best(Side.SELL)
        price = market.last_price or (best_ask.price if best_ask is not None else 0)
        return matcher_pb2.GetReferencePriceResponse(price=format_units(price) if price else "")

    async def ListTradeHeads(
        self, request: matcher_pb2.ListTradeHeadsRequest, context: Any
    ) -> matcher_pb2.ListTradeHeadsResponse:
        """See the proto."""
        del request, context
        heads = [matcher_pb2.TradeHead(symbol=symbol, sequence=last) for symbol, last in self._trades.heads()]
        return matcher_pb2.ListTradeHeadsResponse(heads=heads)

    async def ReplayTrades(
        self, request: matcher_pb2.ReplayTradesRequest, context: Any
    ) -> AsyncIterator[matcher_pb2.ReplayTradesResponse]:
        """See the proto."""
        del context
        symbol = symbol_name(request.symbol)
        last = dict(self._trades.heads()).get(symbol)
        if last is None:
            raise RefusedError(symbol_unknown(symbol))
        if not 1 <= request.first_sequence <= request.last_sequence <= last:
            rule = f"from 1 to first_sequence to last_sequence to {last}, the newest"
            raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="last_sequence", rule=rule))
        async for events in self._reteller.trades(symbol, request.first_sequence, request.last_sequence):
            yield matcher_pb2.ReplayTradesResponse(events=events)

    async def GetStatus(self, request: matcher_pb2.GetStatusRequest, context: Any) -> matcher_pb2.GetStatusResponse:
        """See the proto."""
        del request, context
        snapshot_sequence, state_hash = await self._journal.newest_state_hash()
        return matcher_pb2.GetStatusResponse(
            shard=self._journal.shard,
            epoch=self._journal.epoch,
            sequence=self._sequencer.sequence,
            state_hash=state_hash,
            outbox_lag=self._relay.lag,
            snapshot_sequence=snapshot_sequence,
        )

    async def _commit(self, commands: Sequence[command_pb2.Command]) -> Sequence[Answer]:
        """Answers, once the journal has them. Where it may or may not, the caller asks again: by then another leads."""
        try:
            return await self._intake.submit(commands)
        except FATAL as error:
            raise RefusedError(away("journal")) from error


def _result(answer: Answer) -> command_pb2.CommandResult:
    if not isinstance(answer, RefusedError):
        return answer
    refused = answer.refused
    return command_pb2.CommandResult(
        refusal=refused.reason.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        refused_field=refused.field,
    )
