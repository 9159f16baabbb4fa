"""The tape and the dead letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from exchange.events.v1 import trade_pb2

from libs.db.pool import Pool
from libs.money import parse_units

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

RECORD = """
WITH settled AS (
    INSERT INTO settlement.trades (trade_id, symbol, sequence, base_asset, quote_asset, price, quantity, buyer_user_id,
        buyer_order_id, seller_user_id, seller_order_id, maker_side, buyer_fee, seller_fee, executed_at)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::numeric[], $7::numeric[],
        $8::uuid[], $9::uuid[], $10::uuid[], $11::uuid[], $12::smallint[], $13::numeric[], $14::numeric[],
        $15::timestamptz[])
    ON CONFLICT (trade_id) DO NOTHING
)
INSERT INTO settlement.dead_letters (message_id, item, reason, message, body)
SELECT * FROM unnest($16::text[], $17::integer[], $18::text[], $19::text[], $20::bytea[])
ON CONFLICT DO NOTHING
"""
SELECT_TAPE = """
SELECT trade_id, sequence, symbol, price, quantity, maker_side, executed_at
FROM settlement.trades WHERE symbol = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3
"""
SELECT_STATUS = """
SELECT (SELECT count(*) FROM settlement.trades) AS settled, (SELECT count(*) FROM settlement.dead_letters) AS dead
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A trade (or, with item -1, a whole message) that cannot be settled."""

    message_id: str
    item: int
    reason: str
    message: str
    body: bytes


class SettlementStore:
    """Reads and writes schema `settlement`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, trades: Sequence[trade_pb2.Trade], dead: Sequence[DeadLetter]) -> None:
        """Put settled trades on the tape and the others among the dead letters; again changes nothing."""
        rows = [_row(trade) for trade in trades]
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(15)]
        await self._pool.execute(
            RECORD, *columns, [item.message_id for item in dead], [item.item for item in dead],
            [item.reason for item in dead], [item.message for item in dead], [item.body for item in dead],
        )  # fmt: skip

    async def tape(self, symbol: str, before_sequence: int, limit: int) -> list[Any]:
        """Trades of a symbol, newest first, with a number below `before_sequence`."""
        return list(await self._pool.fetch(SELECT_TAPE, symbol, before_sequence, limit))

    async def status(self) -> tuple[int, int]:
        """How many trades are settled, how many are dead."""
        row = await self._pool.fetchrow(SELECT_STATUS)
        assert row is not None, "counts always give a row"
        return row["settled"], row["dead"]


def _row(trade: trade_pb2.Trade) -> tuple[Any, ...]:
    return (
        trade.trade_id, trade.symbol, trade.sequence, trade.base_asset, trade.quote_asset,
        parse_units(trade.price, field="price"), parse_units(trade.quantity, field="quantity"),
        trade.buyer_user_id, trade.buyer_order_id, trade.seller_user_id, trade.seller_order_id, trade.maker_side,
        parse_units(trade.buyer_fee, field="buyer_fee"), parse_units(trade.seller_fee, field="seller_fee"),
        _EPOCH + timedelta(microseconds=trade.executed_at_ns // 1000),
    )  # fmt: skip
