"""Without the wallet nobody gets in; who is in gets out."""

import asyncio
import contextlib
import signal
from pathlib import Path

import grpc
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2

from libs.ids import new_id
from tests.support.engine import SHOWING, Engine, engine_in, order_from
from tests.support.servers import Servers
from tests.support.trading import until

# Shorter than the gateway waits for the wallet, as a client's usually is.
DEADLINE_S = 20


@pytest.fixture
async def core(servers: Servers, tmp_path: Path):
    async with engine_in(servers, tmp_path, without=SHOWING) as engine:
        yield engine


@contextlib.asynccontextmanager
async def wallet_stopped_under_load(engine: Engine, user: str):
    """Others place orders all the time, each of which waits for the wallet."""
    engine.stack.send("wallet", signal.SIGSTOP)

    async def place() -> None:
        while True:
            order = order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id())
            with contextlib.suppress(grpc.aio.AioRpcError):
                await engine.gateway.PlaceOrder(order, metadata=engine.service, timeout=60)
            await asyncio.sleep(0.05)

    placing = [asyncio.create_task(place()) for _ in range(8)]
    await asyncio.sleep(2)  # they wait by now
    try:
        yield
    finally:
        engine.stack.send("wallet", signal.SIGCONT)
        for task in placing:
            task.cancel()
        await asyncio.gather(*placing, return_exceptions=True)


async def test_orders_are_cancelled_and_changed_though_placing_waits_for_the_wallet(core: Engine) -> None:
    engine = core
    user, others = await engine.user(USDT="1000"), await engine.user(USDT="1000000")
    orders = [(await engine.place(user, f"BUY 0.1 @ {100 + number}")).order for number in range(4)]
    first, second, third, fourth = ({"user_id": user, "order_id": order.order_id} for order in orders)
    how = {"metadata": engine.service, "timeout": DEADLINE_S}
    async with wallet_stopped_under_load(engine, others):
        cancelled, several, reduced, amended = await asyncio.gather(
            engine.gateway.CancelOrder(order_requests_pb2.CancelOrderRequest(**first), **how),
            engine.gateway.CancelOrders(
                order_requests_pb2.CancelOrdersRequest(user_id=user, order_ids=[second["order_id"]]), **how
            ),
            engine.gateway.ReduceOrder(order_requests_pb2.ReduceOrderRequest(**third, quantity="0.05"), **how),
            engine.gateway.AmendOrder(order_requests_pb2.AmendOrderRequest(**fourth, price="50"), **how),
        )
        answered = [cancelled.order, several.results[0].order, reduced.order, amended.order]
        assert [await engine.order(order) for order in orders] == answered, "what was answered can be read at once"
    assert cancelled.order.status == several.results[0].order.status == order_pb2.ORDER_STATUS_CANCELLED
    assert (reduced.order.quantity, amended.order.price) == ("0.05", "50")
    assert (await engine.quiet()).clean, "what was freed is free once the wallet is back"
    left = [await engine.order(order) for order in orders]
    assert [order.status for order in left[2:]] == [order_pb2.ORDER_STATUS_OPEN] * 2
    assert (await engine.balances(user))["USDT"] == ("989.9", "10.1")
    for order in left[2:]:
        await engine.cancel(order)


async def test_money_is_freed_though_wallet_gateway_and_event_are_lost(servers: Servers, tmp_path: Path) -> None:
    """The wallet has not answered, the gateway that would ask again dies, and so does the event that would have it asked."""
    over = {"TRADE_ENGINE_GATEWAY_SWEEP_AFTER_S": "1"}
    async with engine_in(servers, tmp_path, without=SHOWING, rabbitmq=False, **over) as engine:
        user = await engine.user(USDT="1000")
        order = (await engine.place(user, "BUY 1 @ 100")).order
        engine.stack.send("wallet", signal.SIGSTOP)
        try:
            assert (await engine.cancel(order)).status == order_pb2.ORDER_STATUS_CANCELLED
            assert (await engine.order(order)).status == order_pb2.ORDER_STATUS_CANCELLED
            await engine.query("UPDATE matcher.outbox_cursors SET position = 1000000")
            engine.stack.kill("order_gateway")
        finally:
            engine.stack.send("wallet", signal.SIGCONT)
        engine.stack.wait_healthy("order_gateway")

        async def is_free() -> bool:
            return (await engine.balances(user))["USDT"] == ("1000", "0")

        await until(is_free)
        assert (await engine.quiet()).clean
        assert await engine.query("SELECT 1 FROM orders.orders WHERE release_due") == []
