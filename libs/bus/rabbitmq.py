"""The bus on RabbitMQ: persistent messages, publisher confirms, manual acknowledgements, bounded prefetch."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from libs.bus import topology
from libs.bus.interface import Batch, BusAwayError, Message, beginning
from libs.config import RabbitMq
from libs.telemetry import BUS_CONSUMED, BUS_PUBLISHED

log = structlog.get_logger()
# StopAsyncIteration is what aiormq lets out where a connection ends while it is opened.
_AWAY = (AMQPError, OSError, TimeoutError, asyncio.InvalidStateError, RuntimeError, StopAsyncIteration)
_CONNECT_TIMEOUT_S = 5
_CONFIRM_TIMEOUT_S = 10
# A broker that is gone without a word (a cut cable, a machine that is lost) is missed after three of these and a little;
# by aiormq's default of 60 that is after three minutes. Five is the least that RabbitMQ recommends.
HEARTBEAT_S = 5
_RECONNECT_S = 0.5
_IN_FLIGHT_MAX = 200
_CONTENT_TYPE = "application/x-protobuf"


async def declare_topology(channel: AbstractChannel, settings: RabbitMq) -> None:
    """Declare every exchange, queue and binding; declaring again changes nothing."""
    prefix = settings.prefix
    for name in topology.EXCHANGES:
        await channel.declare_exchange(prefix + name, aio_pika.ExchangeType.TOPIC, durable=True)
    for queue in topology.ALL_QUEUES:
        arguments: dict[str, Any] = dict(queue.arguments(prefix, quorum=settings.quorum))
        declared = await channel.declare_queue(prefix + queue.name, durable=True, arguments=arguments)
        await declared.bind(prefix + queue.exchange, queue.binding)


async def _connect(settings: RabbitMq) -> AbstractConnection:
    url = settings.url.get_secret_value()
    if "heartbeat" not in parse_qs(urlsplit(url).query):
        url += f"{'&' if urlsplit(url).query else '?'}heartbeat={HEARTBEAT_S}"
    return await aio_pika.connect(url, timeout=_CONNECT_TIMEOUT_S)


async def _close(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await connection.close()
    except _AWAY:
        log.debug("closing a lost connection failed")


class RabbitPublisher:
    """Publishes with confirms, many in flight, in order; reconnects at the next publish after a fault."""

    def __init__(self, settings: RabbitMq) -> None:
        self._settings = settings
        self._connection: AbstractConnection | None = None
        self._exchanges: dict[str, AbstractExchange] = {}

    async def publish(self, messages: Sequence[Message]) -> None:
        """See Publisher.publish."""
        try:
            async with asyncio.timeout(_CONFIRM_TIMEOUT_S):
                exchanges = await self._connected()
                for start in range(0, len(messages), _IN_FLIGHT_MAX):
                    chunk = messages[start : start + _IN_FLIGHT_MAX]
                    await asyncio.gather(*(self._send(exchanges[message.exchange], message) for message in chunk))
        except _AWAY as error:
            await self.close()
            raise BusAwayError(f"{type(error).__name__}: {error}") from error
        for message in messages:
            BUS_PUBLISHED.labels(message.exchange).inc()

    async def close(self) -> None:
        """Close the connection; the next publish opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)

    async def _connected(self) -> dict[str, AbstractExchange]:
        if self._connection is None or self._connection.is_closed:
            self._connection = await _connect(self._settings)
            channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            await declare_topology(channel, self._settings)
            self._exchanges = {
                name: await channel.get_exchange(self._settings.prefix + name, ensure=False)
                for name in (topology.TRADE_EVENTS, topology.ORDER_EVENTS)
            }
        return self._exchanges

    async def _send(self, exchange: AbstractExchange, message: Message) -> None:
        await exchange.publish(
            aio_pika.Message(
                message.body,
                content_type=_CONTENT_TYPE,
                type=message.message_type,
                message_id=message.message_id,
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            ),
            routing_key=message.routing_key,
            mandatory=True,
        )


class RabbitConsumer:
    """Consumes a shared durable queue, or, with `exclusive`, a private queue that lives as long as its connection."""

    def __init__(self, settings: RabbitMq, queue: topology.Queue, *, exclusive: bool = False) -> None:
        self._settings = settings
        self._queue = queue
        self._exclusive = exclusive

    async def batches(self, max_messages: int) -> AsyncGenerator[Batch, None]:
        """See Consumer.batches."""
        while True:
            try:
                connection = await _connect(self._settings)
            except _AWAY as error:
                log.warning("broker away", queue=self._queue.name, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RECONNECT_S)
                continue
            try:
                async for batch in self._consume(connection, max_messages):
                    yield batch
            except _AWAY as error:
                log.warning("connection to the broker lost", queue=self._queue.name, error=str(error))
            finally:
                await _close(connection)
            await asyncio.sleep(_RECONNECT_S)

    async def _consume(self, connection: AbstractConnection, max_messages: int) -> AsyncGenerator[Batch, None]:
        arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()  # prefetch bounds it

        def end(*_: object) -> None:
            arrived.put_nowait(None)

        connection.close_callbacks.add(end)
        channel = await connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(end)  # the broker closes it where an acknowledgement takes too long for its taste
        # ... and ends the consumer alone where its queue is deleted, or loses its leader.
        (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(end)
        await channel.set_qos(prefetch_count=self._settings.prefetch)
        await declare_topology(channel, self._settings)
        queue = await self._declare(channel)
        await queue.consume(arrived.put)
        if self._exclusive:
            yield beginning()
        while True:
            incoming = [await arrived.get()]
            while len(incoming) < max_messages and not arrived.empty():
                incoming.append(arrived.get_nowait())
            if None in incoming:
                raise ConnectionResetError("closed")
            yield self._batch([item for item in incoming if item is not None])

    async def _declare(self, channel: AbstractChannel) -> Any:
        if not self._exclusive:
            return await channel.get_queue(self._settings.prefix + self._queue.name, ensure=False)
        queue = await channel.declare_queue(
            "", exclusive=True, auto_delete=True, arguments={"x-max-length": topology.STREAM_MAX_MESSAGES}
        )
        await queue.bind(self._settings.prefix + self._queue.exchange, self._queue.binding)
        return queue

    def _batch(self, incoming: list[AbstractIncomingMessage]) -> Batch:
        messages = [
            Message(
                exchange=self._queue.exchange,
                routing_key=item.routing_key or "",
                message_type=item.type or "",
                message_id=item.message_id or "",
                body=item.body,
            )
            for item in incoming
        ]
        open_items = {id(message): item for message, item in zip(messages, incoming, strict=True)}

        async def acknowledge() -> None:
            try:
                for item in open_items.values():
                    await item.ack()
            except _AWAY as error:
                raise BusAwayError(f"{type(error).__name__}: {error}") from error
            BUS_CONSUMED.labels(self._queue.name).inc(len(open_items))

        async def reject(message: Message) -> None:
            try:
                await open_items.pop(id(message)).reject(requeue=False)
            except _AWAY as error:
                raise BusAwayError(f"{type(error).__name__}: {error}") from error

        return Batch(messages=messages, acknowledge=acknowledge, reject=reject)
