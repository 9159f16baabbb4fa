"""Who listens is told every change, also when the record is behind, or away."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from exchange.common.v1 import order_pb2
from exchange.events.v1 import order_pb2 as order_events_pb2

from libs.bus.interface import Batch, Message, nothing
from libs.ids import new_id
from services.order_gateway.memory import OrderMemory
from services.order_gateway.store import OrderStore
from services.order_gateway.streams import HEARD_BYTES_MAX, LatelyHeard, OrderStreams
from tests.support.records import insert_orders, update_of

OPEN, FILLED = order_pb2.ORDER_STATUS_OPEN, order_pb2.ORDER_STATUS_FILLED


class Listener:
    """A bus whose messages are what the test says."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[Batch] = asyncio.Queue()

    async def batches(self, _: int) -> AsyncGenerator[Batch, None]:
        while True:
            yield await self._said.get()

    async def say(self, *updates: order_events_pb2.OrderUpdate) -> None:
        """Returns when it has been heard."""
        heard = asyncio.Event()

        async def acknowledge() -> None:
            heard.set()

        self._said.put_nowait(Batch(messages=[message_of(*updates)], acknowledge=acknowledge, reject=nothing))
        await heard.wait()


def message_of(*updates: order_events_pb2.OrderUpdate) -> Message:
    body = order_events_pb2.OrderEvents(symbol="BTC/USDT", updates=updates).SerializeToString()
    return Message("order.events", "order.BTC.USDT", "OrderEvents", new_id(), body)


@asynccontextmanager
async def streams_of(pool: Any, memory: OrderMemory | None = None) -> AsyncIterator[tuple[OrderStreams, Listener]]:
    listener = Listener()
    streams = OrderStreams(
        listener=listener, store=OrderStore(pool), memory=memory or OrderMemory(), subscribers_max=10
    )  # fmt: skip
    running = asyncio.create_task(streams.run())
    yield streams, listener
    running.cancel()


async def test_who_comes_between_an_event_and_its_record_is_told_what_the_event_says(pool) -> None:
    user = new_id()
    (order_id,) = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)])
    async with streams_of(pool) as (streams, listener):
        await listener.say(update_of(order_id, user, 1, FILLED), update_of(new_id(), new_id(), 1, FILLED))
        async with aclosing(streams.subscribe(user, None)) as told:
            order, is_snapshot = await anext(told)
            assert order is not None
            assert (is_snapshot, order.order_id, order.status, order.version) == (True, order_id, OPEN, 0)
            assert await anext(told) == (None, True)
            order, is_snapshot = await anext(told)
            assert order is not None
            assert (is_snapshot, order.order_id, order.status, order.version) == (False, order_id, FILLED, 1)
            await listener.say(update_of(order_id, user, 1, FILLED))
            await listener.say(update_of(order_id, user, 2, FILLED))
            order, is_snapshot = await anext(told)
            assert order is not None
            assert (is_snapshot, order.version) == (False, 2)


async def test_an_order_that_was_placed_here_is_told_of_without_the_database(pool) -> None:
    user, memory = new_id(), OrderMemory()
    (order_id,) = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)])
    memory.remember((await OrderStore(pool).by_ids([order_id]))[order_id])
    async with streams_of(pool, memory) as (streams, listener):
        with streams.listening(user) as subscriber:
            pool.terminate()
            await listener.say(update_of(order_id, user, 1, FILLED))
            order = await subscriber.next()
            assert order is not None
            assert (order.order_id, order.symbol, order.status, order.version) == (order_id, "BTC/USDT", FILLED, 1)


async def test_one_of_another_gateway_is_read_once(pool) -> None:
    user = new_id()
    (order_id,) = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)])
    async with streams_of(pool) as (streams, listener):
        with streams.listening(user) as subscriber:
            await listener.say(update_of(order_id, user, 1, OPEN))
            pool.terminate()
            await listener.say(update_of(order_id, user, 2, FILLED))
            orders = [await subscriber.next(), await subscriber.next()]
            assert [order and order.version for order in orders] == [1, 2]


async def test_what_cannot_be_read_is_said_to_be_lost(pool) -> None:
    user = new_id()
    (order_id,) = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)])
    async with streams_of(pool) as (streams, listener):
        with streams.listening(user) as subscriber:
            pool.terminate()
            await listener.say(update_of(order_id, user, 1, OPEN))
            assert await subscriber.next() is None


async def test_events_that_come_again_are_not_told_again(pool) -> None:
    """A matcher that takes over publishes again what it does not know to be published."""
    user = new_id()
    (order_id,) = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)])
    async with streams_of(pool) as (streams, listener):
        with streams.listening(user) as subscriber:
            for version in (1, 2, 3, 2, 3, 4):
                await listener.say(update_of(order_id, user, version, OPEN))
            orders = [await subscriber.next() for _ in range(4)]
            assert [order and order.version for order in orders] == [1, 2, 3, 4]


def test_what_is_remembered_of_what_was_heard_is_bounded() -> None:
    heard, user = LatelyHeard(), new_id()
    updates = [update_of(new_id(), user, 1, OPEN) for _ in range(100)]
    message = message_of(*updates)
    many = 2 * HEARD_BYTES_MAX // len(message.body)
    for _ in range(many):
        heard.add([message])
    assert set(heard.of(user)) == {update.order_id for update in updates}
    assert heard.of(new_id()) == {}
    heard.add([message_of(update_of(new_id(), user, 1, OPEN))] * (HEARD_BYTES_MAX // 100))
    assert len(heard.of(user)) == 1
