"""Orders per second of a user: counted over all gateways, by each alone without Redis, never for cancels."""

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2

from cli.processes import free_port
from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.engine import order_from, running, stack_on
from tests.support.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
BURST = 10
FEW = {"TRADE_ENGINE_GATEWAY_ORDERS_PER_S": "1", "TRADE_ENGINE_GATEWAY_ORDERS_BURST": str(BURST)}


@pytest.fixture(params=["redis", "without redis"])
async def limited(request, servers: Servers, tmp_path: Path):
    dsn = servers.migrated_database()
    over = FEW if request.param == "redis" else {**FEW, "TRADE_ENGINE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    # Without Redis the edge is not ready; this is about the gateway.
    stack = stack_on(servers, tmp_path, dsn, **over)
    stack.services = tuple(name for name in stack.services if name != "edge")
    async with running(stack) as engine:
        yield engine, request.param == "redis"
    servers.drop_database(dsn)


async def place(gateway, user: str, metadata) -> grpc.StatusCode:
    request = order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id())
    try:
        await gateway.PlaceOrder(request, metadata=metadata, timeout=20)
    except grpc.aio.AioRpcError as error:
        if "RATE_LIMITED" not in (error.details() or "") or "retry_after_s" not in str(error.trailing_metadata()):
            raise
        return error.code()
    return grpc.StatusCode.OK


async def test_a_user_has_one_limit_at_all_gateways_and_cancels_pass(limited, tmp_path: Path) -> None:
    engine, shared = limited
    port = free_port()
    environment = {
        **os.environ, **engine.stack.environment, "TRADE_ENGINE_GATEWAY_PORT": str(port),
        "TRADE_ENGINE_GATEWAY_METRICS_PORT": "0",
    }  # fmt: skip
    second = start_gateway(environment, tmp_path / "second.log")
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            other = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
            await channel.channel_ready()
            user, neighbour = await engine.user(USDT="10000"), await engine.user(USDT="10000")
            mine = engine.as_caller(user)
            codes = [await place((engine.gateway, other)[number % 2], user, mine) for number in range(4 * BURST)]
            passed = codes.count(grpc.StatusCode.OK)
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == len(codes) - passed > 0
            assert BURST <= passed <= (2 if shared else 4) * BURST, (
                "a second's worth more for every second that it took"
            )
            assert await place(other, neighbour, engine.as_caller(neighbour)) is grpc.StatusCode.OK
            assert await place(engine.gateway, user, engine.service) is grpc.StatusCode.OK
            cancel = order_requests_pb2.CancelOrdersRequest()
            done = await engine.gateway.CancelOrders(cancel, metadata=mine, timeout=20)
            assert len(done.results) == passed + 1
    finally:
        second.terminate()
        assert second.wait(20) == 0


def start_gateway(environment: dict[str, str], path: Path) -> subprocess.Popen:
    with path.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "services.order_gateway"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


async def test_a_batch_counts_as_many_as_it_has(limited) -> None:
    engine, _ = limited
    user = await engine.user(USDT="10000")
    orders = [
        order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id()) for _ in range(BURST + 1)
    ]
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
    with pytest.raises(grpc.aio.AioRpcError, match="RATE_LIMITED"):
        await engine.gateway.PlaceOrders(request, metadata=engine.as_caller(user), timeout=20)
    assert (await engine.balances(user))["USDT"] == ("10000", "0")
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders[:BURST])
    done = await engine.gateway.PlaceOrders(request, metadata=engine.as_caller(user), timeout=20)
    assert all(result.HasField("response") for result in done.results)
