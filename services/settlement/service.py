"""Settlement's gRPC face."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from exchange.events.v1 import trade_pb2
from exchange.settlement.v1 import reconciliation_pb2, settlement_pb2, settlement_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.ids import LAST_ID, parse_id, parse_text
from libs.orders import symbol_name
from libs.paging import bad_token, page_size, parse_token, token_after
from libs.reasons import Reason, Refused, RefusedError
from libs.times import parse_time
from services.settlement.consumer import Settler
from services.settlement.monitor import Monitor
from services.settlement.reconciler import Reconciler
from services.settlement.store import SettlementStore
from services.settlement.streams import SettlementStreams
from services.settlement.tape import END_OF_TIME, START_OF_TIME, Tape
from services.settlement.wire import dead_letter, tape_trade, user_fill

PAGE_DEFAULT = 100
PAGE_MAX = 1000
RETRIES_MAX = 500
_SEQUENCE_END = 2**63 - 1


class SettlementService(settlement_pb2_grpc.SettlementServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(
        self, *, store: SettlementStore, tape: Tape, settler: Settler, monitor: Monitor, reconciler: Reconciler,
        streams: SettlementStreams,
    ) -> None:  # fmt: skip
        self._store = store
        self._tape = tape
        self._settler = settler
        self._monitor = monitor
        self._reconciler = reconciler
        self._streams = streams

    async def ListTrades(
        self, request: settlement_pb2.ListTradesRequest, context: Any
    ) -> settlement_pb2.ListTradesResponse:
        """See the proto."""
        del context
        symbol = self._symbol(request.symbol)
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        since, until = _times(request.from_time, request.until_time)
        time, number = parse_token(request.page_token, start=(END_OF_TIME, str(_SEQUENCE_END)))
        if not (number.isdigit() and len(number) <= 19 and int(number) <= _SEQUENCE_END):
            raise RefusedError(bad_token())
        rows = await self._tape.trades(symbol, since=since, until=until, before=(time, int(number)), limit=size)
        response = settlement_pb2.ListTradesResponse(trades=[tape_trade(row) for row in rows])
        if len(rows) == size:
            response.next_page_token = token_after(rows[-1]["executed_at"], str(rows[-1]["sequence"]))
        return response

    async def ListFills(
        self, request: settlement_pb2.ListFillsRequest, context: Any
    ) -> settlement_pb2.ListFillsResponse:
        """See the proto."""
        del context
        user_id = parse_id(request.user_id, field="user_id")
        symbol = symbol_name(parse_text(request.symbol, field="symbol", required=False))
        order_id = parse_id(request.order_id, field="order_id") if request.order_id else ""
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        since, until = _times(request.from_time, request.until_time)
        time, trade_id = parse_token(request.page_token, start=(END_OF_TIME, LAST_ID))
        before = time, parse_id(trade_id, field="page_token")
        rows, next_page = await self._tape.fills(
            user_id, symbol=symbol, order_id=order_id, since=since, until=until, before=before, limit=size
        )
        return settlement_pb2.ListFillsResponse(
            fills=[user_fill(row) for row in rows], next_page_token=token_after(*next_page) if next_page else ""
        )

    async def StreamSettlements(
        self, request: settlement_pb2.StreamSettlementsRequest, context: Any
    ) -> AsyncIterator[settlement_pb2.StreamSettlementsResponse]:
        """See the proto."""
        del context
        symbol = self._symbol(request.symbol)
        after = request.after_sequence if request.HasField("after_sequence") else None
        if after is not None and after < 0:
            raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="after_sequence", rule="0 or more"))
        async for rows in self._streams.subscribe(symbol, after):
            yield settlement_pb2.StreamSettlementsResponse(trades=[tape_trade(row) for row in rows])

    async def GetStatus(
        self, request: settlement_pb2.GetStatusRequest, context: Any
    ) -> settlement_pb2.GetStatusResponse:
        """See the proto."""
        del request, context
        await self._monitor.look()
        position, pace = self._monitor.position, self._monitor.pace
        return settlement_pb2.GetStatusResponse(
            settled=sum(position.settled.values()),
            dead_letters=position.dead_letters,
            unsettled=pace.unsettled(),
            oldest_unsettled_s=round(pace.oldest_unsettled_s(), 3),
            settled_per_s=round(pace.settled_per_s(), 3),
            matched_per_s=round(pace.matched_per_s(), 3),
            symbols=[
                settlement_pb2.SymbolStatus(
                    symbol=symbol, matched=position.matched.get(symbol, 0), settled=position.settled.get(symbol, 0)
                )
                for symbol in sorted(position.matched.keys() | position.settled.keys())
            ],
            matchers_answer=position.matchers_answer,
        )

    async def ListDeadLetters(
        self, request: settlement_pb2.ListDeadLettersRequest, context: Any
    ) -> settlement_pb2.ListDeadLettersResponse:
        """See the proto."""
        del context
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        after = parse_token(request.page_token, start=(START_OF_TIME, ""))
        rows = await self._store.letters(with_resolved=request.with_resolved, after=after, limit=size)
        response = settlement_pb2.ListDeadLettersResponse(letters=[dead_letter(row) for row in rows])
        if len(rows) == size:
            response.next_page_token = token_after(rows[-1].created_at, rows[-1].letter_id)
        return response

    async def RetryDeadLetters(
        self, request: settlement_pb2.RetryDeadLettersRequest, context: Any
    ) -> settlement_pb2.RetryDeadLettersResponse:
        """See the proto."""
        del context
        if len(request.letter_ids) > RETRIES_MAX:
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="letter_ids", rule=f"at most {RETRIES_MAX}"))
        ids = [parse_text(text, field=f"letter_ids[{at}]") for at, text in enumerate(request.letter_ids)]
        rows = (
            await self._store.letters_by_id(ids)
            if ids
            else await self._store.letters(with_resolved=False, after=(START_OF_TIME, ""), limit=RETRIES_MAX)
        )
        open_trades = [trade_pb2.Trade.FromString(row.body) for row in rows if row.is_trade and row.resolved_at is None]
        await self._settler.settle(open_trades)
        now = await self._store.letters_by_id([row.letter_id for row in rows])
        return settlement_pb2.RetryDeadLettersResponse(
            settled=sorted(row.letter_id for row in now if row.resolved_at is not None),
            failed=[dead_letter(row) for row in now if row.resolved_at is None],
            unknown=sorted(set(ids) - {row.letter_id for row in rows}),
        )

    async def Reconcile(
        self, request: settlement_pb2.ReconcileRequest, context: Any
    ) -> settlement_pb2.ReconcileResponse:
        """See the proto."""
        del context
        symbol = symbol_name(parse_text(request.symbol, field="symbol", required=False))
        reports = await self._reconciler.reconcile(symbol, deep=request.deep)
        found = [
            reconciliation_pb2.SymbolReconciliation(
                symbol=report.symbol, journaled=report.journaled, settled=report.settled, missing=report.missing,
                repaired=report.repaired, refused=report.refused, unexplained=report.unexplained,
                different=report.different, compared=report.compared,
            )
            for report in reports
        ]  # fmt: skip
        return settlement_pb2.ReconcileResponse(symbols=found, clean=not any(report.unrepaired for report in reports))

    def _symbol(self, text: str) -> str:
        symbol = symbol_name(parse_text(text, field="symbol"))
        self._monitor.check_known(symbol)
        return symbol


def _times(since: Timestamp, until: Timestamp) -> tuple[datetime, datetime]:
    """The span asked for; a time that is not set means as far as there is."""
    return (
        parse_time(since, field="from_time") if since.ByteSize() else START_OF_TIME,
        parse_time(until, field="until_time") if until.ByteSize() else END_OF_TIME,
    )
