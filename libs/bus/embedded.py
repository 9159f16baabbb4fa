"""The bus without a broker: consumers tail the matcher's outbox in PostgreSQL, each with a cursor of its own.

The outbox is numbered without gaps by its one writer inside its own transaction, so a position once seen is final. The
publisher has nothing to send; it wakes the readers with NOTIFY (not inside the trading transaction, where NOTIFY would
take a global lock).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog

from libs.bus.interface import Batch, BusAwayError, Message
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
SELECT_CURSOR = "SELECT position FROM {schema}.bus_cursors WHERE queue = $1 AND shard = $2"
UPSERT_CURSOR = """
INSERT INTO {schema}.bus_cursors AS c (queue, shard, position) VALUES ($1, $2, $3)
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
    """Reads one exchange's rows after its cursor; without a `cursor_schema` it begins at the end and remembers nothing.

    One process per queue reads it: this bus is for one machine.
    """

    def __init__(self, pool: Pool, queue: Queue, *, shard: int, cursor_schema: str | None) -> None:
        self._pool = pool
        self._queue = queue
        self._shard = shard
        self._schema = cursor_schema

    async def batches(self, max_messages: int) -> AsyncIterator[Batch]:
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

    async def _tail(self, connection: Any, woken: asyncio.Event, max_messages: int) -> AsyncIterator[Batch]:
        position = await self._start(connection)
        while True:
            woken.clear()
            rows = await connection.fetch(SELECT_OUTBOX, self._shard, position, self._queue.exchange, max_messages)
            if not rows:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await woken.wait()
                continue
            messages = [
                Message(row["exchange"], row["routing_key"], row["message_type"], row["message_id"], row["body"])
                for row in rows
            ]
            acknowledged = False

            async def acknowledge(last: int = rows[-1]["position"], count: int = len(rows)) -> None:
                nonlocal acknowledged
                if self._schema is not None:
                    sql = UPSERT_CURSOR.format(schema=self._schema)
                    await self._pool.execute(sql, self._queue.name, self._shard, last)
                acknowledged = True
                BUS_CONSUMED.labels(self._queue.name).inc(count)

            yield Batch(messages=messages, acknowledge=acknowledge, reject=_keep_in_outbox)
            if acknowledged:
                position = rows[-1]["position"]

    async def _start(self, connection: Any) -> int:
        if self._schema is None:
            return int(await connection.fetchval(SELECT_END, self._shard))
        sql = SELECT_CURSOR.format(schema=self._schema)
        return int(await connection.fetchval(sql, self._queue.name, self._shard) or 0)


async def _keep_in_outbox(message: Message) -> None:
    """The row stays in the outbox; its consumer has recorded it among its own dead letters."""
    log.error("message given up", message_id=message.message_id, routing_key=message.routing_key)
