"""Every kind of order from the front door to the ledger: what it holds, what becomes of it, what is free again."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2
from exchange.wallet.v1 import ledger_entry_pb2
from google.protobuf import timestamp_pb2

from libs.ids import new_id
from tests.support.engine import Engine

SYMBOL = "BTC/USDT"
Kind, Time = order_pb2.OrderType, order_pb2.TimeInForce


async def place(engine: Engine, user: str, side: str, kind: str, **fields) -> order_pb2.Order:
    request = order_requests_pb2.PlaceOrderRequest(
        user_id=user, client_order_id=fields.pop("client_order_id", "") or new_id(), symbol=SYMBOL,
        side=order_pb2.Side.Value(f"SIDE_{side}"), type=Kind.Value(f"ORDER_TYPE_{kind}"), **fields,
    )  # fmt: skip
    return (await engine.gateway.PlaceOrder(request, metadata=engine.service, timeout=20)).order


async def until(engine: Engine, order: order_pb2.Order, status: str) -> order_pb2.Order:
    async with asyncio.timeout(20):
        while True:
            now = await engine.order(order)
            if order_pb2.OrderStatus.Name(now.status) == f"ORDER_STATUS_{status}":
                return now
            await asyncio.sleep(0.05)


@pytest.fixture
async def traded(own_engine: Engine) -> Engine:
    """The books are empty, and the last trade was at 100."""
    engine = own_engine
    await engine.empty_books()
    await engine.place(await engine.user(BTC="1"), "SELL 1 @ 100")
    await engine.place(await engine.user(USDT="100"), "BUY 1 @ 100")
    return engine


async def test_a_stop_waits_goes_and_frees_what_it_did_not_need(traded: Engine) -> None:
    user, maker = await traded.user(USDT="1000"), await traded.user(BTC="10")
    stop = await place(traded, user, "BUY", "STOP", quantity="1", stop_price="102")
    assert (stop.status, stop.waiting, stop.stop_price) == (order_pb2.ORDER_STATUS_OPEN, True, "102")
    assert (await traded.balances(user))["USDT"] == ("892.9", "107.1"), "1 x 102 x 1.05"
    assert await traded.order(stop) == stop
    await traded.place(maker, "SELL 2 @ 102")
    await traded.place(await traded.user(USDT="102"), "BUY 1 @ 102")
    filled = await until(traded, stop, "FILLED")
    assert (filled.filled_quantity, filled.filled_notional, filled.waiting) == ("1", "102", False)
    assert (await traded.quiet()).clean
    assert (await traded.balances(user))["USDT"] == ("898", "0")


async def test_an_oco_ends_its_other_half(traded: Engine) -> None:
    user, buyer = await traded.user(BTC="2"), await traded.user(USDT="10000")
    oco = await place(traded, user, "SELL", "OCO", quantity="2", price="103", stop_price="97", stop_limit_price="96")
    assert oco.waiting
    assert await traded.book(SYMBOL) == ([("103", "2")], [])
    await traded.place(buyer, "BUY 0.5 @ 103")
    partly = await until(traded, oco, "PARTIALLY_FILLED")
    assert not partly.waiting
    await traded.cancel(oco)
    assert (await traded.quiet()).clean
    assert (await traded.balances(user))["BTC"] == ("1.5", "0")

    second = await place(traded, user, "SELL", "OCO", quantity="1", price="104", stop_price="97", stop_limit_price="96")
    await traded.place(buyer, "BUY 1 @ 97")
    await traded.place(await traded.user(BTC="1"), "SELL 1 @ 97")
    async with asyncio.timeout(20):
        while (now := await traded.order(second)).waiting:
            await asyncio.sleep(0.05)
    assert (now.price, now.status) == ("96", order_pb2.ORDER_STATUS_OPEN)
    assert await traded.book(SYMBOL) == ([("96", "1")], [])
    assert (await traded.quiet()).clean


async def test_a_post_only_order_steps_aside_and_holds_less(traded: Engine) -> None:
    user, maker = await traded.user(USDT="1000"), await traded.user(BTC="10")
    await traded.place(maker, "SELL 1 @ 100")
    aside = await place(traded, user, "BUY", "LIMIT", quantity="1", price="105", post_only=order_pb2.POST_ONLY_REPRICE)
    assert (aside.price, aside.status) == ("99.99", order_pb2.ORDER_STATUS_OPEN)
    assert (await traded.order(aside)).price == "99.99"
    assert (await traded.balances(user))["USDT"] == ("900.01", "99.99")
    refused = await place(traded, user, "BUY", "LIMIT", quantity="1", price="105", post_only=order_pb2.POST_ONLY_REJECT)
    assert (refused.status, refused.reason) == (order_pb2.ORDER_STATUS_REJECTED, 90)
    assert (await traded.balances(user))["USDT"] == ("900.01", "99.99")
    assert (await traded.quiet()).clean


async def test_icebergs_fok_and_self_trade_modes_go_through(traded: Engine) -> None:
    user, other = await traded.user(BTC="10", USDT="10000"), await traded.user(USDT="10000")
    ice = await place(traded, user, "SELL", "LIMIT", quantity="5", price="101", display_quantity="1")
    assert ice.display_quantity == "1"
    assert await traded.book(SYMBOL) == ([("101", "1")], [])
    fok = await place(traded, other, "BUY", "LIMIT", quantity="6", price="101", time_in_force=Time.TIME_IN_FORCE_FOK)
    assert (fok.status, fok.reason) == (order_pb2.ORDER_STATUS_EXPIRED, 89)
    fok = await place(traded, other, "BUY", "LIMIT", quantity="4", price="101", time_in_force=Time.TIME_IN_FORCE_FOK)
    assert fok.status == order_pb2.ORDER_STATUS_FILLED
    own = await place(
        traded, user, "BUY", "LIMIT", quantity="1", price="101", self_trade=order_pb2.SELF_TRADE_CANCEL_BOTH
    )
    assert own.status == order_pb2.ORDER_STATUS_CANCELLED
    assert (await until(traded, ice, "CANCELLED")).filled_quantity == "4"
    assert (await traded.quiet()).clean
    assert (await traded.balances(user))["BTC"] == ("6", "0")


async def test_a_dated_order_ends_by_itself_and_frees_its_money(traded: Engine) -> None:
    user = await traded.user(USDT="1000")
    end = datetime.now(UTC) + timedelta(seconds=1.5)
    dated = await place(
        traded, user, "BUY", "LIMIT", quantity="1", price="90", time_in_force=Time.TIME_IN_FORCE_GTD, expires_at=end
    )
    assert dated.expires_at.ToDatetime(UTC) == end
    expired = await until(traded, dated, "EXPIRED")
    assert expired.reason == 88
    assert (await traded.quiet()).clean
    assert (await traded.balances(user))["USDT"] == ("1000", "0")


async def test_a_trailing_stop_follows_and_goes(traded: Engine) -> None:
    user = await traded.user(BTC="1")
    trailing = await place(traded, user, "SELL", "TRAILING_STOP", quantity="1", trail="2")
    seller, buyer = await traded.user(BTC="10"), await traded.user(USDT="10000")
    await traded.place(seller, "SELL 1 @ 104")
    await traded.place(buyer, "BUY 1 @ 104")
    await traded.place(buyer, "BUY 2 @ 102")
    await traded.place(seller, "SELL 1 @ 102")
    assert (await until(traded, trailing, "FILLED")).filled_notional == "102"
    assert (await traded.quiet()).clean


async def test_a_repeat_is_the_same_in_every_field(traded: Engine) -> None:
    user, key = await traded.user(BTC="10"), new_id()
    first = await place(traded, user, "SELL", "STOP", client_order_id=key, quantity="1", stop_price="90")
    assert await place(traded, user, "SELL", "STOP", client_order_id=key, quantity="1", stop_price="90") == first
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place(traded, user, "SELL", "STOP", client_order_id=key, quantity="1", stop_price="91")
    assert refused.value.details().startswith("KEY_REUSED field=stop_price")


async def test_all_of_it_by_rest(traded: Engine) -> None:
    user = await traded.user(BTC="10")
    body = {
        "clientOrderId": "s-1", "symbol": SYMBOL, "side": "SIDE_SELL", "type": "ORDER_TYPE_STOP_LIMIT", "price": "89",
        "quantity": "1", "stopPrice": "90", "timeInForce": "TIME_IN_FORCE_GTD", "expiresAt": "2099-01-01T00:00:00Z",
        "selfTrade": "SELF_TRADE_DECREMENT",
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=traded.rest) as http:
        headers = traded.bearer(user)
        placed = (await http.post("/api/v1/orders", json=body, headers=headers)).json()["order"]
        assert {name: placed[name] for name in ("stopPrice", "price", "waiting", "expiresAt", "selfTrade")} == {
            "stopPrice": "90", "price": "89", "waiting": True, "expiresAt": "2099-01-01T00:00:00Z",
            "selfTrade": "SELF_TRADE_DECREMENT",
        }  # fmt: skip
        bad = await http.post(
            "/api/v1/orders", json={**body, "clientOrderId": "s-2", "stopPrice": "1e2"}, headers=headers
        )
        assert (bad.status_code, bad.json()["field"]) == (400, "stop_price")


async def test_many_orders_are_cancelled_by_id_or_all_at_once(traded: Engine) -> None:
    user, other = await traded.user(BTC="10", USDT="10000", ETH="10"), await traded.user(BTC="1")
    orders = [(await traded.place(user, f"SELL 1 @ {110 + number}")).order for number in range(4)]
    eth = (await traded.place(user, "SELL 1 @ 2000", symbol="ETH/USDT")).order
    stop = await place(traded, user, "BUY", "STOP", quantity="1", stop_price="120")
    theirs = (await traded.place(other, "SELL 1 @ 130")).order

    async def cancel(**fields):
        request = order_requests_pb2.CancelOrdersRequest(user_id=user, **fields)
        return (await traded.gateway.CancelOrders(request, metadata=traded.service, timeout=20)).results

    named = await cancel(order_ids=[orders[0].order_id, theirs.order_id])
    assert named[0].order.status == order_pb2.ORDER_STATUS_CANCELLED
    assert named[1].error.message.startswith("ORDER_NOT_FOUND")
    here = await cancel(symbol="BTC-USDT")
    assert {item.order.order_id for item in here} == {stop.order_id, *(order.order_id for order in orders[1:])}
    assert {item.order.status for item in here} == {order_pb2.ORDER_STATUS_CANCELLED}
    assert (await traded.order(eth)).status == order_pb2.ORDER_STATUS_OPEN
    async with httpx.AsyncClient(base_url=traded.rest) as http:
        headers = traded.bearer(user)
        everywhere = (await http.post("/api/v1/orders:cancel", json={}, headers=headers)).json()["results"]
    assert [item["order"]["orderId"] for item in everywhere] == [eth.order_id]
    assert await cancel() == []
    assert (await traded.order(theirs)).status == order_pb2.ORDER_STATUS_OPEN
    assert (await traded.balances(user)) == {"BTC": ("10", "0"), "USDT": ("10000", "0"), "ETH": ("10", "0")}
    assert (await traded.quiet()).clean


async def test_more_open_orders_than_one_command_cancels_are_all_cancelled(traded: Engine) -> None:
    user = await traded.user(BTC="1000")
    for start in (0, 300):
        batch = [
            order_requests_pb2.PlaceOrderRequest(
                user_id=user, client_order_id=f"many-{start + number}", symbol=SYMBOL, side=order_pb2.SIDE_SELL,
                type=Kind.ORDER_TYPE_LIMIT, price=str(200 + number), quantity="1",
            )
            for number in range(300)
        ]  # fmt: skip
        await traded.gateway.PlaceOrders(
            order_requests_pb2.PlaceOrdersRequest(orders=batch), metadata=traded.service, timeout=20
        )
    request = order_requests_pb2.CancelOrdersRequest(user_id=user)
    results = (await traded.gateway.CancelOrders(request, metadata=traded.service, timeout=20)).results
    assert len({item.order.order_id for item in results}) == 600
    assert (await traded.balances(user))["BTC"] == ("1000", "0")


@pytest.mark.parametrize(
    "time",
    [{"seconds": 2**62}, {"seconds": -1}, {"seconds": 4102444800, "nanos": -1}, {"seconds": 1, "nanos": 2**31 - 1}],
)
async def test_times_out_of_this_world_are_refused(engine: Engine, time: dict[str, int]) -> None:
    moment = timestamp_pb2.Timestamp(**time)
    user = await engine.user(USDT="1000")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place(
            engine,
            user,
            "BUY",
            "LIMIT",
            quantity="1",
            price="90",
            time_in_force=Time.TIME_IN_FORCE_GTD,
            expires_at=moment,
        )
    assert refused.value.details().startswith("AMOUNT_OUT_OF_RANGE field=expires_at")
    for field in ("from_time", "to_time"):
        request = ledger_entry_pb2.ListLedgerEntriesRequest(user_id=user, **{field: moment})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await engine.wallet.ListLedgerEntries(request, metadata=engine.service)
        assert refused.value.details().startswith(f"AMOUNT_OUT_OF_RANGE field={field}")
