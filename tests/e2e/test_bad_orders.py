"""Bad input at the front door: a typed error that names the field, and nothing has changed. Then: any input at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from exchange.gateway.v1 import api_key_pb2, order_gateway_pb2, order_requests_pb2, trading_session_pb2
from exchange.market_data.v1 import market_data_pb2
from exchange.matcher.v1 import command_pb2, matcher_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import wallet_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.rpc.client import open_channel
from tests.support.engine import Engine, engine_in, order_from
from tests.support.servers import Servers

INTERNAL, UNKNOWN = (code.value[0] for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN))
BAD = [
    ({"client_order_id": ""}, "FIELD_REQUIRED field=client_order_id"),
    ({"client_order_id": "x" * 101}, "TEXT_MALFORMED field=client_order_id"),
    ({"client_order_id": "caf\u00e9"}, "TEXT_MALFORMED field=client_order_id"),
    ({"symbol": ""}, "FIELD_REQUIRED field=symbol"),
    ({"symbol": "BTC/NOPE"}, "SYMBOL_UNKNOWN field=symbol"),
    ({"symbol": "\x00"}, "SYMBOL_UNKNOWN field=symbol"),
    ({"side": 0}, "CHOICE_UNKNOWN field=side"),
    ({"side": 9}, "CHOICE_UNKNOWN field=side"),
    ({"type": 0}, "CHOICE_UNKNOWN field=type"),
    ({"type": 77}, "CHOICE_UNKNOWN field=type"),
    ({"time_in_force": 99}, "CHOICE_UNKNOWN field=time_in_force"),
    ({"price": ""}, "FIELD_REQUIRED field=price"),
    ({"price": "0"}, "AMOUNT_NOT_POSITIVE field=price"),
    ({"price": "-1"}, "AMOUNT_MALFORMED field=price"),
    ({"price": "1e3"}, "AMOUNT_MALFORMED field=price"),
    ({"price": "100.001"}, "PRICE_OFF_TICK field=price"),
    ({"price": "1.123456789"}, "AMOUNT_TOO_PRECISE field=price"),
    ({"price": "1234567890123"}, "AMOUNT_OUT_OF_RANGE field=price"),
    ({"quantity": ""}, "FIELD_REQUIRED field=quantity"),
    ({"quantity": "NaN"}, "AMOUNT_MALFORMED field=quantity"),
    ({"quantity": "0.000001"}, "QUANTITY_OFF_LOT field=quantity"),
    ({"quantity": "1000.00001"}, "QUANTITY_TOO_LARGE field=quantity"),
    ({"quantity": "0.00001"}, "NOTIONAL_TOO_SMALL field=quantity"),
    ({"quote_amount": "50"}, "FIELD_NOT_ALLOWED field=quote_amount"),
    ({"type": 2}, "FIELD_NOT_ALLOWED field=price"),
    ({"user_id": "bob"}, "ID_MALFORMED field=user_id"),
]


@pytest.mark.parametrize(("change", "expected"), BAD)
async def test_a_bad_order_is_refused_by_name_and_leaves_no_trace(engine: Engine, change: dict, expected: str) -> None:
    user = await engine.user(USDT="1000")
    request = order_from("BUY 0.1 @ 1000", user_id=user, symbol="BTC/USDT", client_order_id="bad")
    for name, value in change.items():
        setattr(request, name, value)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.gateway.PlaceOrder(request, metadata=engine.service)
    assert refused.value.details().startswith(expected)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    listed = await engine.gateway.ListOrders(order_gateway_pb2.ListOrdersRequest(user_id=user), metadata=engine.service)
    assert not listed.orders
    assert await engine.balances(user) == {"USDT": ("1000", "0")}


async def test_limits_of_calls_are_told(engine: Engine) -> None:
    user = await engine.user(USDT="1")
    order = order_from("BUY 1 @ 1000", user_id=user, symbol="BTC/USDT", client_order_id="x")
    for call, request, expected in (
        (engine.gateway.PlaceOrders, order_requests_pb2.PlaceOrdersRequest(), "BATCH_EMPTY field=orders"),
        (engine.gateway.PlaceOrders, order_requests_pb2.PlaceOrdersRequest(orders=[order] * 501), "BATCH_TOO_LARGE"),
        (engine.gateway.ListOrders, order_gateway_pb2.ListOrdersRequest(user_id=user, page_size=501), "PAGE_INVALID"),
        (engine.gateway.ListOrders, order_gateway_pb2.ListOrdersRequest(user_id=user, page_token="x"), "ID_MALFORMED"),
        (
            engine.settlement.ListTrades,
            settlement_pb2.ListTradesRequest(symbol="BTC/USDT", page_token="x"),
            "PAGE_INVALID",
        ),
        (engine.settlement.ListTrades, settlement_pb2.ListTradesRequest(), "FIELD_REQUIRED field=symbol"),
        (engine.matcher.GetBook, matcher_pb2.GetBookRequest(symbol="BTC/USDT", depth=1001), "AMOUNT_OUT_OF_RANGE"),
        (engine.matcher.Submit, matcher_pb2.SubmitRequest(), "BATCH_EMPTY field=commands"),
        (
            engine.matcher.Submit,
            matcher_pb2.SubmitRequest(commands=[command_pb2.Command(put_symbol=command_pb2.PutSymbol())]),
            "FIELD_NOT_ALLOWED field=commands.put_symbol",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=expected):
            await call(request, metadata=engine.service)


SERVICES = {
    "gateway": (order_gateway_pb2, "OrderGatewayService"), "matcher": (matcher_pb2, "MatcherService"),
    "settlement": (settlement_pb2, "SettlementService"), "wallet": (wallet_pb2, "WalletService"),
    "marketdata": (market_data_pb2, "MarketDataService"),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
async def test_bytes_that_are_no_message_are_refused_by_every_method(engine: Engine, name: str) -> None:
    module, service = SERVICES[name]
    async with open_channel(getattr(engine.settings, name).target()) as channel:
        for method in module.DESCRIPTOR.services_by_name[service].methods:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await send_bytes(channel, method, b"\xff\xff", engine.service)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method.name
            assert refused.value.details().startswith("BODY_MALFORMED"), method.name


async def send_bytes(channel: grpc.aio.Channel, method: MethodDescriptor, body: bytes, metadata) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    if not method.server_streaming:
        await channel.unary_unary(path)(body, metadata=metadata)
        return
    call = channel.stream_stream(path) if method.client_streaming else channel.unary_stream(path)
    async for _ in call(iter([body]) if method.client_streaming else body, metadata=metadata):
        pass


_BESIDE = {"gateway": api_key_pb2.DESCRIPTOR.services_by_name.values()}
# Texts that have broken parsers before, beside anything at all.
TEXTS = st.sampled_from(
    ["", "\x00", "0", "1", "-0", "1e9", "NaN", "0.1", "100", "BTC/USDT", "USDT", "a" * 200, "\u0661", "'; DROP TABLE x",
     "\U0001f4a9", "00000000-0000-0000-0000-000000000002"]
) | st.text(max_size=20)  # fmt: skip
METHODS = [
    (name, method)
    for name, (module, _) in SERVICES.items()
    for service in (*module.DESCRIPTOR.services_by_name.values(), *_BESIDE.get(name, ()))
    for method in service.methods
    if not method.client_streaming
]


@pytest.fixture(scope="module")
async def fuzzed_engine(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """An engine of its own: what a service credential may say to the matcher is not backed by any money here."""
    async with engine_in(servers, tmp_path_factory.mktemp("fuzzed"), without={"edge"}) as engine:
        yield engine


def anything(descriptor, user_id: str, depth: int = 0):
    """Messages of a type with any content; the user's own id stands where one is needed to get further."""
    fields = {}
    for field in descriptor.fields:
        if field.message_type is None:
            content = _scalar(field, user_id)
        elif depth > 2:
            continue
        else:
            content = anything(field.message_type, user_id, depth + 1)
        fields[field.name] = st.lists(content, max_size=3) if field.is_repeated else content
    named = {"user_id": st.just(user_id)} if "user_id" in fields else {}
    return st.fixed_dictionaries(named, optional={name: item for name, item in fields.items() if name not in named})


def _scalar(field: FieldDescriptor, user_id: str):
    whole_numbers = {FieldDescriptor.TYPE_INT64: 63, FieldDescriptor.TYPE_INT32: 31}
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS | st.just(user_id)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(-1, 9)
    if field.type in whole_numbers:
        bits = whole_numbers[field.type]
        return st.integers(0, 3) | st.integers(-(2**bits), 2**bits - 1)
    return st.integers(0, 9)


async def answer_to(channel: grpc.aio.Channel, method: MethodDescriptor, request, metadata) -> grpc.StatusCode:
    """What comes of a call; of a stream, as far as it gets in a moment."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(path)(request.SerializeToString(), metadata=metadata, timeout=20)
    try:
        if not method.server_streaming:
            await call
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    async for _ in call:
                        pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_no_request_of_a_session_is_a_fault_of_ours(fuzzed_engine: Engine) -> None:
    engine = fuzzed_engine
    user = await engine.user(USDT="1000")
    loop = asyncio.get_running_loop()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(anything(trading_session_pb2.TradingSessionRequest.DESCRIPTOR, user), max_size=5))
    def run(contents: list[dict]) -> None:
        async def talk() -> None:
            # Of several kinds the last one counts, as the wire has it.
            requests = [trading_session_pb2.TradingSessionRequest(**content) for content in contents]
            call = engine.gateway.TradingSession(iter(requests), metadata=engine.service, timeout=20)
            answers = [answer async for answer in call if answer.request_id or not answer.HasField("update")]
            assert len([answer for answer in answers if not answer.updates_lost]) == len(requests)
            assert not [answer for answer in answers if answer.error.code in {INTERNAL, UNKNOWN}]

        asyncio.run_coroutine_threadsafe(talk(), loop).result(30)

    await asyncio.to_thread(run)


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[method.full_name for _, method in METHODS])
async def test_no_input_at_all_is_a_fault_of_ours(fuzzed_engine: Engine, name: str, method: MethodDescriptor) -> None:
    engine = fuzzed_engine
    user = await engine.user(USDT="1000")
    make = message_factory.GetMessageClass(method.input_type)
    loop = asyncio.get_running_loop()
    async with open_channel(getattr(engine.settings, name).target()) as channel:

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(anything(method.input_type, user))
        def run(content: dict) -> None:
            asking = answer_to(channel, method, make(**content), engine.service)
            code = asyncio.run_coroutine_threadsafe(asking, loop).result(30)
            assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}, code

        await asyncio.to_thread(run)
