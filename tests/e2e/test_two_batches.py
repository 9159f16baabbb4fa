"""Two batches are under way in one gateway; what was asked first is done first, and what was refused stays refused."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2

from services.order_gateway.intake import BESIDE_FROM_ITEMS
from tests.support.engine import Engine, order_from
from tests.support.trading import until

CANCELLED, OPEN = order_pb2.ORDER_STATUS_CANCELLED, order_pb2.ORDER_STATUS_OPEN
ORDERS = BESIDE_FROM_ITEMS


@contextlib.contextmanager
def asleep(engine: Engine, service: str) -> Iterator[None]:
    """A service does nothing meanwhile."""
    engine.stack.send(service, signal.SIGSTOP)
    try:
        yield
    finally:
        engine.stack.send(service, signal.SIGCONT)


async def place(engine: Engine, user: str) -> order_requests_pb2.PlaceOrdersResponse:
    """A batch of orders by their client ids."""
    orders = [
        order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/EUR", client_order_id=f"two-{number}")
        for number in range(ORDERS)
    ]
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
    return await engine.gateway.PlaceOrders(request, metadata=engine.service, timeout=30)


async def recorded(engine: Engine, user: str) -> list[str]:
    """The ids of the user's orders, once all are recorded."""
    ids: list[str] = []

    async def all_are() -> bool:
        rows = await engine.query("SELECT order_id::text FROM orders.orders WHERE user_id = $1", user)
        ids[:] = [row["order_id"] for row in rows]
        return len(ids) == ORDERS

    await until(all_are)
    return ids


async def test_a_cancel_does_not_overtake_its_order(engine: Engine) -> None:
    user = await engine.user(EUR="10000")
    with asleep(engine, "wallet"):
        placing = asyncio.ensure_future(place(engine, user))
        cancel = order_requests_pb2.CancelOrdersRequest(user_id=user, order_ids=await recorded(engine, user))
        cancelling = asyncio.ensure_future(engine.gateway.CancelOrders(cancel, metadata=engine.service, timeout=30))
        await asyncio.sleep(0.5)  # it needs no money, and nothing but its turn holds it
        assert not placing.done()
        assert not cancelling.done()
    assert {result.response.order.status for result in (await placing).results} == {OPEN}
    assert {result.order.status for result in (await cancelling).results} == {CANCELLED}
    assert (await engine.balances(user))["EUR"] == ("10000", "0")


async def test_money_that_comes_later_does_not_revive_a_refused_order(engine: Engine) -> None:
    user = await engine.user(EUR="1")
    with contextlib.ExitStack() as gateway_sleeps:
        with asleep(engine, "wallet"):
            first = asyncio.ensure_future(place(engine, user))
            await recorded(engine, user)
            again = asyncio.ensure_future(place(engine, user))
            await asyncio.sleep(0.5)
            gateway_sleeps.enter_context(asleep(engine, "order_gateway"))
        await asyncio.sleep(0.5)  # the wallet refuses the first batch, the gateway does not hear of it yet
        await engine.deposit(user, EUR="10000")
    for answer in (await first, await again):
        assert {result.error.message.split()[0] for result in answer.results} == {"INSUFFICIENT_BALANCE"}
    assert (await engine.balances(user))["EUR"] == ("10001", "0")
    assert (await engine.quiet()).clean
