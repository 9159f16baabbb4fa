"""Bad input at the front door: a typed error that names the field, and nothing has changed. Then: any input at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from exchange.gateway.v1 import order_gateway_pb2, order_requests_pb2, trading_session_pb2
from exchange.market_data.v1 import market_data_pb2
from exchange.matcher.v1 import command_pb2, matcher_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import ledger_entry_pb2, operation_pb2, transfer_pb2, wallet_pb2, withdrawal_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.rpc.client import open_channel
from tests.support.engine import SHOWING, Engine, engine_in, order_from
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


# Texts that have broken parsers before, beside anything at all.
TEXTS = st.sampled_from(
    ["", "\x00", "0", "1", "-0", "1e9", "NaN", "0.1", "100", "BTC/USDT", "USDT", "a" * 200, "\u0661", "'; DROP TABLE x",
     "\U0001f4a9", "00000000-0000-0000-0000-000000000002"]
) | st.text(max_size=20)  # fmt: skip
REQUESTS = [
    order_requests_pb2.PlaceOrderRequest, order_requests_pb2.CancelOrderRequest, order_requests_pb2.ReduceOrderRequest,
    order_requests_pb2.CancelOrdersRequest, order_requests_pb2.AmendOrderRequest, matcher_pb2.PutSymbolRequest,
    order_gateway_pb2.GetOrderRequest, order_gateway_pb2.ListOrdersRequest, order_requests_pb2.PlaceOrdersRequest,
    operation_pb2.ReserveRequest, operation_pb2.ReleaseRequest, operation_pb2.SettleTradeRequest,
    operation_pb2.DepositRequest, transfer_pb2.TransferRequest, withdrawal_pb2.RequestWithdrawalRequest,
    withdrawal_pb2.ConfirmWithdrawalRequest, wallet_pb2.GetBalancesRequest, ledger_entry_pb2.ListLedgerEntriesRequest,
    settlement_pb2.ListTradesRequest, matcher_pb2.GetBookRequest, matcher_pb2.SubmitRequest,
    matcher_pb2.GetReferencePriceRequest, settlement_pb2.ListFillsRequest, order_gateway_pb2.ListFillsRequest,
    settlement_pb2.ListDeadLettersRequest, settlement_pb2.RetryDeadLettersRequest, settlement_pb2.ReconcileRequest,
]  # fmt: skip


@pytest.fixture(scope="module")
async def fuzzed_engine(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """An engine of its own: what a service credential may say to the matcher is not backed by any money here."""
    async with engine_in(servers, tmp_path_factory.mktemp("fuzzed"), without=SHOWING) as engine:
        yield engine


def anything(descriptor, user_id: str, depth: int = 0):
    """Messages of a type with any content; the user's own id stands where one is needed to get further."""
    fields = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            if depth > 2 or field.message_type.full_name.startswith("google."):
                continue
            inner = anything(field.message_type, user_id, depth + 1)
            fields[field.name] = st.lists(inner, max_size=2) if field.is_repeated else inner
        elif field.type == FieldDescriptor.TYPE_STRING:
            fields[field.name] = TEXTS | st.just(user_id)
        elif field.type == FieldDescriptor.TYPE_BOOL:
            fields[field.name] = st.booleans()
        elif field.type == FieldDescriptor.TYPE_ENUM:
            fields[field.name] = st.integers(-1, 9)
        elif field.type == FieldDescriptor.TYPE_INT64:
            fields[field.name] = st.integers(-(2**63), 2**63 - 1)
        elif field.type == FieldDescriptor.TYPE_INT32:
            fields[field.name] = st.just(0) | st.integers(-(2**31), 2**31 - 1)
        else:
            fields[field.name] = st.integers(0, 9)
    named = {"user_id": st.just(user_id)} if "user_id" in fields else {}
    return st.fixed_dictionaries(named, optional={name: item for name, item in fields.items() if name not in named})


def stub_of(engine: Engine, request_class) -> Callable[..., Awaitable]:
    """The call that takes such a request; each service has its package, and several have a ListFills."""
    descriptor = request_class.DESCRIPTOR
    stub = {
        "exchange.gateway.v1": engine.gateway, "exchange.wallet.v1": engine.wallet,
        "exchange.settlement.v1": engine.settlement, "exchange.matcher.v1": engine.matcher,
    }[descriptor.file.package]  # fmt: skip
    return getattr(stub, descriptor.name.removesuffix("Request"))


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


@pytest.mark.parametrize("request_class", REQUESTS, ids=lambda item: item.DESCRIPTOR.full_name)
async def test_no_input_at_all_is_a_fault_of_ours(fuzzed_engine: Engine, request_class) -> None:
    engine = fuzzed_engine
    user = await engine.user(USDT="1000")
    call = stub_of(engine, request_class)
    loop = asyncio.get_running_loop()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(anything(request_class.DESCRIPTOR, user))
    def run(content: dict) -> None:
        async def ask() -> grpc.StatusCode:
            try:
                await call(request_class(**content), metadata=engine.service, timeout=20)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        code = asyncio.run_coroutine_threadsafe(ask(), loop).result(30)
        assert code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}, code

    await asyncio.to_thread(run)
