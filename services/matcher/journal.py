"""The matcher's tables: lease, journal, outbox. One statement per commit, and it begins with the fence."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from libs.bus.interface import Message
from libs.db.pool import Pool
from libs.orders import SymbolStatus
from services.matcher.core.commands import Symbol

REPLAY_ROWS = 50
PRUNE_ROWS = 10_000

ENSURE_SHARD = """
INSERT INTO matcher.shards (shard, epoch, owner, address, lease_until, last_sequence, last_position)
VALUES ($1, 0, '', '', '-infinity', 0, 0) ON CONFLICT DO NOTHING
"""
# Nobody's lease is longer than a minute (config: matcher.lease_ms). One that claims to be was given before the server's
# clock was set back. Whom it is taken from wrongly cannot commit: the epoch fences. By the clock, not by now(): who waited
# for another to take it began before that one did, and a minute from then is over before that lease is.
TAKE_LEASE = """
UPDATE matcher.shards
SET epoch = epoch + 1, owner = $2, address = $3, lease_until = now() + $4 * interval '1 millisecond'
WHERE shard = $1 AND lease_until NOT BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 minute'
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
SELECT symbol AS name, base_asset, quote_asset, tick_size AS tick, lot_size AS lot, min_quantity, max_quantity, min_notional,
       maker_fee_bps, taker_fee_bps, market_band_bps, price_band_bps, max_open_orders, status::text
FROM matcher.symbols WHERE shard = $1 ORDER BY symbol
"""
PUT_SYMBOL = """
INSERT INTO matcher.symbols AS s (shard, symbol, base_asset, quote_asset, tick_size, lot_size, min_quantity, max_quantity,
    min_notional, maker_fee_bps, taker_fee_bps, market_band_bps, price_band_bps, max_open_orders, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::matcher.symbol_status)
ON CONFLICT (symbol) DO UPDATE SET
    tick_size = excluded.tick_size, lot_size = excluded.lot_size, min_quantity = excluded.min_quantity,
    max_quantity = excluded.max_quantity, min_notional = excluded.min_notional, maker_fee_bps = excluded.maker_fee_bps,
    taker_fee_bps = excluded.taker_fee_bps, market_band_bps = excluded.market_band_bps,
    price_band_bps = excluded.price_band_bps, max_open_orders = excluded.max_open_orders, status = excluded.status
WHERE s.shard = excluded.shard
RETURNING symbol
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
# What a reader of the embedded bus has not read is kept, as a broker's queue would, but not for ever. Only the oldest rows
# are looked at: what is younger than one that is kept is kept, too.
PRUNE_OUTBOX = """
DELETE FROM matcher.outbox WHERE shard = $1 AND position IN (
    SELECT position FROM (
        SELECT position, created_at FROM matcher.outbox WHERE shard = $1 AND position <= $2 ORDER BY position LIMIT $5
    ) AS oldest
    WHERE created_at < now() - $3 * interval '1 second'
      AND (position <= (SELECT coalesce(min(c.position), $2) FROM matcher.outbox_cursors c WHERE c.shard = $1)
           OR created_at < now() - $4 * interval '1 second')
)
"""
SELECT_COMMIT_BEFORE = """
SELECT coalesce(max(first_sequence), 1) - 1 FROM matcher.journal WHERE shard = $1 AND first_sequence <= $2
"""
SELECT_LAST_SEQUENCE = "SELECT last_sequence FROM matcher.shards WHERE shard = $1"
SELECT_SNAPSHOT_HASHES = (
    "SELECT sequence, state_hash FROM matcher.snapshots WHERE shard = $1 ORDER BY sequence DESC LIMIT 100"
)
SELECT_SNAPSHOT = """
SELECT sequence, at_ns, event_hash, state_hash, state FROM matcher.snapshots
WHERE shard = $1 AND sequence <= $2 ORDER BY sequence DESC LIMIT 1
"""
SELECT_NEWEST_STATE_HASH = (
    "SELECT sequence, state_hash FROM matcher.snapshots WHERE shard = $1 ORDER BY sequence DESC LIMIT 1"
)
INSERT_SNAPSHOT = """
INSERT INTO matcher.snapshots (shard, sequence, at_ns, event_hash, state_hash, state) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
PRUNE_SNAPSHOTS = """
DELETE FROM matcher.snapshots WHERE shard = $1 AND sequence < (
    SELECT min(sequence) FROM (
        SELECT sequence FROM matcher.snapshots WHERE shard = $1 ORDER BY sequence DESC LIMIT $2
    ) AS newest
)
"""
_LAST = 2**63 - 1


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A shard's state after a command; `state` is JSON, compressed by zlib."""

    sequence: int
    at_ns: int
    event_hash: bytes
    state_hash: str
    state: bytes


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

    async def replay(self, after_sequence: int) -> AsyncGenerator[JournalRow, None]:
        """Every commit after a sequence number, in order, a bounded number of rows at a time.

        While some are worked on, the next are on their way.
        """
        reading = asyncio.create_task(self._rows_after(after_sequence))
        try:
            while True:
                rows = await reading
                if len(rows) == REPLAY_ROWS:
                    reading = asyncio.create_task(self._rows_after(rows[-1]["first_sequence"]))
                    await asyncio.sleep(0)  # it is asked for
                for row in rows:
                    yield JournalRow(row["first_sequence"], row["last_sequence"], row["batch"], row["event_hash"])
                if len(rows) < REPLAY_ROWS:
                    return
        finally:
            reading.cancel()

    async def _rows_after(self, sequence: int) -> Sequence[Any]:
        rows: Sequence[Any] = await self._pool.fetch(SELECT_JOURNAL, self.shard, sequence, REPLAY_ROWS)
        return rows

    async def commit_before(self, sequence: int) -> int:
        """The last command of the commit before the one that a command is in."""
        return int(await self._pool.fetchval(SELECT_COMMIT_BEFORE, self.shard, sequence))

    async def last_sequence(self) -> int:
        """The last command that was committed."""
        return int(await self._pool.fetchval(SELECT_LAST_SEQUENCE, self.shard) or 0)

    async def snapshot_hashes(self) -> dict[int, str]:
        """State hashes of the newest snapshots by their last command."""
        return {
            row["sequence"]: row["state_hash"] for row in await self._pool.fetch(SELECT_SNAPSHOT_HASHES, self.shard)
        }

    async def newest_state_hash(self) -> tuple[int, str]:
        """The last command in the newest snapshot, and the hash of the state after it; (0, "") where there is none."""
        row = await self._pool.fetchrow(SELECT_NEWEST_STATE_HASH, self.shard)
        return (row["sequence"], row["state_hash"]) if row is not None else (0, "")

    async def newest_snapshot(self, until: int | None = None) -> Snapshot | None:
        """The newest snapshot, at or before a command if one is named."""
        row = await self._pool.fetchrow(SELECT_SNAPSHOT, self.shard, _LAST if until is None else until)
        return None if row is None else Snapshot(*row)

    async def store_snapshot(self, snapshot: Snapshot, *, kept: int) -> None:
        """Store a snapshot and forget all but the newest `kept`."""
        values = (snapshot.sequence, snapshot.at_ns, snapshot.event_hash, snapshot.state_hash, snapshot.state)
        await self._pool.execute(INSERT_SNAPSHOT, self.shard, *values)
        await self._pool.execute(PRUNE_SNAPSHOTS, self.shard, kept)

    async def symbols(self) -> list[Symbol]:
        """The symbols that operators want this shard to have."""
        rows = await self._pool.fetch(SELECT_SYMBOLS, self.shard)
        return [Symbol(**{**row, "status": SymbolStatus[row["status"]]}) for row in rows]

    async def put_symbol(self, symbol: Symbol) -> bool:
        """Keep what operators want; False where the symbol is another shard's."""
        *filters, _ = astuple(symbol)
        return await self._pool.fetchval(PUT_SYMBOL, self.shard, *filters, symbol.status.name) is not None

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

    async def prune_outbox(self, published: int, *, keep_s: int, unread_keep_s: int) -> int:
        """Delete old confirmed rows, at most PRUNE_ROWS; returns how many."""
        status = await self._pool.execute(PRUNE_OUTBOX, self.shard, published, keep_s, unread_keep_s, PRUNE_ROWS)
        return int(status.split()[-1])
