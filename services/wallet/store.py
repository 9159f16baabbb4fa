"""The ledger's tables: read what a batch needs under locks, write what it changed in one statement.

A write names the sequence that every balance had and what every reservation held when it was decided; if one has moved
meanwhile, nothing is written. Rows are locked in the order of (account, asset), so that writers never deadlock.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from libs.db.pool import Pool, transaction
from services.wallet.core.books import Balance, BalanceKey, Reservation
from services.wallet.core.ledger import Ledger
from services.wallet.core.operations import (
    EXTERNAL_ACCOUNT,
    FEES_ACCOUNT,
    Applied,
    BalanceAt,
    Purpose,
    Recorded,
    contents_of,
)

SELECT_USER_BALANCES = """
SELECT asset, available, reserved, sequence FROM wallet.balances WHERE account_id = $1 ORDER BY asset
"""
SELECT_BALANCES_OF_USERS = """
SELECT account_id::text, asset, available, reserved, sequence
FROM wallet.balances WHERE account_id = ANY ($1::uuid[]) ORDER BY account_id, asset
"""
LOCK_BALANCES = """
SELECT b.account_id::text, b.asset, b.available, b.reserved, b.sequence
FROM wallet.balances b JOIN unnest($1::uuid[], $2::text[]) AS n (account_id, asset) USING (account_id, asset)
ORDER BY b.account_id, b.asset FOR UPDATE OF b
"""
SELECT_RESERVATIONS = """
SELECT order_id::text, reservation_id::text, user_id::text, asset, amount, remaining, closed, purpose::text
FROM wallet.reservations WHERE order_id = ANY ($1::uuid[])
"""
SELECT_OPERATIONS = """
SELECT o.kind::text, o.key, o.contents, o.answer
FROM wallet.operations o JOIN unnest($1::text[], $2::text[]) AS n (kind, key)
    ON o.kind = n.kind::wallet.operation_kind AND o.key = n.key
"""
# Amounts come as `{amounts}` arrays, {unit} each.
_WRITE = """
WITH moved AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::{amounts}[], $4::{amounts}[], $5::bigint[], $6::bigint[])
        AS m (account_id, asset, available, reserved, old_sequence, new_sequence)
), locked AS MATERIALIZED (
    SELECT m.* FROM wallet.balances b JOIN moved m USING (account_id, asset)
    ORDER BY b.account_id, b.asset FOR UPDATE OF b
), updated AS (
    UPDATE wallet.balances b
    SET available = l.available * {unit}, reserved = l.reserved * {unit}, sequence = l.new_sequence
    FROM locked l
    WHERE b.account_id = l.account_id AND b.asset = l.asset AND b.sequence = l.old_sequence
    RETURNING 1
), inserted AS (
    INSERT INTO wallet.balances (account_id, asset, kind, available, reserved, sequence)
    SELECT account_id, asset, kind, available * {unit}, reserved * {unit}, sequence
    FROM unnest($7::uuid[], $8::text[], $9::text[]::wallet.account_kind[], $10::{amounts}[], $11::{amounts}[],
                $12::bigint[]) AS f (account_id, asset, kind, available, reserved, sequence)
), booked AS (
    INSERT INTO wallet.entries (entry_id, operation_id, account_id, asset, sequence, available_delta, reserved_delta,
                                available_after, reserved_after, kind, reference)
    SELECT entry_id, operation_id, account_id, asset, sequence, available_delta * {unit}, reserved_delta * {unit},
           available_after * {unit}, reserved_after * {unit}, kind, reference
    FROM unnest($13::uuid[], $14::uuid[], $15::uuid[], $16::text[], $17::bigint[], $18::{amounts}[], $19::{amounts}[],
                $20::{amounts}[], $21::{amounts}[], $22::text[]::wallet.operation_kind[], $23::text[])
        AS e (entry_id, operation_id, account_id, asset, sequence, available_delta, reserved_delta, available_after,
              reserved_after, kind, reference)
), reserved AS (
    INSERT INTO wallet.reservations (order_id, reservation_id, user_id, asset, amount, remaining, closed, purpose)
    SELECT order_id, reservation_id, user_id, asset, amount * {unit}, remaining * {unit}, closed, purpose
    FROM unnest($24::uuid[], $25::uuid[], $26::uuid[], $27::text[], $28::{amounts}[], $29::{amounts}[], $30::boolean[],
                $31::text[]::wallet.purpose[])
        AS n (order_id, reservation_id, user_id, asset, amount, remaining, closed, purpose)
), taken AS (
    UPDATE wallet.reservations r
    SET remaining = t.remaining * {unit}, closed = t.closed, amount = t.amount * {unit}
    FROM unnest($32::uuid[], $33::{amounts}[], $34::boolean[], $35::{amounts}[], $36::{amounts}[])
        AS t (order_id, remaining, closed, amount, old_remaining)
    WHERE r.order_id = t.order_id AND r.remaining = t.old_remaining * {unit}
    RETURNING 1
), recorded AS (
    INSERT INTO wallet.operations (kind, key, operation_id, contents, answer)
    SELECT * FROM ROWS FROM (
        unnest($37::text[]::wallet.operation_kind[]), unnest($38::text[]), unnest($39::uuid[]),
        jsonb_array_elements($40::jsonb), jsonb_array_elements($41::jsonb)
    )
)
SELECT wallet.all_or_nothing(
    (SELECT count(*) FROM updated) + (SELECT count(*) FROM taken), cardinality($1::uuid[]) + cardinality($32::uuid[])
)
"""
WRITE_CHANGES = _WRITE.format(amounts="bigint", unit="0.00000001")
# For amounts above 92 * 10^9, whose units are more than a bigint holds; encoding these costs three times as much.
WRITE_LARGE_CHANGES = _WRITE.format(amounts="numeric", unit="1")

# What another writer's win looks like: a balance moved, or it inserted the same key or row first.
LOST_RACE = (asyncpg.SerializationError, asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError)

Columns = list[Any]


class LedgerStore:
    """Reads and writes the ledger's tables; keeps nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def user_balances(self, user_id: str) -> list[BalanceAt]:
        """A user's balances, sorted by asset."""
        return [BalanceAt(*row) for row in await self._pool.fetch(SELECT_USER_BALANCES, user_id)]

    async def balances_of(self, user_ids: Sequence[str]) -> list[tuple[str, BalanceAt]]:
        """The balances of several users."""
        rows = await self._pool.fetch(SELECT_BALANCES_OF_USERS, user_ids)
        return [(user_id, BalanceAt(*balance)) for user_id, *balance in rows]

    async def write(self, columns: Columns, connection: Any = None) -> None:
        """Write changes in one statement. Raises one of LOST_RACE, and then nothing is written."""
        connection = connection or self._pool
        try:
            await connection.execute(WRITE_CHANGES, *columns)
        except asyncpg.DataError as error:
            if not isinstance(error.__cause__, OverflowError):
                raise
            await connection.execute(WRITE_LARGE_CHANGES, *columns)

    async def locked(
        self,
        connection: Any,
        balance_keys: Iterable[BalanceKey],
        order_ids: Iterable[str],
        operation_keys: Iterable[tuple[str, str]],
    ) -> Ledger:
        """What the batch needs, read in this transaction under row locks, with earlier operations of these keys."""
        balances = {key: Balance() for key in balance_keys}
        accounts, assets = zip(*sorted(balances), strict=True)
        for row in await connection.fetch(LOCK_BALANCES, list(accounts), list(assets)):
            account_id, asset, *amounts = row
            balances[account_id, asset] = Balance(*amounts)
        reservations: dict[str, Reservation | None] = dict.fromkeys(order_ids)
        for row in await connection.fetch(SELECT_RESERVATIONS, list(reservations)) if reservations else ():
            order_id, reservation_id, user_id, asset, amount, remaining, closed, purpose = row
            reservations[order_id] = Reservation(
                reservation_id, user_id, asset, amount, remaining, closed, Purpose(purpose)
            )
        kinds, keys = zip(*operation_keys, strict=True)
        recorded = {
            (kind, key): Recorded(json.loads(contents), _answer_from(answer))
            for kind, key, contents, answer in await connection.fetch(SELECT_OPERATIONS, list(kinds), list(keys))
        }
        return Ledger(balances, reservations, recorded)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A connection with an open transaction."""
        return transaction(self._pool)


def take_columns(ledger: Ledger) -> Columns:
    """Take a ledger's changes, as the 41 parameters of WRITE_CHANGES with the balances and reservations as they are now."""
    changes = ledger.take_changes()
    entries = changes.entries
    lasts = {key: number for number, key in enumerate(zip(entries.account_ids, entries.assets, strict=True))}
    for key, last in lasts.items():
        balance = ledger.balances[key]
        assert (entries.sequences[last], entries.available_after[last], entries.reserved_after[last]) == (
            balance.sequence, balance.available, balance.reserved,
        ), "a balance is what its last entry says"  # fmt: skip
    balances = [(*key, ledger.balances[key], before) for key, before in sorted(changes.balances.items())]
    moved = [
        (account, asset, balance.available, balance.reserved, before, balance.sequence)
        for account, asset, balance, before in balances
        if before
    ]
    fresh = [
        (account, asset, _account_kind(account), balance.available, balance.reserved, balance.sequence)
        for account, asset, balance, before in balances
        if not before
    ]
    new, taken = [], []
    for order_id, before in changes.reservations.items():
        held = ledger.reservations[order_id]
        assert held is not None, "what was changed is in view"
        if before is None:
            new.append((order_id, held.reservation_id, held.user_id, held.asset, held.amount, held.remaining, held.closed,
                        held.purpose.value))  # fmt: skip
        else:
            taken.append((order_id, held.remaining, held.closed, held.amount, before))
    operations = [(operation.kind, operation.key, applied.operation_id) for operation, applied in changes.operations]
    # One text for all: a text for each would take four times as long.
    contents = json.dumps([contents_of(operation) for operation, _ in changes.operations])
    answers = json.dumps([_answer(applied) for _, applied in changes.operations])
    return [
        *_transposed(moved, 6), *_transposed(fresh, 6), *entries.columns(), *_transposed(new, 8), *_transposed(taken, 5),
        *_transposed(operations, 3), contents, answers,
    ]  # fmt: skip


def _transposed(rows: Iterable[tuple[Any, ...]], width: int) -> Columns:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _account_kind(account_id: str) -> str:
    return {FEES_ACCOUNT: "FEES", EXTERNAL_ACCOUNT: "EXTERNAL"}.get(account_id, "USER")


def _answer(applied: Applied) -> dict[str, Any]:
    return {"operation_id": applied.operation_id, "balances": applied.balances, "entry_ids": applied.entry_ids}


def _answer_from(text: str) -> Applied:
    answer = json.loads(text)
    balances = tuple(BalanceAt(*at) for at in answer["balances"])
    return Applied(answer["operation_id"], balances, tuple(answer["entry_ids"]))
