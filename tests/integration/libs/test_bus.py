"""What any bus must do, on both: RabbitMQ, and the outbox in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import aio_pika
import pytest

from libs.bus import rabbitmq, topology
from libs.bus.consuming import consume
from libs.bus.embedded import LOOKED_AT_MAX, SELECT_OUTBOX, EmbeddedConsumer, EmbeddedPublisher
from libs.bus.interface import Batch, BusAwayError, Consumer, Message
from libs.bus.rabbitmq import RabbitConsumer, RabbitPublisher
from libs.bus.topology import ORDER_EVENTS, TRADE_EVENTS, settlement_queue
from libs.config import RabbitMq
from tests.support.plans import generic_plan
from tests.support.proxy import proxy_before
from tests.support.servers import Servers

INSERT = """
INSERT INTO matcher.outbox (shard, position, exchange, routing_key, message_type, message_id, body)
SELECT 0, (SELECT coalesce(max(position), 0) FROM matcher.outbox) + m.n, m.exchange, m.key, m.type, m.id, m.body
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[])
    WITH ORDINALITY AS m (exchange, key, type, id, body, n)
"""


class EmbeddedBus:
    def __init__(self, pool) -> None:
        self._pool = pool

    async def publish(self, messages: Sequence[Message]) -> None:
        columns = zip(
            *((m.exchange, m.routing_key, m.message_type, m.message_id, m.body) for m in messages), strict=True
        )
        await self._pool.execute(INSERT, *(list(column) for column in columns))
        await EmbeddedPublisher(self._pool).publish(messages)

    def consumer(self) -> Consumer:
        return EmbeddedConsumer(self._pool, settlement_queue(), shards=1, durable=True)

    def listener(self) -> Consumer:
        return EmbeddedConsumer(self._pool, settlement_queue(), shards=1, durable=False)


class RabbitBus:
    def __init__(self, settings: RabbitMq) -> None:
        self._settings = settings
        self._publisher = RabbitPublisher(settings)

    async def publish(self, messages: Sequence[Message]) -> None:
        await self._publisher.publish(messages)

    def consumer(self) -> Consumer:
        return RabbitConsumer(self._settings, settlement_queue())

    def listener(self) -> Consumer:
        return RabbitConsumer(self._settings, settlement_queue(), exclusive=True)

    async def remove(self) -> None:
        await self._publisher.close()
        connection = await aio_pika.connect(self._settings.url.get_secret_value())
        channel = await connection.channel()
        for queue in topology.ALL_QUEUES:
            await channel.queue_delete(self._settings.prefix + queue.name)
        for exchange in (topology.TRADE_EVENTS, topology.ORDER_EVENTS, topology.DEAD_LETTER_EXCHANGE):
            await channel.exchange_delete(self._settings.prefix + exchange)
        await connection.close()


@pytest.fixture(params=["embedded", "rabbitmq", "rabbitmq-quorum"])
async def bus(request, servers: Servers, pool) -> AsyncIterator[EmbeddedBus | RabbitBus]:
    if request.param == "embedded":
        yield EmbeddedBus(pool)
        return
    prefix = f"{servers.prefix}{request.param}."
    settings = RabbitMq(url=servers.rabbitmq, prefix=prefix, quorum=request.param.endswith("quorum"))
    rabbit = RabbitBus(settings)
    yield rabbit
    await rabbit.remove()


def messages(*numbers: int) -> list[Message]:
    return [Message(TRADE_EVENTS, "trade.BTC-USDT", "t", f"id-{n}", f"body {n}".encode()) for n in numbers]


class Reader:
    """Collects what a consumer delivers."""

    def __init__(self, consumer: Consumer, *, acknowledge: bool = True) -> None:
        self.bodies: list[bytes] = []
        self._stream = consumer.batches(10)
        self._acknowledge = acknowledge

    async def read(self, count: int) -> list[bytes]:
        async with asyncio.timeout(15):
            while len(self.bodies) < count:
                batch: Batch = await anext(self._stream)
                self.bodies += [message.body for message in batch.messages]
                if self._acknowledge:
                    await batch.acknowledge()
        return self.bodies

    async def close(self) -> None:
        await self._stream.aclose()


async def test_messages_come_in_order_and_only_once_when_acknowledged(bus) -> None:
    await bus.publish(messages(*range(25)))
    reader = Reader(bus.consumer())
    assert await reader.read(25) == [f"body {n}".encode() for n in range(25)]
    await reader.close()
    await bus.publish(messages(99))
    again = Reader(bus.consumer())
    assert await again.read(1) == [b"body 99"]
    await again.close()


async def test_what_is_not_acknowledged_comes_again(bus) -> None:
    await bus.publish(messages(1, 2, 3))
    forgetful = Reader(bus.consumer(), acknowledge=False)
    await forgetful.read(3)
    await forgetful.close()
    careful = Reader(bus.consumer())
    assert await careful.read(3) == [b"body 1", b"body 2", b"body 3"]
    await careful.close()


async def test_who_ends_while_it_handles_a_batch_has_given_its_connection_back(bus) -> None:
    """Closing it later, when the loop is about to end, would wait for ever, and with it the whole process."""
    await bus.publish(messages(1))
    handling, tasks = asyncio.Event(), asyncio.all_tasks()

    async def handle(_: Batch) -> None:
        handling.set()
        await asyncio.Event().wait()

    consuming = asyncio.create_task(consume(bus.consumer(), handle, queue="test"))
    await handling.wait()
    consuming.cancel()
    await asyncio.wait([consuming])
    assert consuming.cancelled()
    assert asyncio.all_tasks() == tasks
    careful = Reader(bus.consumer())
    assert await careful.read(1) == [b"body 1"]
    await careful.close()


async def test_a_message_published_twice_comes_twice_with_the_same_id(bus) -> None:
    await bus.publish(messages(7))
    await bus.publish(messages(7))
    reader = Reader(bus.consumer())
    assert await reader.read(2) == [b"body 7", b"body 7"]
    await reader.close()


async def test_a_rejected_message_does_not_come_again(bus) -> None:
    await bus.publish(messages(1, 2))
    stream = bus.consumer().batches(10)
    seen = 0
    async with asyncio.timeout(15):
        while seen < 2:
            batch = await anext(stream)
            seen += len(batch.messages)
            for message in batch.messages:
                if message.body == b"body 1":
                    await batch.reject(message)
            await batch.acknowledge()
    await stream.aclose()
    await bus.publish(messages(3))
    reader = Reader(bus.consumer())
    assert await reader.read(1) == [b"body 3"]
    await reader.close()


async def test_a_listener_hears_only_what_comes_after_it(bus) -> None:
    await bus.publish(messages(1))
    reader = Reader(bus.listener())
    listening = asyncio.create_task(reader.read(1))
    for number in range(2, 60):  # until it listens
        await bus.publish(messages(number))
        await asyncio.sleep(0.1)
        if listening.done():
            break
    assert (await listening)[0] != b"body 1"
    await reader.close()


async def test_what_others_publish_is_gone_past_a_part_at_a_time(pool) -> None:
    """Markets where nobody trades: the reader of trades has nothing to read, and the outbox is long."""
    bus = EmbeddedBus(pool)
    others = [Message(ORDER_EVENTS, "order.BTC-USDT", "t", "id", b"an order")] * (2 * LOOKED_AT_MAX)
    await bus.publish([*others, *messages(1), *others])
    (found,) = await pool.fetch(SELECT_OUTBOX, 0, 0, TRADE_EVENTS, 10)
    assert (found["at"], found["until"], found["position"]) == (LOOKED_AT_MAX, LOOKED_AT_MAX, None)
    async with pool.acquire() as connection:
        plan = await generic_plan(connection, SELECT_OUTBOX, [0, 0, TRADE_EVENTS, 10])
        read = [int(line.split("rows=")[-1].split()[0].split(".")[0]) for line in plan if "actual" in line]
        assert max(read) <= LOOKED_AT_MAX, "\n".join(plan)
    reader = Reader(bus.consumer())
    assert await reader.read(1) == [b"body 1"]
    reading = asyncio.create_task(reader.read(2))
    async with asyncio.timeout(15):
        while await pool.fetchval("SELECT position FROM matcher.outbox_cursors") < len(others) * 2:
            await asyncio.sleep(0.01)
    await bus.publish(messages(2))
    assert (await reading)[1:] == [b"body 2"]
    await reader.close()


async def test_the_publisher_says_when_nobody_answers() -> None:
    publisher = RabbitPublisher(RabbitMq(url="amqp://guest:guest@127.0.0.1:1/"))
    with pytest.raises(BusAwayError):
        await publisher.publish(messages(1))


async def test_rejected_messages_wait_among_the_dead_letters(servers: Servers) -> None:
    settings = RabbitMq(url=servers.rabbitmq, prefix=f"{servers.prefix}dead.")
    rabbit = RabbitBus(settings)
    await rabbit.publish(messages(1))
    stream = rabbit.consumer().batches(1)
    batch = await anext(stream)
    await batch.reject(batch.messages[0])
    await batch.acknowledge()
    connection = await aio_pika.connect(servers.rabbitmq)
    channel = await connection.channel()
    queue = await channel.get_queue(settings.prefix + topology.dead_letter_queue().name)
    async with asyncio.timeout(15):
        dead = None
        while dead is None:
            dead = await queue.get(no_ack=True, fail=False)
    assert dead.body == b"body 1"
    assert dead.routing_key == topology.DEAD_LETTER_KEY
    await connection.close()
    await stream.aclose()
    await rabbit.remove()


async def test_a_broker_that_is_gone_without_a_word_is_missed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library's default this takes three minutes, in which nothing is settled."""
    monkeypatch.setattr(rabbitmq, "HEARTBEAT_S", 1)
    async with proxy_before(servers.rabbitmq, usual_port=5672) as (network, url):
        bus = RabbitBus(RabbitMq(url=url, prefix=f"{servers.prefix}gone."))
        async with aclosing(bus.listener().batches(1)) as batches, asyncio.timeout(60):
            assert (await anext(batches)).messages == ()
            network.lose()
            assert (await anext(batches)).messages == (), "it listens anew"
            await bus.publish(messages(1))
            assert len((await anext(batches)).messages) == 1
        await bus.remove()
