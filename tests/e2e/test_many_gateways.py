"""Four gateways, callers who lose patience and try again anywhere, gateways that die: one effect for each client id."""

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2

from cli.processes import free_port
from libs.rpc.breaker import is_passing
from libs.rpc.client import open_channel
from tests.support.engine import Engine, order_from, start_beside

GATEWAYS = 4
USERS = 6
ORDERS = 40
KILLS = 6


class Gateways:
    """Processes beside the stack's own; each may be killed, and is started again."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._log = folder / "gateways.log"
        self.ports = [free_port() for _ in range(GATEWAYS)]
        self._processes = [self._start(port) for port in self.ports]
        self._channels = [open_channel(f"127.0.0.1:{port}") for port in self.ports]
        self.stubs = [order_gateway_pb2_grpc.OrderGatewayServiceStub(channel) for channel in self._channels]

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = self._start(self.ports[number])

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            await asyncio.to_thread(process.wait, 30)

    def _start(self, port: int) -> subprocess.Popen:
        return start_beside(
            self._engine, "order_gateway", self._log, TRADE_ENGINE_GATEWAY_PORT=str(port),
            TRADE_ENGINE_GATEWAY_METRICS_PORT="0", TRADE_ENGINE_DATABASE_POOL_MAX="4",
        )  # fmt: skip


@pytest.fixture
async def gateways(fresh_engine: Engine, tmp_path: Path) -> AsyncIterator[Gateways]:
    found = Gateways(fresh_engine, tmp_path)
    try:
        yield found
    finally:
        await found.close()


async def insist(
    engine: Engine, gateways: Gateways, dice: random.Random, method: str, request
) -> order_pb2.Order | None:
    """Ask a gateway, and another one, with little patience, and sometimes two at once, until one answers."""
    while True:
        calls = [
            getattr(dice.choice(gateways.stubs), method)(
                request, metadata=engine.service, timeout=dice.choice([0.03, 0.3, 5])
            )
            for _ in range(dice.choice([1, 1, 2]))
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if not isinstance(answer, BaseException):
                return answer.order
            if isinstance(answer, grpc.aio.AioRpcError) and answer.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return None  # filled before it could be cancelled
            if not is_passing(answer):
                raise answer
        await asyncio.sleep(dice.random() * 0.1)


async def trade(engine: Engine, gateways: Gateways, user: str, seed: int) -> dict[str, str]:
    """Orders by client id, as they were acknowledged."""
    dice = random.Random(seed)
    acknowledged: dict[str, str] = {}
    for number in range(ORDERS):
        side, price = dice.choice([("BUY", 100), ("SELL", 100), ("BUY", 99), ("SELL", 101)])
        client_id = f"order-{number}"
        request = order_from(f"{side} 1 @ {price}", user_id=user, symbol="BTC/USDT", client_order_id=client_id)
        order = await insist(engine, gateways, dice, "PlaceOrder", request)
        assert order is not None
        acknowledged[client_id] = order.order_id
        if dice.random() < 0.3:
            cancel = order_requests_pb2.CancelOrderRequest(user_id=user, order_id=order.order_id)
            await insist(engine, gateways, dice, "CancelOrder", cancel)
    return acknowledged


async def test_every_client_id_has_one_effect_and_nothing_stays_reserved(
    fresh_engine: Engine, gateways: Gateways
) -> None:
    engine, dice = fresh_engine, random.Random(11)
    users = [await engine.user(BTC="1000", USDT="100000") for _ in range(USERS)]

    async def kill_some() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.3, 1.2))
            await asyncio.to_thread(gateways.kill, dice.randrange(GATEWAYS))

    killing = asyncio.create_task(kill_some())
    acknowledged = await asyncio.gather(*(trade(engine, gateways, user, seed) for seed, user in enumerate(users)))
    await killing
    report = await engine.quiet()
    assert report.clean, [finding for finding in report.findings if finding.wrong]
    for user, mine in zip(users, acknowledged, strict=True):
        rows = await engine.query("SELECT client_order_id, order_id::text FROM orders.orders WHERE user_id = $1", user)
        assert {row["client_order_id"]: row["order_id"] for row in rows} == mine
        assert len(rows) == ORDERS
    assert not await engine.query("SELECT order_id FROM orders.orders WHERE status = 1")
    for user in users:
        request = order_requests_pb2.CancelOrdersRequest(user_id=user)
        await engine.gateway.CancelOrders(request, metadata=engine.service, timeout=30)
    assert (await engine.quiet()).clean
    for user in users:
        assert {reserved for _, reserved in (await engine.balances(user)).values()} == {"0"}
