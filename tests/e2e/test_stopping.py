"""Told to stop, a service finishes what it has begun, and what it refuses can be asked again with one effect."""

import asyncio
import json
import signal

import grpc
import httpx
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2

from tests.support.engine import Engine, order_from


async def test_sigterm_drains_and_a_repeat_has_one_effect(fresh_engine: Engine) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="100000")
    requests = [
        order_from("BUY 0.001 @ 10000", user_id=user, symbol="BTC/USDT", client_order_id=f"drain-{n}")
        for n in range(400)
    ]

    async def place(request) -> grpc.StatusCode:
        try:
            await engine.gateway.PlaceOrder(request, metadata=engine.service, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    first = [asyncio.create_task(place(request)) for request in requests]
    await asyncio.sleep(0.1)
    process = engine.stack.process("order_gateway")
    engine.stack.send("order_gateway", signal.SIGTERM)
    codes = await asyncio.gather(*first)
    # What came too late is turned away in one of gRPC's two ways; a client repeats either.
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert grpc.StatusCode.OK in codes
    assert await asyncio.to_thread(process.wait, 15) == 0, "a clean exit"
    await asyncio.to_thread(engine.stack.wait_healthy, "order_gateway")
    for request in requests:
        assert await place(request) is grpc.StatusCode.OK
    assert (await engine.balances(user))["USDT"] == ("96000", "4000")
    listed = await engine.gateway.ListOrders(
        order_gateway_pb2.ListOrdersRequest(user_id=user, page_size=500), metadata=engine.service
    )
    assert len(listed.orders) == 400
    assert {order.status for order in listed.orders} == {order_pb2.ORDER_STATUS_OPEN}
    assert (await engine.quiet()).clean


async def test_logs_are_json_lines_with_request_ids_and_no_secrets(fresh_engine: Engine) -> None:
    engine = fresh_engine
    async with httpx.AsyncClient() as http:
        page = await http.get(f"http://127.0.0.1:{engine.settings.wallet.metrics_port}/metrics")
    assert "rpc_server_requests_total" in page.text
    engine.stack.kill("matcher")
    await asyncio.to_thread(engine.stack.wait_healthy, "matcher")
    assert engine.stack.log_dir is not None
    text = (engine.stack.log_dir / "matcher.log").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert [item["event"] for item in events].count("serving") == 2
    assert {item["service"] for item in events} == {"matcher"}
    for path in engine.stack.log_dir.iterdir():
        assert engine.settings.auth.hs256_secret.get_secret_value() not in path.read_text()
