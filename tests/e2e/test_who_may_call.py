"""Nobody reads or moves what is another's; internal RPCs take service credentials only. Over every RPC there is."""

import asyncio
import time

import grpc
import jwt
import pytest
from exchange.gateway.v1 import order_gateway_pb2, order_requests_pb2, trading_session_pb2
from exchange.market_data.v1 import market_data_pb2
from exchange.matcher.v1 import matcher_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import wallet_pb2
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.engine import Engine, order_from

GATEWAY = order_gateway_pb2.DESCRIPTOR.services_by_name["OrderGatewayService"]
INTERNAL = {
    "matcher": matcher_pb2.DESCRIPTOR.services_by_name["MatcherService"],
    "settlement": settlement_pb2.DESCRIPTOR.services_by_name["SettlementService"],
    "marketdata": market_data_pb2.DESCRIPTOR.services_by_name["MarketDataService"],
    "wallet": wallet_pb2.DESCRIPTOR.services_by_name["WalletService"],
}
INTERNAL_METHODS = [(name, method.name) for name, service in INTERNAL.items() for method in service.methods]
PUBLIC_METHODS = {"ListSymbols", "GetFees"}


async def code_of_call(target: str, method, request, metadata) -> grpc.StatusCode:
    """The status of a call of any kind, its requests and responses ignored."""
    async with open_channel(target) as channel:
        path = f"/{method.containing_service.full_name}/{method.name}"
        response_class = message_factory.GetMessageClass(method.output_type)
        codec = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": response_class.FromString,
        }
        try:
            if method.client_streaming:
                call = channel.stream_stream(path, **codec)(iter([request]), metadata=metadata, timeout=10)
                async for response in call:
                    if response.HasField("error"):
                        return next(code for code in grpc.StatusCode if code.value[0] == response.error.code)
            elif method.server_streaming:
                call = channel.unary_stream(path, **codec)(request, metadata=metadata, timeout=10)
                async for _ in call:
                    return grpc.StatusCode.OK
            else:
                await channel.unary_unary(path, **codec)(request, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(("name", "method_name"), INTERNAL_METHODS)
async def test_internal_rpcs_refuse_users_and_strangers(engine: Engine, name: str, method_name: str) -> None:
    method = INTERNAL[name].methods_by_name[method_name]
    request = message_factory.GetMessageClass(method.input_type)()
    target = getattr(engine.settings, name).target()
    everything = engine.as_caller(new_id(), "read trade admin")
    assert await code_of_call(target, method, request, everything) is grpc.StatusCode.PERMISSION_DENIED
    assert await code_of_call(target, method, request, ()) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "method_name", [method.name for method in GATEWAY.methods if method.name not in PUBLIC_METHODS]
)
async def test_gateway_rpcs_refuse_strangers_and_other_users(engine: Engine, method_name: str) -> None:
    method = GATEWAY.methods_by_name[method_name]
    owner = await engine.user(USDT="1000")
    order = (await engine.place(owner, "BUY 0.1 @ 1000")).order
    target = engine.settings.gateway.target()
    request = naming(method, owner, order.order_id)
    assert await code_of_call(target, method, request, ()) is grpc.StatusCode.UNAUTHENTICATED
    other = engine.as_caller(new_id())
    if method_name == "PlaceOrders":
        response = await engine.gateway.PlaceOrders(request, metadata=other)
        assert "OTHER_USER" in response.results[0].error.message
    else:
        assert await code_of_call(target, method, request, other) is grpc.StatusCode.PERMISSION_DENIED
    without_scope = engine.as_caller(owner, "nothing")
    assert await code_of_call(target, method, request, without_scope) is grpc.StatusCode.PERMISSION_DENIED
    assert (await engine.order(order)).status == order.status
    assert (await engine.balances(owner))["USDT"] == ("900", "100")


async def test_an_order_named_by_a_stranger_is_not_found(engine: Engine) -> None:
    owner, other = await engine.user(USDT="1000"), new_id()
    order = (await engine.place(owner, "BUY 0.1 @ 1000")).order
    for call, request in (
        (engine.gateway.GetOrder, order_gateway_pb2.GetOrderRequest(order_id=order.order_id)),
        (engine.gateway.CancelOrder, order_requests_pb2.CancelOrderRequest(order_id=order.order_id)),
        (engine.gateway.AmendOrder, order_requests_pb2.AmendOrderRequest(order_id=order.order_id, price="900")),
        (engine.gateway.ReduceOrder, order_requests_pb2.ReduceOrderRequest(order_id=order.order_id, quantity="0.01")),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="ORDER_NOT_FOUND"):
            await call(request, metadata=engine.as_caller(other))
    listed = await engine.gateway.ListOrders(order_gateway_pb2.ListOrdersRequest(), metadata=engine.as_caller(other))
    assert not listed.orders
    assert (await engine.order(order)).version == order.version


def naming(method, user_id: str, order_id: str):
    """A request of this method about this user and order."""
    place = order_from("BUY 0.01 @ 1000", user_id=user_id, symbol="BTC/USDT", client_order_id=new_id())
    match method.name:
        case "PlaceOrder":
            return place
        case "PlaceOrders":
            return order_requests_pb2.PlaceOrdersRequest(orders=[place])
        case "TradingSession":
            cancel = order_requests_pb2.CancelOrderRequest(user_id=user_id, order_id=order_id)
            return trading_session_pb2.TradingSessionRequest(cancel=cancel)
        case "ListFills":
            return order_gateway_pb2.ListFillsRequest(user_id=user_id)
        case "AmendOrder":
            return order_requests_pb2.AmendOrderRequest(user_id=user_id, order_id=order_id, price="2000")
        case "ReduceOrder":
            return order_requests_pb2.ReduceOrderRequest(user_id=user_id, order_id=order_id, quantity="0.01")
        case _:
            request = message_factory.GetMessageClass(method.input_type)(user_id=user_id)
            if "order_id" in method.input_type.fields_by_name:
                request.order_id = order_id
            return request


async def test_forged_and_stale_tokens_are_refused(engine: Engine) -> None:
    user, now = new_id(), int(time.time())
    secret = engine.settings.auth.hs256_secret.get_secret_value()
    good = {"sub": user, "scope": "read", "iss": "trade-engine", "aud": "trade-engine", "exp": now + 60}
    cases = {
        "fine": (good, secret, "HS256", grpc.StatusCode.OK),
        "another secret": (good, "x" * 32, "HS256", grpc.StatusCode.UNAUTHENTICATED),
        "no signature": (good, "", "none", grpc.StatusCode.UNAUTHENTICATED),
        "expired": ({**good, "exp": now - 60}, secret, "HS256", grpc.StatusCode.UNAUTHENTICATED),
        "not yet": ({**good, "nbf": now + 600}, secret, "HS256", grpc.StatusCode.UNAUTHENTICATED),
        "another audience": ({**good, "aud": "other"}, secret, "HS256", grpc.StatusCode.UNAUTHENTICATED),
        "another issuer": ({**good, "iss": "other"}, secret, "HS256", grpc.StatusCode.UNAUTHENTICATED),
        "no end": ({k: v for k, v in good.items() if k != "exp"}, secret, "HS256", grpc.StatusCode.UNAUTHENTICATED),
        "not a user": ({**good, "sub": "root"}, secret, "HS256", grpc.StatusCode.UNAUTHENTICATED),
    }
    for name, (claims, key, algorithm, expected) in cases.items():
        metadata = (("authorization", f"Bearer {jwt.encode(claims, key, algorithm=algorithm)}"),)
        method = GATEWAY.methods_by_name["ListOrders"]
        request = order_gateway_pb2.ListOrdersRequest()
        assert await code_of_call(engine.settings.gateway.target(), method, request, metadata) is expected, name


async def test_a_users_stream_ends_with_its_token_and_a_services_goes_on(engine: Engine) -> None:
    user = new_id()
    mine, service = engine.as_caller(user, life_s=3), engine.as_caller("tests", "service", life_s=3)
    telling = engine.gateway.StreamOrders(order_gateway_pb2.StreamOrdersRequest(), metadata=mine)
    session = engine.gateway.TradingSession(metadata=mine)
    of_service = engine.gateway.StreamOrders(order_gateway_pb2.StreamOrdersRequest(user_id=user), metadata=service)
    await session.write(trading_session_pb2.TradingSessionRequest(request_id=1, options={"answers_only": True}))
    assert (await session.read()).request_id == 1
    for stream in (telling, of_service):
        assert (await stream.read()).snapshot_complete
    for stream in (telling, session):
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(stream.read(), 20)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "the token has expired" in ended.value.details()
    assert not of_service.done()
    of_service.cancel()


@pytest.mark.parametrize("name", ["gateway", "matcher", "settlement", "wallet"])
async def test_a_generic_client_finds_every_service_and_checks_its_health(engine: Engine, name: str) -> None:
    service = {"gateway": GATEWAY, **INTERNAL}[name]
    async with open_channel(getattr(engine.settings, name).target()) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service.full_name)
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        listed = [answer async for answer in answers]
        names = {item.name for item in listed[0].list_services_response.service}
        assert {service.full_name, "grpc.health.v1.Health"} <= names


async def test_a_request_id_comes_back(engine: Engine) -> None:
    metadata = (*engine.service, ("x-request-id", "trace-me"))
    call = engine.gateway.ListSymbols(order_gateway_pb2.ListSymbolsRequest(), metadata=metadata)
    assert ("x-request-id", "trace-me") in tuple(await call.trailing_metadata())
    assert len((await call).symbols) == 10
