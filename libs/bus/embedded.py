"""The bus without a broker: consumers tail the matcher's outbox in PostgreSQL, each with a cursor of its own.

The outbox is numbered without gaps by its one writer inside its own transaction, so a position once seen is final. The
publisher has nothing to send; it wakes the readers with NOTIFY (not inside the trading transaction, where NOTIFY would
take a global lock).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import structlog

from libs.bus.interface import Batch, BusAwayError, Message, beginning
from libs.bus.topology import Queue
from libs.db.pool import DatabaseAway, Pool
from libs.telemetry import BUS_CONSUMED, BUS_PUBLISHED

CHANNEL = "trade_engine_outbox"
_POLL_S = 1.0
_RECONNECT_S = 0.5

# One look goes through so many rows and no more, however few of them are of the exchange that is read.
LOOKED_AT_MAX = 1000

NOTIFY = "SELECT pg_notify($1, '')"
# How many rows were looked at and up to where; beside it (or beside nothing) those of the exchange.
SELECT_OUTBOX = f"""
WITH looked AS (
    SELECT count(*) AS at, max(position) AS until FROM (
        SELECT position FROM matcher.outbox WHERE shard = $1 AND position > $2 ORDER BY position LIMIT {LOOKED_AT_MAX}
    ) AS next
)
SELECT looked.at, looked.until, o.position, o.exchange, o.routing_key, o.message_type, o.message_id, o.body
FROM looked LEFT JOIN LATERAL (
    SELECT * FROM matcher.outbox
    WHERE shard = $1 AND position > $2 AND position <= looked.until AND exchange = $3 ORDER BY position LIMIT $4
) AS o ON true
ORDER BY o.position
"""
SELECT_END = "SELECT coalesce(max(position), 0) FROM matcher.outbox WHERE shard = $1"
OPEN_CURSOR = """
INSERT INTO matcher.outbox_cursors AS c (queue, shard, position) VALUES ($1, $2, 0)
ON CONFLICT (queue, shard) DO UPDATE SET position = c.position RETURNING position
"""
UPSERT_CURSOR = """
INSERT INTO matcher.outbox_cursors AS c (queue, shard, position) VALUES ($1, $2, $3)
ON CONFLICT (queue, shard) DO UPDATE SET position = greatest(c.position, excluded.position)
"""

log = structlog.get_logger()


class EmbeddedPublisher:
    """Wakes the readers; the messages stand in the outbox already."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def publish(self, messages: Sequence[Message]) -> None:
        """See Publisher.publish."""
        try:
            await self._pool.execute(NOTIFY, CHANNEL)
        except DatabaseAway as error:
            raise BusAwayError(str(error)) from error
        for message in messages:
            BUS_PUBLISHED.labels(message.exchange).inc()

    async def close(self) -> None:
        """Nothing to close: the pool is its owner's."""


class EmbeddedConsumer:
    """Reads one exchange's rows of every shard after its cursors.

    Unless it is `durable` it begins at the end and remembers nothing. One process per queue reads it: this bus is for one
    machine.
    """

    def __init__(self, pool: Pool, queue: Queue, *, shards: int, durable: bool) -> None:
        self._pool = pool
        self._queue = queue
        self._shards = range(shards)
        self._durable = durable

    async def batches(self, max_messages: int) -> AsyncGenerator[Batch, None]:
        """See Consumer.batches."""
        while True:
            try:
                async with self._pool.acquire() as connection:
                    woken = asyncio.Event()

                    def wake(*_: object, woken: asyncio.Event = woken) -> None:
                        woken.set()

                    await connection.add_listener(CHANNEL, wake)
                    try:
                        async for batch in self._tail(connection, woken, max_messages):
                            yield batch
                    finally:
                        # A fault here must not take the place of the cancellation that brought us here.
                        with contextlib.suppress(*DatabaseAway):
                            await connection.remove_listener(CHANNEL, wake)
            except (BusAwayError, *DatabaseAway) as error:
                log.warning("database away", queue=self._queue.name, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RECONNECT_S)

    async def _tail(self, connection: Any, woken: asyncio.Event, max_messages: int) -> AsyncGenerator[Batch, None]:
        positions = {shard: await self._start(connection, shard) for shard in self._shards}
        remembered = dict(positions)
        if not self._durable:
            yield beginning()
        while True:
            woken.clear()
            more = False
            for shard, position in positions.items():
                found = await connection.fetch(SELECT_OUTBOX, shard, position, self._queue.exchange, max_messages)
                rows = [row for row in found if row["position"] is not None]
                # Where not all of a look's rows were asked for, the next look begins after the last of these.
                last = rows[-1]["position"] if len(rows) == max_messages else found[0]["until"]
                if rows:
                    batch = _Rows(self, shard, rows, last)
                    yield batch.as_batch()
                    if batch.acknowledged:
                        positions[shard] = remembered[shard] = last
                    more |= not batch.acknowledged
                elif last is not None:
                    positions[shard] = last
                    # So that what others have read may be deleted, and a restart does not begin before it.
                    if last - remembered[shard] >= LOOKED_AT_MAX:
                        await self.advance(shard, last, 0)
                        remembered[shard] = last
                more |= len(rows) == max_messages or found[0]["at"] == LOOKED_AT_MAX
            if not more:  # what has come meanwhile has woken us again
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await woken.wait()

    async def _start(self, connection: Any, shard: int) -> int:
        if not self._durable:
            return int(await connection.fetchval(SELECT_END, shard))
        return int(await connection.fetchval(OPEN_CURSOR, self._queue.name, shard))

    async def advance(self, shard: int, position: int, messages: int) -> None:
        """Remember that everything up to here is done. Raises BusAwayError."""
        if self._durable:
            try:
                await self._pool.execute(UPSERT_CURSOR, self._queue.name, shard, position)
            except DatabaseAway as error:
                raise BusAwayError(str(error)) from error
        BUS_CONSUMED.labels(self._queue.name).inc(messages)


class _Rows:
    """One read of one shard."""

    def __init__(self, consumer: EmbeddedConsumer, shard: int, rows: Sequence[Any], last: int) -> None:
        self._consumer = consumer
        self._shard = shard
        self._rows = rows
        self._last = last
        self.acknowledged = False

    def as_batch(self) -> Batch:
        messages = [
            Message(row["exchange"], row["routing_key"], row["message_type"], row["message_id"], row["body"])
            for row in self._rows
        ]
        return Batch(messages=messages, acknowledge=self._acknowledge, reject=_keep_in_outbox)

    async def _acknowledge(self) -> None:
        await self._consumer.advance(self._shard, self._last, len(self._rows))
        self.acknowledged = True


async def _keep_in_outbox(message: Message) -> None:
    """The row stays in the outbox; its consumer has recorded it among its own dead letters."""
    log.error("message given up", message_id=message.message_id, routing_key=message.routing_key)
