"""The ledger's tables: read what a batch needs, write what it changed in one statement.

A write names the sequence of every balance it read, and what every reservation held; if one has moved meanwhile,
nothing is written and the batch is decided anew, now under row locks. Rows are locked in the order of (account,
asset), so that writers never deadlock.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg

from libs.db.pool import Pool
from services.wallet.core.ledger import Balance, BalanceKey, Changes, Ledger, Reservation
from services.wallet.core.operations import (
    EXTERNAL_ACCOUNT,
    FEES_ACCOUNT,
    Applied,
    BalanceAt,
    Purpose,
    Recorded,
    contents_of,
)

CACHE_MAX = 200_000

SELECT_ASSETS = "SELECT asset FROM wallet.assets"
SELECT_USER_BALANCES = "SELECT asset, available, reserved FROM wallet.balances WHERE account_id = $1 ORDER BY asset"
SELECT_BALANCES = """
SELECT b.account_id, b.asset, b.available, b.reserved, b.sequence
FROM wallet.balances b JOIN unnest($1::uuid[], $2::text[]) AS n (account_id, asset) USING (account_id, asset)
"""
LOCK_BALANCES = SELECT_BALANCES + " ORDER BY b.account_id, b.asset FOR UPDATE OF b"
SELECT_RESERVATIONS = """
SELECT order_id, reservation_id, user_id, asset, amount, remaining, closed, purpose::text
FROM wallet.reservations WHERE order_id = ANY ($1::uuid[])
"""
SELECT_OPERATIONS = """
SELECT o.kind::text, o.key, o.contents, o.answer
FROM wallet.operations o JOIN unnest($1::text[], $2::text[]) AS n (kind, key)
    ON o.kind = n.kind::wallet.operation_kind AND o.key = n.key
"""
WRITE_CHANGES = """
WITH moved AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::numeric[], $4::numeric[], $5::bigint[], $6::bigint[])
        AS m (account_id, asset, available, reserved, old_sequence, new_sequence)
), locked AS MATERIALIZED (
    SELECT m.* FROM wallet.balances b JOIN moved m USING (account_id, asset)
    ORDER BY b.account_id, b.asset FOR UPDATE OF b
), updated AS (
    UPDATE wallet.balances b SET available = l.available, reserved = l.reserved, sequence = l.new_sequence
    FROM locked l
    WHERE b.account_id = l.account_id AND b.asset = l.asset AND b.sequence = l.old_sequence
    RETURNING 1
), inserted AS (
    INSERT INTO wallet.balances (account_id, asset, kind, available, reserved, sequence)
    SELECT * FROM unnest($7::uuid[], $8::text[], $9::text[]::wallet.account_kind[], $10::numeric[], $11::numeric[],
                         $12::bigint[])
), booked AS (
    INSERT INTO wallet.entries (entry_id, operation_id, account_id, asset, available_delta, reserved_delta, sequence,
                                available_after, reserved_after, kind, reference)
    SELECT * FROM unnest($13::uuid[], $14::uuid[], $15::uuid[], $16::text[], $17::numeric[], $18::numeric[],
                         $19::bigint[], $20::numeric[], $21::numeric[], $38::text[]::wallet.operation_kind[], $39::text[])
), reserved AS (
    INSERT INTO wallet.reservations (order_id, reservation_id, user_id, asset, amount, remaining, closed, purpose)
    SELECT * FROM unnest($22::uuid[], $23::uuid[], $24::uuid[], $25::text[], $26::numeric[], $27::numeric[],
                         $28::boolean[], $40::text[]::wallet.purpose[])
), taken AS (
    UPDATE wallet.reservations r SET remaining = t.remaining, closed = t.closed, amount = t.amount
    FROM unnest($29::uuid[], $30::numeric[], $31::boolean[], $37::numeric[], $41::numeric[])
        AS t (order_id, remaining, closed, old_remaining, amount)
    WHERE r.order_id = t.order_id AND r.remaining = t.old_remaining
    RETURNING 1
), recorded AS (
    INSERT INTO wallet.operations (kind, key, operation_id, contents, answer)
    SELECT * FROM unnest($32::text[]::wallet.operation_kind[], $33::text[], $34::uuid[], $35::jsonb[], $36::jsonb[])
)
SELECT wallet.all_or_nothing(
    (SELECT count(*) FROM updated) + (SELECT count(*) FROM taken), cardinality($1::uuid[]) + cardinality($29::uuid[])
)
"""

# What another writer's win looks like: a balance moved, or it inserted the same key or row first.
LOST_RACE = (asyncpg.SerializationError, asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError)


@dataclass(frozen=True, slots=True)
class View:
    """Balances and reservations as they were read, before a batch was applied to them."""

    balances: dict[BalanceKey, Balance]
    reservations: dict[str, Reservation]

    @classmethod
    def of(cls, ledger: Ledger) -> "View":
        """What a ledger holds now."""
        return cls(dict(ledger.balances), dict(ledger.reservations))


class LedgerStore:
    """Reads and writes the ledger; remembers balances and reservations, which the sequence check keeps honest."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._balances: dict[BalanceKey, Balance] = {}
        self._reservations: dict[str, Reservation] = {}
        self._assets: frozenset[str] = frozenset()

    async def knows_asset(self, asset: str) -> bool:
        """Whether there is such an asset."""
        if asset not in self._assets:
            self._assets = frozenset(row["asset"] for row in await self._pool.fetch(SELECT_ASSETS))
        return asset in self._assets

    async def user_balances(self, user_id: str) -> list[BalanceAt]:
        """A user's balances, sorted by asset."""
        rows = await self._pool.fetch(SELECT_USER_BALANCES, user_id)
        return [BalanceAt(row["asset"], row["available"], row["reserved"]) for row in rows]

    async def remembered(self, balance_keys: Iterable[BalanceKey], order_ids: Iterable[str]) -> Ledger:
        """What the batch needs, from memory as far as it goes; nothing of earlier operations. To be tried first."""
        wanted, orders = set(balance_keys), set(order_ids)
        balances = {key: self._balances[key] for key in wanted if key in self._balances}
        reservations = {order: self._reservations[order] for order in orders if order in self._reservations}
        if len(balances) < len(wanted) or len(reservations) < len(orders):
            async with self._pool.acquire() as connection:
                balances |= await _fetch_balances(connection, wanted - balances.keys(), SELECT_BALANCES)
                reservations |= await _fetch_reservations(connection, orders - reservations.keys())
        return Ledger(balances, reservations, {})

    async def locked(
        self,
        connection: Any,
        balance_keys: Iterable[BalanceKey],
        order_ids: Iterable[str],
        operation_keys: Iterable[tuple[str, str]],
    ) -> Ledger:
        """What the batch needs, read in this transaction under row locks, with earlier operations of these keys."""
        balances = await _fetch_balances(connection, set(balance_keys), LOCK_BALANCES)
        reservations = await _fetch_reservations(connection, set(order_ids))
        kinds, keys = zip(*operation_keys, strict=True)
        rows = await connection.fetch(SELECT_OPERATIONS, list(kinds), list(keys))
        recorded = {
            (row["kind"], row["key"]): Recorded(json.loads(row["contents"]), _answer_from(row["answer"]))
            for row in rows
        }
        return Ledger(balances, reservations, recorded)

    def transaction(self) -> Any:
        """A connection with an open transaction, as an async context manager."""
        return _Transaction(self._pool)

    async def write(self, ledger: Ledger, before: View, connection: Any = None) -> None:
        """Write what the batch changed, in one statement. Raises one of LOST_RACE, and then nothing is written."""
        await (connection or self._pool).execute(WRITE_CHANGES, *_columns(ledger, before))

    def remember(self, ledger: Ledger) -> None:
        """Keep what was written for the next batch."""
        if len(self._balances) > CACHE_MAX:
            self._balances.clear()
        if len(self._reservations) > CACHE_MAX:
            self._reservations.clear()
        for key in ledger.changes.balances:
            self._balances[key] = ledger.balances[key]
        for order_id in ledger.changes.reservations:
            reservation = ledger.reservations[order_id]
            if reservation.remaining:
                self._reservations[order_id] = reservation
            else:
                self._reservations.pop(order_id, None)

    def forget(self, balance_keys: Iterable[BalanceKey], order_ids: Iterable[str]) -> None:
        """Drop what turned out to be out of date."""
        for key in balance_keys:
            self._balances.pop(key, None)
        for order_id in order_ids:
            self._reservations.pop(order_id, None)


class _Transaction:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> Any:
        self._connection = await self._pool.acquire()
        self._transaction = self._connection.transaction()
        await self._transaction.start()
        return self._connection

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            await (self._transaction.commit() if kind is None else self._transaction.rollback())
        finally:
            await self._pool.release(self._connection)


async def _fetch_balances(connection: Any, keys: set[BalanceKey], sql: str) -> dict[BalanceKey, Balance]:
    if not keys:
        return {}
    found = dict.fromkeys(keys, Balance())
    accounts, assets = zip(*sorted(keys), strict=True)
    for row in await connection.fetch(sql, list(accounts), list(assets)):
        found[(str(row["account_id"]), row["asset"])] = Balance(row["available"], row["reserved"], row["sequence"])
    return found


async def _fetch_reservations(connection: Any, order_ids: set[str]) -> dict[str, Reservation]:
    if not order_ids:
        return {}
    return {
        str(row["order_id"]): Reservation(
            str(row["reservation_id"]),
            str(row["user_id"]),
            row["asset"],
            row["amount"],
            row["remaining"],
            row["closed"],
            Purpose(row["purpose"]),
        )
        for row in await connection.fetch(SELECT_RESERVATIONS, list(order_ids))
    }


def _columns(ledger: Ledger, before: View) -> list[list[Any]]:
    """The 41 arrays of WRITE_CHANGES."""
    changes = ledger.changes
    touched = sorted(changes.balances)
    moved = [
        (key, ledger.balances[key], before.balances[key].sequence) for key in touched if before.balances[key].sequence
    ]
    fresh = [(key, ledger.balances[key]) for key in touched if not before.balances[key].sequence]
    new = [(order, ledger.reservations[order]) for order, is_new in changes.reservations.items() if is_new]
    taken = [(order, ledger.reservations[order]) for order, is_new in changes.reservations.items() if not is_new]
    entries = changes.entries
    return [
        [key[0] for key, _, _ in moved], [key[1] for key, _, _ in moved],
        [balance.available for _, balance, _ in moved], [balance.reserved for _, balance, _ in moved],
        [old for _, _, old in moved], [balance.sequence for _, balance, _ in moved],
        [key[0] for key, _ in fresh], [key[1] for key, _ in fresh], [_account_kind(key[0]) for key, _ in fresh],
        [balance.available for _, balance in fresh], [balance.reserved for _, balance in fresh],
        [balance.sequence for _, balance in fresh],
        [entry.entry_id for entry in entries], [entry.operation_id for entry in entries],
        [entry.posting.account_id for entry in entries], [entry.posting.asset for entry in entries],
        [entry.posting.available for entry in entries], [entry.posting.reserved for entry in entries],
        [entry.sequence for entry in entries],
        [entry.available_after for entry in entries], [entry.reserved_after for entry in entries],
        [order for order, _ in new], [held.reservation_id for _, held in new], [held.user_id for _, held in new],
        [held.asset for _, held in new], [held.amount for _, held in new], [held.remaining for _, held in new],
        [held.closed for _, held in new],
        [order for order, _ in taken], [held.remaining for _, held in taken], [held.closed for _, held in taken],
        *_operation_columns(changes),
        [before.reservations[order].remaining for order, _ in taken],
        [entry.operation.kind.value for entry in entries], [entry.operation.key for entry in entries],
        [held.purpose.value for _, held in new], [held.amount for _, held in taken],
    ]  # fmt: skip


def _operation_columns(changes: Changes) -> list[list[Any]]:
    done = changes.operations
    return [
        [operation.kind.value for operation, _ in done],
        [operation.key for operation, _ in done],
        [applied.operation_id for _, applied in done],
        [json.dumps(contents_of(operation)) for operation, _ in done],
        [_answer_json(applied) for _, applied in done],
    ]


def _account_kind(account_id: str) -> str:
    return {FEES_ACCOUNT: "FEES", EXTERNAL_ACCOUNT: "EXTERNAL"}.get(account_id, "USER")


def _answer_json(applied: Applied) -> str:
    return json.dumps({
        "operation_id": applied.operation_id,
        "balances": [[at.asset, at.available, at.reserved] for at in applied.balances],
        "entry_ids": applied.entry_ids,
    })  # fmt: skip


def _answer_from(text: str) -> Applied:
    answer = json.loads(text)
    return Applied(
        answer["operation_id"], tuple(BalanceAt(*at) for at in answer["balances"]), tuple(answer["entry_ids"])
    )
