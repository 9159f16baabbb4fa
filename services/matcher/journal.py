"""The matcher's tables: lease, journal, outbox. One statement per commit, and it begins with the fence."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from libs.bus.interface import Message
from libs.db.pool import Pool
from services.matcher.core.orders import Symbol

REPLAY_ROWS = 500
PRUNE_ROWS = 10_000

ENSURE_SHARD = """
INSERT INTO matcher.shards (shard, epoch, owner, address, lease_until, last_sequence, last_position)
VALUES ($1, 0, '', '', '-infinity', 0, 0) ON CONFLICT DO NOTHING
"""
TAKE_LEASE = """
UPDATE matcher.shards
SET epoch = epoch + 1, owner = $2, address = $3, lease_until = now() + $4 * interval '1 millisecond'
WHERE shard = $1 AND lease_until < now()
RETURNING epoch, last_sequence, last_position
"""
KEEP_LEASE = """
UPDATE matcher.shards SET lease_until = now() + $3 * interval '1 millisecond' WHERE shard = $1 AND epoch = $2
RETURNING epoch
"""
GIVE_LEASE = "UPDATE matcher.shards SET lease_until = '-infinity' WHERE shard = $1 AND epoch = $2"
COMMIT_BATCH = """
WITH fence AS (
    UPDATE matcher.shards
    SET last_sequence = $4, last_position = last_position + cardinality($8::text[]),
        lease_until = now() + $7 * interval '1 millisecond'
    WHERE shard = $1 AND epoch = $2 AND last_sequence = $3 - 1
    RETURNING last_position - cardinality($8::text[]) AS position
), journaled AS (
    INSERT INTO matcher.journal (shard, first_sequence, last_sequence, epoch, batch, event_hash)
    SELECT $1, $3, $4, $2, $5, $6 FROM fence
), told AS (
    INSERT INTO matcher.outbox (shard, position, exchange, routing_key, message_type, message_id, body)
    SELECT $1, f.position + m.number, m.exchange, m.routing_key, m.message_type, m.message_id, m.body
    FROM fence f,
         unnest($8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[])
            WITH ORDINALITY AS m (exchange, routing_key, message_type, message_id, body, number)
)
SELECT position FROM fence
"""
SELECT_JOURNAL = """
SELECT first_sequence, last_sequence, batch, event_hash FROM matcher.journal
WHERE shard = $1 AND first_sequence > $2 ORDER BY first_sequence LIMIT $3
"""
SELECT_SYMBOLS = """
SELECT symbol, base_asset, quote_asset, tick_size, lot_size, min_quantity, max_quantity, min_notional,
       maker_fee_bps, taker_fee_bps, market_band_bps
FROM matcher.symbols WHERE shard = $1 ORDER BY symbol
"""
SELECT_PUBLISHED = "SELECT position FROM matcher.outbox_published WHERE shard = $1"
UPSERT_PUBLISHED = """
INSERT INTO matcher.outbox_published AS p (shard, position) VALUES ($1, $2)
ON CONFLICT (shard) DO UPDATE SET position = greatest(p.position, excluded.position)
"""
SELECT_OUTBOX = """
SELECT position, exchange, routing_key, message_type, message_id, body FROM matcher.outbox
WHERE shard = $1 AND position > $2 ORDER BY position LIMIT $3
"""
PRUNE_OUTBOX = """
DELETE FROM matcher.outbox WHERE shard = $1 AND position IN (
    SELECT position FROM matcher.outbox
    WHERE shard = $1 AND position <= $2 AND created_at < now() - $3 * interval '1 second'
    ORDER BY position LIMIT $4
)
"""


class LeaseLostError(Exception):
    """Somebody else owns the shard now: nothing was written, and this process must not go on."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a shard's journal, and where it ended when the right was won."""

    epoch: int
    last_sequence: int
    last_position: int


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One commit."""

    first_sequence: int
    last_sequence: int
    batch: bytes
    event_hash: bytes


class Journal:
    """Reads and writes one shard."""

    def __init__(self, pool: Pool, *, shard: int, owner: str, address: str, lease_ms: int) -> None:
        self._pool = pool
        self.shard = shard
        self._owner = owner
        self._address = address
        self._lease_ms = lease_ms
        self.epoch = 0

    async def take_lease(self) -> Lease | None:
        """The lease, or None while another process has it."""
        await self._pool.execute(ENSURE_SHARD, self.shard)
        row = await self._pool.fetchrow(TAKE_LEASE, self.shard, self._owner, self._address, self._lease_ms)
        if row is None:
            return None
        self.epoch = row["epoch"]
        return Lease(row["epoch"], row["last_sequence"], row["last_position"])

    async def keep_lease(self) -> None:
        """Say that this process is alive. Raises LeaseLostError."""
        if await self._pool.fetchval(KEEP_LEASE, self.shard, self.epoch, self._lease_ms) is None:
            raise LeaseLostError

    async def give_lease(self) -> None:
        """Let a standby take over at once."""
        await self._pool.execute(GIVE_LEASE, self.shard, self.epoch)

    async def commit(
        self, first_sequence: int, last_sequence: int, batch: bytes, event_hash: bytes, messages: Sequence[Message]
    ) -> int:
        """Write one batch and what it tells; returns the outbox position before its messages.

        Raises LeaseLostError where the epoch or the sequence is not ours any more, and then nothing is written.
        """
        position = await self._pool.fetchval(
            COMMIT_BATCH, self.shard, self.epoch, first_sequence, last_sequence, batch, event_hash, self._lease_ms,
            [message.exchange for message in messages], [message.routing_key for message in messages],
            [message.message_type for message in messages], [message.message_id for message in messages],
            [message.body for message in messages],
        )  # fmt: skip
        if position is None:
            raise LeaseLostError
        return int(position)

    async def replay(self, after_sequence: int) -> AsyncIterator[JournalRow]:
        """Every commit after a sequence number, in order, a bounded number of rows at a time."""
        last = after_sequence
        while True:
            rows = await self._pool.fetch(SELECT_JOURNAL, self.shard, last, REPLAY_ROWS)
            for row in rows:
                yield JournalRow(row["first_sequence"], row["last_sequence"], row["batch"], row["event_hash"])
            if len(rows) < REPLAY_ROWS:
                return
            last = rows[-1]["first_sequence"]

    async def symbols(self) -> list[Symbol]:
        """The symbols that operators want this shard to have."""
        rows = await self._pool.fetch(SELECT_SYMBOLS, self.shard)
        return [Symbol(*row.values()) for row in rows]

    async def published(self) -> int:
        """The outbox position up to which the bus has confirmed."""
        return int(await self._pool.fetchval(SELECT_PUBLISHED, self.shard) or 0)

    async def set_published(self, position: int) -> None:
        """Remember that the bus has confirmed up to here."""
        await self._pool.execute(UPSERT_PUBLISHED, self.shard, position)

    async def outbox_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """Messages after a position, in order."""
        rows: list[Any] = await self._pool.fetch(SELECT_OUTBOX, self.shard, position, limit)
        return [(row["position"], Message(*list(row.values())[1:])) for row in rows]

    async def prune_outbox(self, published: int, keep_s: int) -> int:
        """Delete old confirmed rows, a bounded number; returns how many."""
        status = await self._pool.execute(PRUNE_OUTBOX, self.shard, published, keep_s, PRUNE_ROWS)
        return int(status.split()[-1])
