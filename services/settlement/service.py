"""Settlement's gRPC face."""

from typing import Any

from exchange.common.v1 import order_pb2
from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.ids import parse_text
from libs.money import format_units
from libs.orders import symbol_name
from libs.paging import page_size
from libs.reasons import Reason, Refused, RefusedError
from services.settlement.store import SettlementStore

PAGE_DEFAULT = 100
PAGE_MAX = 1000
_AFTER_THE_LAST = 2**63 - 1


class SettlementService(settlement_pb2_grpc.SettlementServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(self, *, store: SettlementStore) -> None:
        self._store = store

    async def ListTrades(
        self, request: settlement_pb2.ListTradesRequest, context: Any
    ) -> settlement_pb2.ListTradesResponse:
        """See the proto."""
        del context
        symbol = symbol_name(parse_text(request.symbol, field="symbol"))
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        before = _sequence_from(request.page_token)
        rows = await self._store.tape(symbol, before, size)
        response = settlement_pb2.ListTradesResponse(trades=[_tape_trade(row) for row in rows])
        if len(rows) == size:
            response.next_page_token = str(rows[-1]["sequence"])
        return response

    async def GetStatus(
        self, request: settlement_pb2.GetStatusRequest, context: Any
    ) -> settlement_pb2.GetStatusResponse:
        """See the proto."""
        del request, context
        settled, dead = await self._store.status()
        return settlement_pb2.GetStatusResponse(settled=settled, dead_letters=dead)


def _sequence_from(token: str) -> int:
    if not token:
        return _AFTER_THE_LAST
    if not (token.isascii() and token.isdigit() and len(token) <= 18):
        raise RefusedError(Refused(Reason.PAGE_INVALID, field="page_token", rule="as given by the page before"))
    return int(token)


def _tape_trade(row: Any) -> settlement_pb2.TapeTrade:
    taker_is_buyer = row["maker_side"] == order_pb2.SIDE_SELL
    trade = settlement_pb2.TapeTrade(
        trade_id=str(row["trade_id"]),
        sequence=row["sequence"],
        symbol=row["symbol"],
        price=format_units(row["price"]),
        quantity=format_units(row["quantity"]),
        taker_side=order_pb2.SIDE_BUY if taker_is_buyer else order_pb2.SIDE_SELL,
    )
    trade.executed_at.FromDatetime(row["executed_at"])
    return trade
