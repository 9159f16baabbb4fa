"""Told to stop, a service finishes what it has begun, and what it refuses can be asked again with one effect."""

import asyncio
import contextlib
import json
import signal

import grpc
import httpx
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2, trading_session_pb2
from exchange.matcher.v1 import matcher_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import wallet_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from libs.ids import new_id
from libs.orders import Status
from libs.rpc.client import open_channel
from tests.support.engine import Engine, order_from
from tests.support.trading import Pair


async def test_sigterm_drains_and_a_repeat_has_one_effect(fresh_engine: Engine) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="100000")
    requests = [
        order_from("BUY 0.001 @ 10000", user_id=user, symbol="BTC/USDT", client_order_id=f"drain-{n}")
        for n in range(400)
    ]

    async def place(request, *, connected: bool = True) -> grpc.StatusCode:
        how = {"metadata": engine.service, "timeout": 20, "wait_for_ready": not connected}
        try:
            await engine.gateway.PlaceOrder(request, **how)
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
        assert await place(request, connected=False) is grpc.StatusCode.OK
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


async def test_streams_end_when_their_service_is_told_to_stop_and_say_so(fresh_core: Engine) -> None:
    """They would hold up the drain; at the matcher, where nobody else may lead before it is over, all markets with it."""
    engine = fresh_core
    user = await engine.user(USDT="1000")
    calls = {
        "matcher": engine.matcher.StreamBook(matcher_pb2.StreamBookRequest(symbol="BTC/USDT"), metadata=engine.service),
        "settlement": engine.settlement.StreamSettlements(
            settlement_pb2.StreamSettlementsRequest(symbol="BTC/USDT"), metadata=engine.service
        ),
        "wallet": engine.wallet.StreamBalances(wallet_pb2.StreamBalancesRequest(user_id=user), metadata=engine.service),
        "order_gateway": engine.gateway.StreamOrders(
            order_gateway_pb2.StreamOrdersRequest(user_id=user), metadata=engine.service
        ),
    }
    for name, call in calls.items():
        if name != "settlement":  # which has nothing to tell before the first trade
            await call.read()
    await asyncio.sleep(0.5)
    for name, call in calls.items():
        process = engine.stack.process(name)
        engine.stack.send(name, signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_to_the_end(call, [])
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE, name
        assert ended.value.details().startswith("DEPENDENCY_UNAVAILABLE"), name
        assert await asyncio.to_thread(process.wait, 15) == 0
        await asyncio.to_thread(engine.stack.wait_healthy, name)


async def test_who_watches_health_or_asks_for_reflection_holds_up_nothing(fresh_core: Engine) -> None:
    engine = fresh_core
    async with open_channel(engine.settings.matcher.target()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        talk = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await talk.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await talk.read()).list_services_response.service
        process = engine.stack.process("matcher")
        engine.stack.send("matcher", signal.SIGTERM)
        # Cut off after the grace they would raise.
        await read_to_the_end(watch, [])
        await read_to_the_end(talk, [])
    assert await asyncio.to_thread(process.wait, 15) == 0


async def read_to_the_end(call, read: list) -> None:
    while (message := await call.read()) is not grpc.aio.EOF:
        read.append(message)


async def test_a_session_answers_what_it_was_sent_before_it_ends_with_its_gateway(fresh_core: Engine) -> None:
    engine = fresh_core
    user = await engine.user(USDT="100000")
    call = engine.gateway.TradingSession(metadata=engine.service)
    for number in range(1, 51):
        request = order_from("BUY 0.001 @ 10000", user_id=user, symbol="BTC/USDT", client_order_id=f"last-{number}")
        await call.write(trading_session_pb2.TradingSessionRequest(request_id=number, place=request))
    assert (await call.read()).request_id == 1
    process = engine.stack.process("order_gateway")
    engine.stack.send("order_gateway", signal.SIGTERM)
    answers: list = []
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read_to_the_end(call, answers)
    assert [answer.request_id for answer in answers] == list(range(2, len(answers) + 2))
    assert ended.value.details().startswith("DEPENDENCY_UNAVAILABLE")
    assert await asyncio.to_thread(process.wait, 15) == 0
    await asyncio.to_thread(engine.stack.wait_healthy, "order_gateway")
    listed = await engine.gateway.ListOrders(
        order_gateway_pb2.ListOrdersRequest(user_id=user, page_size=500), metadata=engine.service
    )
    assert len(listed.orders) == 1 + len(answers), "what took effect was answered"


async def test_sessions_that_write_meanwhile_are_told_that_it_was_the_gateway(fresh_core: Engine) -> None:
    """grpc's Python client turns a status that meets its own write into INTERNAL."""
    engine = fresh_core
    users = [await engine.user(USDT="100000") for _ in range(20)]

    async def session(user: str) -> grpc.StatusCode:
        call = engine.gateway.TradingSession(metadata=engine.service)

        async def ask() -> None:
            order = order_from("BUY 0.001 @ 10000", user_id=user, symbol="BTC/USDT", client_order_id=new_id())
            await call.write(trading_session_pb2.TradingSessionRequest(request_id=1, place=order))

        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(5):
                await ask()
            while (answer := await call.read()) is not grpc.aio.EOF:
                if answer.request_id:
                    await ask()
        return await call.code()

    talking = [asyncio.create_task(session(user)) for user in users]
    await asyncio.sleep(1)
    engine.stack.send("order_gateway", signal.SIGTERM)
    assert set(await asyncio.gather(*talking)) == {grpc.StatusCode.UNAVAILABLE}


async def test_an_engine_that_is_stopped_leaves_nothing_half_done(fresh_core: Engine) -> None:
    engine = fresh_core
    pairs = [await Pair(engine).fund() for _ in range(10)]

    async def trade(pair: Pair) -> None:
        while True:
            await engine.place(pair.seller, "SELL 0.1 @ 100")
            await engine.place(pair.buyer, "BUY 0.1 @ 100")

    trading = [asyncio.create_task(trade(pair)) for pair in pairs]
    await asyncio.sleep(1)
    processes = [engine.stack.process(name) for name in engine.stack.services]
    await asyncio.to_thread(engine.stack.stop)
    assert {process.returncode for process in processes} == {0}
    ended = await asyncio.gather(*trading, return_exceptions=True)
    assert {error.code() for error in ended} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    recorded = await engine.query("SELECT DISTINCT status FROM orders.orders")
    assert Status.PENDING not in {row["status"] for row in recorded}
