"""Who is told of changes and does not read them fast enough."""

import asyncio
import contextlib

from exchange.common.v1 import order_pb2

from services.order_gateway.conversation import Session
from services.order_gateway.streams import UPDATES_WAITING_MAX, Subscriber


def order(version: int) -> order_pb2.Order:
    return order_pb2.Order(order_id="one", version=version)


async def test_what_is_too_much_is_lost_and_said_and_then_it_goes_on() -> None:
    subscriber = Subscriber()
    for version in range(1, UPDATES_WAITING_MAX + 2):
        subscriber.tell(order(version))
    assert await subscriber.next() is None
    subscriber.tell(order(5000))
    newest = await subscriber.next()
    assert newest is not None
    assert newest.version == 5000


async def test_a_loss_wakes_who_waits() -> None:
    subscriber = Subscriber()
    waiting = asyncio.create_task(subscriber.next())
    await asyncio.sleep(0)
    subscriber.lose()
    assert await waiting is None


async def test_a_session_passes_on_what_is_new_and_says_what_is_lost() -> None:
    subscriber, session = Subscriber(), Session()
    for version in (2, 2, 1, 3):
        subscriber.tell(order(version))
    session.hear(contextlib.nullcontext(subscriber))
    told = [await session.response_of(await session.under_way.get()) for _ in range(4)]
    assert [response and response.update.version for response in told] == [2, None, None, 3]
    subscriber.lose()
    lost = await session.response_of(await session.under_way.get())
    assert lost is not None
    assert lost.updates_lost
    session.leaving.close()
