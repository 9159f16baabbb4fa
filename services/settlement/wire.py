"""Settlement's rows as its protos have them."""

from typing import Any

from exchange.common.v1 import order_pb2
from exchange.events.v1 import trade_pb2
from exchange.settlement.v1 import dead_letter_pb2
from exchange.settlement.v1 import trade_pb2 as tape_pb2

from libs.money import format_units
from libs.times import put_time
from services.settlement.store import LetterRow


def tape_trade(row: Any) -> tape_pb2.TapeTrade:
    """A trade as the public sees it."""
    taker_is_buyer = row["maker_side"] == order_pb2.SIDE_SELL
    trade = tape_pb2.TapeTrade(
        trade_id=row["trade_id"],
        sequence=row["sequence"],
        symbol=row["symbol"],
        price=format_units(row["price"]),
        quantity=format_units(row["quantity"]),
        taker_side=order_pb2.SIDE_BUY if taker_is_buyer else order_pb2.SIDE_SELL,
    )
    put_time(trade.executed_at, row["executed_at"])
    return trade


def user_fill(row: Any) -> tape_pb2.UserFill:
    """One side of a trade as its owner sees it."""
    fill = tape_pb2.UserFill(
        trade_id=row["trade_id"],
        sequence=row["sequence"],
        symbol=row["symbol"],
        order_id=row["order_id"],
        side=row["side"],
        maker=row["maker"],
        price=format_units(row["price"]),
        quantity=format_units(row["quantity"]),
        fee=format_units(row["fee"]),
        fee_asset=row["fee_asset"],
    )
    put_time(fill.executed_at, row["executed_at"])
    put_time(fill.settled_at, row["settled_at"])
    return fill


def dead_letter(row: LetterRow) -> dead_letter_pb2.DeadLetter:
    """A dead letter as an operator sees it."""
    letter = dead_letter_pb2.DeadLetter(
        letter_id=row.letter_id, symbol=row.symbol, reason=row.reason, message=row.message, attempts=row.attempts
    )
    if row.is_trade:
        letter.trade.CopyFrom(trade_pb2.Trade.FromString(row.body))
    put_time(letter.created_at, row.created_at)
    put_time(letter.failed_at, row.failed_at)
    if row.resolved_at is not None:
        put_time(letter.resolved_at, row.resolved_at)
    return letter
