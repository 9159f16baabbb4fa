"""Orders per second of a user: counted over all gateways, by each alone without Redis, never for cancels."""

import asyncio
from pathlib import Path

import grpc
import pytest
from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc, order_requests_pb2, trading_session_pb2

from cli.processes import free_port
from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.engine import SHOWING, Engine, engine_in, order_from, start_beside
from tests.support.servers import Servers
from tests.support.trading import until

ROOT = Path(__file__).resolve().parents[2]
BURST = 10
STREAMS = 3
FEW = {
    "TRADE_ENGINE_GATEWAY_ORDERS_PER_S": "1", "TRADE_ENGINE_GATEWAY_ORDERS_BURST": str(BURST),
    "TRADE_ENGINE_GATEWAY_STREAMS_PER_CALLER": str(STREAMS),
}  # fmt: skip


@pytest.fixture(params=["redis", "without redis"])
async def limited(request, servers: Servers, tmp_path: Path):
    over = FEW if request.param == "redis" else {**FEW, "TRADE_ENGINE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    # Without Redis the edge is not ready; this is about the gateway.
    async with engine_in(servers, tmp_path, without=SHOWING, **over) as engine:
        yield engine, request.param == "redis"


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
    over = {"TRADE_ENGINE_GATEWAY_PORT": str(port), "TRADE_ENGINE_GATEWAY_METRICS_PORT": "0"}
    second = start_beside(engine, "order_gateway", tmp_path / "second.log", **over)
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


async def test_a_batch_counts_as_many_as_it_has(limited) -> None:
    engine, _ = limited
    user = await engine.user(USDT="10000")
    orders = [
        order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id()) for _ in range(BURST + 1)
    ]
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
    with pytest.raises(grpc.aio.AioRpcError, match=f"BATCH_TOO_LARGE field=orders rule=at most {BURST}"):
        await engine.gateway.PlaceOrders(request, metadata=engine.as_caller(user), timeout=20)
    assert (await engine.balances(user))["USDT"] == ("10000", "0")
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders[:BURST])
    done = await engine.gateway.PlaceOrders(request, metadata=engine.as_caller(user), timeout=20)
    assert all(result.HasField("response") for result in done.results)
    with pytest.raises(grpc.aio.AioRpcError, match="RATE_LIMITED"):
        await engine.gateway.PlaceOrders(request, metadata=engine.as_caller(user), timeout=20)


async def test_a_user_may_fill_a_batch(engine: Engine) -> None:
    user = await engine.user(USDT="10000")
    count = engine.settings.gateway.batch_max
    orders = [
        order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id()) for _ in range(count)
    ]
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
    done = await engine.gateway.PlaceOrders(request, metadata=engine.as_caller(user), timeout=20)
    assert [result.WhichOneof("outcome") for result in done.results] == ["response"] * count
    mine = engine.as_caller(user)
    cancelled = await engine.gateway.CancelOrders(order_requests_pb2.CancelOrdersRequest(), metadata=mine, timeout=20)
    assert len(cancelled.results) == count


async def test_one_user_does_not_take_the_streams_of_all(limited) -> None:
    engine, _ = limited
    gateway, mine, others = engine.gateway, engine.as_caller(new_id()), engine.as_caller(new_id())
    snapshot = order_gateway_pb2.StreamOrdersRequest()
    begin = trading_session_pb2.TradingSessionRequest(options={"answers_only": True})
    opened = [gateway.TradingSession(metadata=mine) for _ in range(STREAMS)]
    for session in opened:
        await session.write(begin)
        await session.read()
    for refused in (gateway.StreamOrders(snapshot, metadata=mine), gateway.TradingSession([begin], metadata=mine)):
        with pytest.raises(grpc.aio.AioRpcError, match=f"TOO_MANY_SUBSCRIBERS.*at most {STREAMS} "):
            await anext(aiter(refused))
    for _ in range(10):  # said as it is also to those who are just writing
        calls = [anext(aiter(gateway.TradingSession([begin] * 3, metadata=mine))) for _ in range(10)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert "TOO_MANY_SUBSCRIBERS" in str(error)
    assert (await gateway.StreamOrders(snapshot, metadata=others).read()).snapshot_complete
    for_users = [
        gateway.StreamOrders(order_gateway_pb2.StreamOrdersRequest(user_id=new_id()), metadata=engine.service)
        for _ in range(STREAMS + 1)
    ]
    for stream in for_users:
        assert (await stream.read()).snapshot_complete
    for stream in (*opened, *for_users):
        stream.cancel()

    async def has_room() -> bool:
        try:
            return bool((await gateway.StreamOrders(snapshot, metadata=mine).read()).snapshot_complete)
        except grpc.aio.AioRpcError:
            return False

    await until(has_room)


async def test_a_gateway_with_small_batches_says_how_many_orders_it_takes(servers: Servers, tmp_path: Path) -> None:
    async with engine_in(servers, tmp_path, without=SHOWING, TRADE_ENGINE_GATEWAY_BATCH_MAX="3") as engine:
        user = await engine.user(USDT="1000")
        orders = [
            order_from("BUY 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=str(number))
            for number in range(4)
        ]
        with pytest.raises(grpc.aio.AioRpcError, match="BATCH_TOO_LARGE field=orders rule=at most 3"):
            await engine.gateway.PlaceOrders(
                order_requests_pb2.PlaceOrdersRequest(orders=orders), metadata=engine.service
            )
        few = order_requests_pb2.PlaceOrdersRequest(orders=orders[:3])
        answer = await engine.gateway.PlaceOrders(few, metadata=engine.service)
        assert [result.HasField("response") for result in answer.results] == [True] * 3
