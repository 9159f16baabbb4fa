"""What settling writes: the tape with its counters, and the dead letters. Writing again changes nothing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from exchange.events.v1 import trade_pb2

from libs.db.pool import Pool
from libs.ids import parse_text
from libs.money import parse_units
from libs.reasons import RefusedError
from libs.times import time_at

LETTERS_COUNTED_MAX = 10_000
MESSAGE_MAX_CHARS = 1000

# The counters' rows are locked in the order of their names, so that settlements side by side do not wait in a circle.
RECORD = """
WITH settled AS (
    INSERT INTO settlement.trades (trade_id, symbol, sequence, base_asset, quote_asset, price, quantity, buyer_user_id,
        buyer_order_id, seller_user_id, seller_order_id, maker_side, buyer_fee, seller_fee, executed_at)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::numeric[], $7::numeric[],
        $8::uuid[], $9::uuid[], $10::uuid[], $11::uuid[], $12::smallint[], $13::numeric[], $14::numeric[],
        $15::timestamptz[])
    ON CONFLICT (trade_id, executed_at) DO NOTHING
    RETURNING symbol
), counted AS (
    INSERT INTO settlement.tapes AS t (symbol, settled, last_settled)
    SELECT symbol, count(*), clock_timestamp() FROM settled GROUP BY symbol ORDER BY symbol
    ON CONFLICT (symbol) DO UPDATE SET settled = t.settled + excluded.settled, last_settled = excluded.last_settled
), resolved AS (
    UPDATE settlement.dead_letters SET resolved_at = now()
    WHERE letter_id = ANY ($1::uuid[]::text[]) AND resolved_at IS NULL
)
INSERT INTO settlement.dead_letters AS d (letter_id, is_trade, symbol, reason, message, body)
SELECT * FROM unnest($16::text[], $17::boolean[], $18::text[], $19::text[], $20::text[], $21::bytea[])
ON CONFLICT (letter_id) DO UPDATE SET
    attempts = d.attempts + 1, failed_at = now(), reason = excluded.reason, message = excluded.message
WHERE d.resolved_at IS NULL
"""
SELECT_COUNTS = "SELECT symbol, settled FROM settlement.tapes ORDER BY symbol"
COUNT_OPEN_LETTERS = f"""
SELECT count(*) FROM (
    SELECT 1 FROM settlement.dead_letters WHERE resolved_at IS NULL LIMIT {LETTERS_COUNTED_MAX}
) AS counted
"""
_LETTER = "letter_id, symbol, reason, message, body, is_trade, attempts, created_at, failed_at, resolved_at"
_PAGE = "(created_at, letter_id) > ($1, $2) ORDER BY created_at, letter_id LIMIT $3"
SELECT_LETTERS = f"SELECT {_LETTER} FROM settlement.dead_letters WHERE {_PAGE}"
SELECT_OPEN_LETTERS = f"SELECT {_LETTER} FROM settlement.dead_letters WHERE resolved_at IS NULL AND {_PAGE}"
SELECT_LETTERS_BY_ID = f"SELECT {_LETTER} FROM settlement.dead_letters WHERE letter_id = ANY ($1)"


@dataclass(frozen=True, slots=True)
class DeadTrade:
    """A trade that the wallet refuses, and why."""

    trade: trade_pb2.Trade
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message that nobody can read. Who sent it may have given it any id, or none: then it is known by its body."""

    message_id: str
    body: bytes

    @property
    def letter_id(self) -> str:
        """Its id among the dead letters."""
        letter_id = f"message/{self.message_id}"
        try:
            return parse_text(letter_id, field="letter_id")
        except RefusedError:
            return f"message/{hashlib.sha256(self.body).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A dead letter as recorded; `body` is a Trade where `is_trade`, else what the message was."""

    letter_id: str
    symbol: str
    reason: str
    message: str
    body: bytes
    is_trade: bool
    attempts: int
    created_at: datetime
    failed_at: datetime
    resolved_at: datetime | None


class SettlementStore:
    """Writes schema `settlement`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(
        self, trades: Sequence[trade_pb2.Trade], dead: Sequence[DeadTrade], unreadable: Sequence[DeadMessage] = ()
    ) -> None:
        """Put settled trades on the tape and the others among the dead letters; a letter that is settled now is resolved."""
        letters = [_letter_of_trade(item) for item in dead] + [_letter_of_message(item) for item in unreadable]
        unique = {letter[0]: letter for letter in letters}
        rows = [_row(trade) for trade in trades]
        await self._pool.execute(RECORD, *_columns(rows, 15), *_columns(list(unique.values()), 6))

    async def counts(self) -> dict[str, int]:
        """Settled trades by symbol."""
        return {row["symbol"]: row["settled"] for row in await self._pool.fetch(SELECT_COUNTS)}

    async def open_letters(self) -> int:
        """How many dead letters are open, counted to LETTERS_COUNTED_MAX."""
        return int(await self._pool.fetchval(COUNT_OPEN_LETTERS))

    async def letters(self, *, with_resolved: bool, after: tuple[datetime, str], limit: int) -> list[LetterRow]:
        """A page of dead letters, oldest first."""
        sql = SELECT_LETTERS if with_resolved else SELECT_OPEN_LETTERS
        return [LetterRow(*row) for row in await self._pool.fetch(sql, *after, limit)]

    async def letters_by_id(self, letter_ids: Sequence[str]) -> list[LetterRow]:
        """These dead letters, as far as there are such."""
        return [LetterRow(*row) for row in await self._pool.fetch(SELECT_LETTERS_BY_ID, list(letter_ids))]


def executed_at(trade: trade_pb2.Trade) -> datetime:
    """When it was matched, to the microsecond."""
    return time_at(trade.executed_at_ns)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _row(trade: trade_pb2.Trade) -> tuple[Any, ...]:
    return (
        trade.trade_id, trade.symbol, trade.sequence, trade.base_asset, trade.quote_asset,
        parse_units(trade.price, field="price"), parse_units(trade.quantity, field="quantity"),
        trade.buyer_user_id, trade.buyer_order_id, trade.seller_user_id, trade.seller_order_id, trade.maker_side,
        parse_units(trade.buyer_fee, field="buyer_fee"), parse_units(trade.seller_fee, field="seller_fee"),
        executed_at(trade),
    )  # fmt: skip


def _letter_of_trade(item: DeadTrade) -> tuple[Any, ...]:
    trade = item.trade
    message = item.message[:MESSAGE_MAX_CHARS].replace("\x00", "\ufffd")  # it may quote what PostgreSQL has no text for
    return (trade.trade_id, True, trade.symbol, item.reason, message, trade.SerializeToString())


def _letter_of_message(item: DeadMessage) -> tuple[Any, ...]:
    return (item.letter_id, False, "", "UNREADABLE", "not a TradeEvents", item.body)
