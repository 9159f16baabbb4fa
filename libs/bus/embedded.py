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

NOTIFY = "SELECT pg_notify($1, '')"
SELECT_OUTBOX = """
SELECT position, exchange, routing_key, message_type, message_id, body
FROM matcher.outbox
WHERE shard = $1 AND position > $2 AND exchange = $3
ORDER BY position
LIMIT $4
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
            except DatabaseAway as error:
                log.warning("database away", queue=self._queue.name, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RECONNECT_S)

    async def _tail(self, connection: Any, woken: asyncio.Event, max_messages: int) -> AsyncGenerator[Batch, None]:
        positions = {shard: await self._start(connection, shard) for shard in self._shards}
        if not self._durable:
            yield beginning()
        while True:
            woken.clear()
            more = False
            for shard, position in positions.items():
                rows = await connection.fetch(SELECT_OUTBOX, shard, position, self._queue.exchange, max_messages)
                if rows:
                    batch = _Rows(self, shard, rows)
                    yield batch.as_batch()
                    if batch.acknowledged:
                        positions[shard] = batch.last
                    more |= len(rows) == max_messages or not batch.acknowledged
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

    def __init__(self, consumer: EmbeddedConsumer, shard: int, rows: Sequence[Any]) -> None:
        self._consumer = consumer
        self._shard = shard
        self._rows = rows
        self.last: int = rows[-1]["position"]
        self.acknowledged = False

    def as_batch(self) -> Batch:
        messages = [Message(*list(row.values())[1:]) for row in self._rows]
        return Batch(messages=messages, acknowledge=self._acknowledge, reject=_keep_in_outbox)

    async def _acknowledge(self) -> None:
        await self._consumer.advance(self._shard, self.last, len(self._rows))
        self.acknowledged = True


async def _keep_in_outbox(message: Message) -> None:
    """The row stays in the outbox; its consumer has recorded it among its own dead letters."""
    log.error("message given up", message_id=message.message_id, routing_key=message.routing_key)
