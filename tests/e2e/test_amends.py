"""Changes of open orders: what they need is reserved before, what they free is free after, whoever dies in between."""

import asyncio
import random
import time
from pathlib import Path

import grpc
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2, trading_session_pb2

from libs.db.pool import open_pool
from libs.ids import new_id
from services.order_gateway.core.records import Amendment
from services.order_gateway.store import OrderStore
from tests.support.engine import SHOWING, Engine, engine_in, order_from
from tests.support.servers import Servers
from tests.support.trading import until

OPEN, FILLED = order_pb2.ORDER_STATUS_OPEN, order_pb2.ORDER_STATUS_FILLED
RESOLVE_S = 1
COIN = 10**8


async def amend(engine: Engine, order: order_pb2.Order, **fields: str) -> order_pb2.Order:
    request = order_requests_pb2.AmendOrderRequest(user_id=order.user_id, order_id=order.order_id, **fields)
    return (await engine.gateway.AmendOrder(request, metadata=engine.service, timeout=20)).order


async def refusal(engine: Engine, order: order_pb2.Order, **fields: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await amend(engine, order, **fields)
    return refused.value.details()


@pytest.mark.parametrize(
    ("placed", "changes", "price", "quantity", "held"),
    [
        ("BUY 1 @ 100", {"price": "150"}, "150", "1", "150"),
        ("BUY 1 @ 100", {"quantity": "3"}, "100", "3", "300"),
        ("BUY 1 @ 100", {"price": "50", "quantity": "3"}, "50", "3", "150"),
        ("BUY 1 @ 100", {"price": "50"}, "50", "1", "50"),
        ("BUY 2 @ 100", {"quantity": "0.5"}, "100", "0.5", "50"),
        ("BUY 2 @ 100", {"price": "300", "quantity": "0.5"}, "300", "0.5", "150"),
        ("BUY 1 @ 100", {"price": "100"}, "100", "1", "100"),
    ],
)
async def test_a_buy_holds_what_it_needs_after_a_change(
    engine: Engine, placed: str, changes: dict[str, str], price: str, quantity: str, held: str
) -> None:
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, placed, symbol="BNB/USDT")).order
    for _ in range(2):  # the same change again changes nothing more
        changed = await amend(engine, order, **changes)
        assert (changed.status, changed.price, changed.quantity) == (OPEN, price, quantity)
        assert (await engine.balances(user))["USDT"] == (f"{1000 - int(held)}", held)
        assert await engine.order(order) == changed
    await engine.cancel(order)
    assert (await engine.balances(user))["USDT"] == ("1000", "0")


async def test_an_order_whose_time_is_over_is_closed_to_changes_before_its_record_says_so(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    request = order_from("BUY 1 @ 100", user_id=user, symbol="BNB/USDT", client_order_id=new_id())
    request.time_in_force = order_pb2.TIME_IN_FORCE_GTD
    request.expires_at.FromNanoseconds(time.time_ns() + 1_000_000_000)
    order = (await engine.gateway.PlaceOrder(request, metadata=engine.service, timeout=20)).order
    refused = ""
    async with asyncio.timeout(20):
        while not refused:
            try:
                await amend(engine, order, price=str(random.randrange(90, 110)))
            except grpc.aio.AioRpcError as error:
                refused = error.details()
    assert refused.startswith("ORDER_CLOSED"), refused
    assert (await engine.balances(user))["USDT"] == ("1000", "0")


async def test_all_that_is_ever_held_for_an_order_has_a_limit_and_nobody_else_feels_it(engine: Engine) -> None:
    user, neighbour = await engine.user(EUR="900000000000"), await engine.user(EUR="1000")
    order = (await engine.place(user, "BUY 1 @ 600000000000", symbol="BTC/EUR")).order
    order = await amend(engine, order, price="100000000000")
    assert (await engine.balances(user))["EUR"] == ("800000000000", "100000000000")
    refused, other = await asyncio.gather(
        refusal(engine, order, price="600000000000"), engine.place(neighbour, "BUY 0.1 @ 100", symbol="BTC/EUR")
    )
    assert "AMOUNT_OUT_OF_RANGE field=quantity" in refused
    assert await engine.query("SELECT FROM orders.orders WHERE amend IS NOT NULL") == []
    assert (await engine.balances(user))["EUR"] == ("800000000000", "100000000000")
    changed = await amend(engine, order, price="300000000000")
    assert (changed.status, (await engine.balances(user))["EUR"]) == (OPEN, ("600000000000", "300000000000"))
    for each in (order, other.order):
        await engine.cancel(each)
    assert (await engine.quiet()).clean


async def test_a_sell_grows_and_a_stop_moves(engine: Engine) -> None:
    user = await engine.user(BNB="10", USDT="1000")
    sell = (await engine.place(user, "SELL 1 @ 900", symbol="BNB/USDT")).order
    await amend(engine, sell, quantity="4", price="800")
    assert (await engine.balances(user))["BNB"] == ("6", "4")
    stop = order_requests_pb2.PlaceOrderRequest(
        user_id=user, client_order_id="stop", symbol="BNB/USDT", side=order_pb2.SIDE_BUY, type=order_pb2.ORDER_TYPE_STOP,
        quantity="1", stop_price="200",
    )  # fmt: skip
    waiting = (await engine.gateway.PlaceOrder(stop, metadata=engine.service)).order
    assert (await engine.balances(user))["USDT"] == ("790", "210")
    moved = await amend(engine, waiting, stop_price="400")
    assert (moved.stop_price, moved.waiting) == ("400", True)
    assert (await engine.order(waiting)).stop_price == "400"
    assert (await engine.balances(user))["USDT"] == ("580", "420"), "400 x 1.05"
    await amend(engine, waiting, quantity="2")
    assert (await engine.balances(user))["USDT"] == ("160", "840")
    await engine.cancel(waiting)
    await engine.cancel(sell)
    assert await engine.balances(user) == {"BNB": ("10", "0"), "USDT": ("1000", "0")}


async def test_a_change_that_crosses_trades_at_once_and_frees_the_improvement(engine: Engine) -> None:
    seller, buyer = await engine.user(BNB="5"), await engine.user(USDT="1000")
    order = (await engine.place(buyer, "BUY 2 @ 10", symbol="BNB/USDT")).order
    await engine.place(seller, "SELL 1 @ 20", symbol="BNB/USDT")
    changed = await amend(engine, order, price="30")
    assert (changed.status, changed.filled_quantity) == (order_pb2.ORDER_STATUS_PARTIALLY_FILLED, "1")
    assert (await engine.quiet()).clean
    assert (await engine.balances(buyer))["USDT"] == ("950", "30"), "20 paid, 1 x 30 held"
    done = await amend(engine, order, quantity="1")
    assert done.status == order_pb2.ORDER_STATUS_CANCELLED, "nothing is left of it"
    assert (await engine.balances(buyer))["USDT"] == ("980", "0")


async def test_what_cannot_be_paid_changes_nothing(engine: Engine) -> None:
    user = await engine.user(USDT="150")
    order = (await engine.place(user, "BUY 1 @ 100", symbol="BNB/USDT")).order
    said = await refusal(engine, order, price="151")
    assert "INSUFFICIENT_BALANCE" in said
    assert await engine.order(order) == order
    assert (await engine.balances(user))["USDT"] == ("50", "100")
    await engine.deposit(user, USDT="1")
    assert (await amend(engine, order, price="151")).price == "151"
    assert (await engine.balances(user))["USDT"] == ("0", "151")
    await engine.cancel(order)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "FIELD_REQUIRED field=price"),
        ({"price": "-1"}, "AMOUNT_MALFORMED field=price"),
        ({"price": "0"}, "AMOUNT_NOT_POSITIVE field=price"),
        ({"quantity": "1e3"}, "AMOUNT_MALFORMED field=quantity"),
        ({"price": "100.001"}, "PRICE_OFF_TICK field=price"),
        ({"quantity": "1.00001"}, "QUANTITY_OFF_LOT field=quantity"),
        ({"quantity": "0.001", "price": "1"}, "NOTIONAL_TOO_SMALL field=quantity"),
        ({"quantity": "99999999"}, "QUANTITY_TOO_LARGE field=quantity"),
        ({"stop_price": "90"}, "FIELD_NOT_ALLOWED field=stop_price"),
    ],
)
async def test_a_bad_change_names_field_and_rule_and_changes_nothing(engine: Engine, changes, said) -> None:
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 1 @ 100", symbol="BNB/USDT")).order
    assert said in await refusal(engine, order, **changes)
    assert await engine.order(order) == order
    await engine.cancel(order)
    assert "ORDER_CLOSED" in await refusal(engine, order, price="120")


@pytest.fixture
async def resolving(servers: Servers, tmp_path: Path):
    over = {"TRADE_ENGINE_GATEWAY_RESOLVE_AFTER_S": str(RESOLVE_S)}
    async with engine_in(servers, tmp_path, without=SHOWING, **over) as engine:
        pool = await open_pool(engine.settings.database, service="order_gateway")
        yield engine, OrderStore(pool)
        await pool.close()


async def test_a_change_that_was_cut_off_is_brought_to_its_end(resolving) -> None:
    """As if a gateway had died right after it recorded what it was about to do."""
    engine, store = resolving
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 1 @ 100")).order
    closed = (await engine.place(user, "BUY 1 @ 200")).order
    poor = (await engine.place(user, "BUY 1 @ 300")).order
    await store.intend(order.order_id, Amendment(price=150 * COIN), 50 * COIN)
    await store.intend(closed.order_id, Amendment(price=250 * COIN), 50 * COIN)
    await engine.cancel(closed)
    await store.intend(poor.order_id, Amendment(quantity=50 * COIN), 9000 * COIN)
    assert "AMEND_UNDER_WAY" in await refusal(engine, order, price="160")

    async def all_ended() -> bool:
        rows = await engine.query("SELECT count(*) AS n FROM orders.orders WHERE amend IS NOT NULL")
        return rows[0]["n"] == 0

    await until(all_ended)
    assert (await engine.order(order)).price == "150"
    assert (await engine.order(poor)).quantity == "1"
    assert (await engine.quiet()).clean
    assert (await engine.balances(user))["USDT"] == ("550", "450")


async def test_the_owner_who_asks_again_takes_a_cut_off_change_up(resolving) -> None:
    engine, store = resolving
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 1 @ 100")).order
    await store.intend(order.order_id, Amendment(price=150 * COIN), 50 * COIN)
    assert (await amend(engine, order, price="150")).price == "150"
    assert (await engine.balances(user))["USDT"] == ("850", "150")


async def test_many_changes_among_fills_leave_no_money_behind(resolving) -> None:
    engine, _ = resolving
    users = [await engine.user(USDT="100000", BTC="1000") for _ in range(6)]

    async def trade(user: str, dice: random.Random) -> None:
        for _ in range(25):
            order = (await engine.place(user, f"{dice.choice(('BUY', 'SELL'))} 1 @ {dice.randint(95, 105)}")).order
            for _ in range(3):
                quantity = dice.choice(("", "0.5", "1.5", "4"))
                await unless_filled(amend(engine, order, price=str(dice.randint(95, 105)), quantity=quantity))
            if dice.random() < 0.5:
                await unless_filled(engine.cancel(order))

    await asyncio.gather(*(trade(user, random.Random(number)) for number, user in enumerate(users)))
    report = await engine.quiet()
    assert report.clean, [finding for finding in report.findings if finding.wrong]
    assert len(await engine.tape("BTC/USDT")) > 50


async def unless_filled(call) -> None:
    """Wait for it; what was filled meanwhile, whole or in part, may be refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if not any(reason in (error.details() or "") for reason in ("ORDER_CLOSED", "RESERVATION_EXHAUSTED")):
            raise


async def test_an_order_is_changed_a_hundred_times_and_some(engine: Engine) -> None:
    """All that it ever freed is told with each of its changes: what is told would have no end."""
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 2 @ 100", symbol="BNB/USDT")).order
    requests = []
    for number in range(1, 1003):
        request = trading_session_pb2.TradingSessionRequest(request_id=number)
        request.reduce.user_id, request.reduce.order_id = user, order.order_id
        request.reduce.quantity = f"{(2000 - number) / 1000:.3f}"
        requests.append(request)
    call = engine.gateway.TradingSession(iter(requests), metadata=engine.service, timeout=60)
    answers = {answer.request_id: answer async for answer in call if answer.request_id}
    refused = [number for number, answer in answers.items() if answer.HasField("error")]
    assert len(answers) == len(requests)
    # What came in one batch with the last one that may be was looked at with it.
    assert refused, "the limit is not so late"
    assert refused == list(range(refused[0], 1003))
    assert refused[0] > 100
    assert "TOO_MANY_CHANGES" in answers[refused[0]].error.message
    for changes in ({"price": "90"}, {"price": "110"}):
        assert "TOO_MANY_CHANGES" in await refusal(engine, order, **changes)
    await engine.cancel(order)
    assert (await engine.balances(user))["USDT"] == ("1000", "0")
