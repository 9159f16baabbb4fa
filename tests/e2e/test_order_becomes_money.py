"""One order's way, seen from outside: placed, reserved, matched, settled."""

import asyncio
import time

import grpc
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2, order_requests_pb2, trading_session_pb2
from exchange.matcher.v1 import matcher_pb2
from exchange.settlement.v1 import settlement_pb2

from libs.ids import new_id
from tests.support.engine import Engine, order_from
from tests.support.records import insert_orders

FILLED = order_pb2.ORDER_STATUS_FILLED


async def test_two_crossing_orders_move_money_and_fees(engine: Engine) -> None:
    alice = await engine.user(BTC="1")
    bob = await engine.user(USDT="100000")
    sell = (await engine.place(alice, "SELL 0.5 @ 60000")).order
    assert sell.status == order_pb2.ORDER_STATUS_OPEN
    assert (await engine.balances(alice))["BTC"] == ("0.5", "0.5")

    bought = await engine.place(bob, "BUY 0.5 @ 61000")
    assert bought.order.status == FILLED
    assert [(fill.price, fill.quantity) for fill in bought.fills] == [("60000", "0.5")]
    assert (await engine.quiet()).clean
    # The price improvement is free again; taker 0.2 %, maker 0.1 %, each of what it receives.
    assert await engine.balances(bob) == {"BTC": ("0.499", "0"), "USDT": ("70000", "0")}
    assert await engine.balances(alice) == {"BTC": ("0.5", "0"), "USDT": ("29970", "0")}
    assert (await engine.order(sell)).status == FILLED


async def test_what_a_close_frees_is_available_in_the_reply(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 0.1 @ 1000")).order
    assert (await engine.balances(user))["USDT"] == ("900", "100")
    await engine.cancel(order)
    assert (await engine.balances(user))["USDT"] == ("1000", "0")


async def test_the_rest_of_an_ioc_order_never_rests(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 0.1 @ 1000 IOC")).order
    assert order.status == order_pb2.ORDER_STATUS_EXPIRED
    assert (await engine.balances(user))["USDT"] == ("1000", "0")


async def test_a_market_buy_spends_a_quote_amount(fresh_core: Engine) -> None:
    engine = fresh_core  # where no other test has traded at a price outside whose band this one would be
    seller, buyer = await engine.user(SOL="10"), await engine.user(USDT="1000")
    await engine.place(seller, "SELL 10 @ 150", symbol="SOL/USDT")
    bought = await engine.place(buyer, "BUY MARKET FOR 300", symbol="SOL/USDT")
    assert bought.order.status == FILLED
    assert bought.order.filled_quantity == "2"
    assert (await engine.quiet()).clean
    assert (await engine.balances(buyer))["USDT"] == ("700", "0")


async def test_a_market_buy_by_quantity_reserves_at_the_band_and_frees_the_rest(fresh_core: Engine) -> None:
    engine = fresh_core  # where no other test has traded at a price outside whose band this one would be
    seller, buyer = await engine.user(XRP="1000"), await engine.user(USDT="1000")
    await engine.place(seller, "SELL 1000 @ 0.5", symbol="XRP/USDT")
    bought = await engine.place(buyer, "BUY 100 MARKET", symbol="XRP/USDT")
    assert bought.order.status == FILLED
    assert (await engine.quiet()).clean
    assert (await engine.balances(buyer))["USDT"] == ("950", "0")


async def test_a_user_never_trades_with_themselves(engine: Engine) -> None:
    user = await engine.user(ADA="1000", USDT="1000")
    await engine.place(user, "SELL 100 @ 0.9", symbol="ADA/USDT")
    bought = await engine.place(user, "BUY 100 @ 1", symbol="ADA/USDT")
    assert bought.order.status == order_pb2.ORDER_STATUS_CANCELLED
    assert bought.order.reason == order_pb2.Order(reason=83).reason
    assert await engine.balances(user) == {"ADA": ("900", "100"), "USDT": ("1000", "0")}


async def test_without_money_the_order_is_rejected_and_says_what_is_missing(engine: Engine) -> None:
    user = await engine.user(USDT="10")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.place(user, "BUY 1 @ 1000", client_order_id="too-much")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "INSUFFICIENT_BALANCE" in refused.value.details()
    assert "available=10" in refused.value.details()
    assert "needed=1000" in refused.value.details()
    request = order_gateway_pb2.GetOrderRequest(user_id=user, client_order_id="too-much")
    order = (await engine.gateway.GetOrder(request, metadata=engine.service)).order
    assert order.status == order_pb2.ORDER_STATUS_REJECTED
    with pytest.raises(grpc.aio.AioRpcError, match="INSUFFICIENT_BALANCE"):
        await engine.place(user, "BUY 1 @ 1000", client_order_id="too-much")
    assert await engine.balances(user) == {"USDT": ("10", "0")}


async def test_a_repeat_has_one_effect_and_other_contents_are_refused(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    first = await engine.place(user, "BUY 0.1 @ 1000", client_order_id="once")
    again = await engine.place(user, "BUY 0.1 @ 1000", client_order_id="once")
    assert again.order.order_id == first.order.order_id
    assert (await engine.balances(user))["USDT"] == ("900", "100")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.place(user, "BUY 0.2 @ 1000", client_order_id="once")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "field=quantity" in refused.value.details()
    await engine.cancel(first.order)
    assert (await engine.place(user, "BUY 0.1 @ 1000", client_order_id="once")).order.status == (
        order_pb2.ORDER_STATUS_CANCELLED
    )


async def test_a_repeat_is_answered_though_a_new_order_would_be_refused_by_now(fresh_core: Engine) -> None:
    """Its time is over, or an operator has changed the market: who did not hear the answer must hear it all the same."""
    engine = fresh_core
    user = await engine.user(USDT="10000")
    dated = order_from("BUY 0.1 @ 1000", user_id=user, symbol="BTC/USDT", client_order_id="dated")
    dated.time_in_force = order_pb2.TIME_IN_FORCE_GTD
    dated.expires_at.FromNanoseconds(time.time_ns() + 1_500_000_000)
    small = order_from("BUY 0.1 @ 1000", user_id=user, symbol="BTC/USDT", client_order_id="small")
    place = engine.gateway.PlaceOrder
    placed = [(await place(order, metadata=engine.service)).order for order in (dated, small)]
    (symbol,) = [
        item
        for item in (
            await engine.matcher.ListSymbols(matcher_pb2.ListSymbolsRequest(), metadata=engine.service)
        ).symbols
        if item.symbol == "BTC/USDT"
    ]
    symbol.min_notional = "500"
    await engine.matcher.PutSymbol(matcher_pb2.PutSymbolRequest(symbol=symbol), metadata=engine.service)
    await asyncio.sleep(max(0.0, dated.expires_at.ToNanoseconds() / 1e9 - time.time() + 0.1))
    engine.stack.kill("order_gateway")  # another one, which knows the market as it is now
    await asyncio.to_thread(engine.stack.wait_healthy, "order_gateway")

    for order, before in zip((dated, small), placed, strict=True):
        again = (await place(order, metadata=engine.service, wait_for_ready=True)).order
        assert (again.order_id, again.client_order_id) == (before.order_id, before.client_order_id)
        order.quantity = "0.2"
        with pytest.raises(grpc.aio.AioRpcError, match="KEY_REUSED field=quantity"):
            await place(order, metadata=engine.service)
    for order, reason in ((dated, "AMOUNT_OUT_OF_RANGE field=expires_at"), (small, "NOTIONAL_TOO_SMALL")):
        order.client_order_id = "new"
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await place(order, metadata=engine.service)
    await engine.cancel(placed[1])
    assert await engine.balances(user) == {"USDT": ("10000", "0")}


async def test_a_batch_gives_one_result_per_order_and_bad_ones_spoil_nothing(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    texts = ["BUY 0.1 @ 1000", "BUY 0.1 @ 1000.001", "BUY 5 @ 1000", "BUY 0.2 @ 1000"]
    orders = [
        order_from(text, user_id=user, symbol="BTC/USDT", client_order_id=f"batch-{n}") for n, text in enumerate(texts)
    ]
    orders.append(orders[0])
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
    results = (await engine.gateway.PlaceOrders(request, metadata=engine.service)).results
    kinds = [result.WhichOneof("outcome") for result in results]
    assert kinds == ["response", "error", "error", "response", "response"]
    assert "PRICE_OFF_TICK" in results[1].error.message
    assert "INSUFFICIENT_BALANCE" in results[2].error.message
    assert results[4].response.order.order_id == results[0].response.order.order_id
    assert (await engine.balances(user))["USDT"] == ("700", "300")


async def test_orders_placed_together_are_told_later_as_they_were_at_once(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    placed = await asyncio.gather(*(engine.place(user, f"BUY 0.1 @ {100 + number}") for number in range(20)))
    orders = [answer.order for answer in placed]
    assert [await engine.order(order) for order in orders] == orders
    for order in orders:
        await engine.cancel(order)


@pytest.mark.parametrize("how", ["placed", "amended"])
async def test_an_order_that_meets_more_than_a_thousand_others(fresh_core: Engine, how: str) -> None:
    """Its answer tells the first of its fills, and that there are more; every one reaches the ledger."""
    engine, count = fresh_core, 1250
    seller, buyer = await engine.user(BTC="100"), await engine.user(USDT="100000")
    for start in range(0, count, 250):
        orders = [
            order_from("SELL 0.01 @ 1000", user_id=seller, symbol="BTC/USDT", client_order_id=f"s-{number}")
            for number in range(start, start + 250)
        ]
        request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
        answer = await engine.gateway.PlaceOrders(request, metadata=engine.service, timeout=20)
        assert not [result for result in answer.results if result.HasField("error")]
    await engine.place(buyer, "BUY 1 @ 1000")  # a hundred of them
    large, small_too = (
        order_from(text, user_id=buyer, symbol="BTC/USDT", client_order_id=text)
        for text in ("BUY 11.5 @ 1000", "BUY 0.01 @ 900")
    )
    request = trading_session_pb2.TradingSessionRequest
    requests = [request(place=large)]
    if how == "amended":
        large.price = "900"
        amend = order_requests_pb2.AmendOrderRequest(user_id=buyer, client_order_id=large.client_order_id, price="1000")
        requests = [request(place=large), request(amend=amend)]
    requests.append(request(place=small_too))
    answers = [answer async for answer in engine.gateway.TradingSession(iter(requests), metadata=engine.service)]
    swept, small = [answer for answer in answers if answer.HasField("order")][-2:]
    assert (swept.order.filled_quantity, len(swept.fills), swept.more_fills) == ("11.5", 1000, True)
    assert (len(small.fills), small.more_fills) == (0, False)
    assert (await engine.quiet()).clean
    assert (await engine.balances(seller))["USDT"][0] == "12487.5", "less the maker's fee"
    listed, token = [], ""
    while True:
        page = order_gateway_pb2.ListFillsRequest(
            filter=settlement_pb2.ListFillsRequest(order_id=swept.order.order_id, page_size=1000, page_token=token),
            user_id=buyer,
        )
        found = await engine.gateway.ListFills(page, metadata=engine.service)
        listed += found.fills
        token = found.next_page_token
        if not token:
            break
    assert len({fill.trade_id for fill in listed}) == 1150


async def test_reducing_keeps_the_place_in_the_queue(engine: Engine) -> None:
    symbol = "AAPL/USD"
    first, second, buyer = await engine.user(AAPL="10"), await engine.user(AAPL="10"), await engine.user(USD="10000")
    early = (await engine.place(first, "SELL 5 @ 300", symbol=symbol)).order
    late = (await engine.place(second, "SELL 5 @ 300", symbol=symbol)).order
    reduce = order_requests_pb2.ReduceOrderRequest(user_id=first, order_id=early.order_id, quantity="2")
    assert (await engine.gateway.ReduceOrder(reduce, metadata=engine.service)).order.quantity == "2"
    assert (await engine.balances(first))["AAPL"] == ("8", "2")
    await engine.place(buyer, "BUY 3 @ 300", symbol=symbol)
    assert (await engine.quiet()).clean
    assert (await engine.order(early)).filled_quantity == "2"
    assert (await engine.order(late)).filled_quantity == "1"


async def test_a_session_answers_in_order_and_bad_requests_in_their_place(engine: Engine) -> None:
    user = await engine.user(USDT="1000")

    async def requests():
        place = order_from("BUY 0.1 @ 1000", user_id=user, symbol="BTC/USDT", client_order_id="session-1")
        yield trading_session_pb2.TradingSessionRequest(request_id=1, place=place)
        bad = order_from("BUY 0 @ 1000", user_id=user, symbol="BTC/USDT", client_order_id="session-2")
        yield trading_session_pb2.TradingSessionRequest(request_id=2, place=bad)
        cancel = order_requests_pb2.CancelOrderRequest(user_id=user, client_order_id="session-1")
        yield trading_session_pb2.TradingSessionRequest(request_id=3, cancel=cancel)
        yield trading_session_pb2.TradingSessionRequest(request_id=4)

    answers = [answer async for answer in engine.gateway.TradingSession(requests(), metadata=engine.service)]
    assert [answer.request_id for answer in answers] == [1, 2, 3, 4]
    assert answers[0].order.status == order_pb2.ORDER_STATUS_OPEN
    assert "AMOUNT_NOT_POSITIVE field=quantity" in answers[1].error.message
    assert answers[2].order.status == order_pb2.ORDER_STATUS_CANCELLED
    assert "FIELD_REQUIRED" in answers[3].error.message


async def test_own_updates_stream_from_the_open_orders_on(engine: Engine) -> None:
    seller, buyer = await engine.user(ETH="10"), await engine.user(USDT="100000")
    resting = (await engine.place(seller, "SELL 4 @ 3000", symbol="ETH/USDT")).order
    stream = engine.gateway.StreamOrders(
        order_gateway_pb2.StreamOrdersRequest(), metadata=engine.as_caller(seller), timeout=20
    )
    first = await stream.read()
    assert first.snapshot
    assert first.order.order_id == resting.order_id
    assert (await stream.read()).snapshot_complete
    await engine.place(buyer, "BUY 1 @ 3000", symbol="ETH/USDT")
    update = await stream.read()
    assert not update.snapshot
    assert (update.order.order_id, update.order.filled_quantity) == (resting.order_id, "1")
    stream.cancel()


async def test_lists_page_through_own_orders_newest_first(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    placed = [(await engine.place(user, f"BUY 0.01 @ {900 + n}")).order.order_id for n in range(5)]
    seen, token = [], ""
    while True:
        request = order_gateway_pb2.ListOrdersRequest(user_id=user, page_size=2, page_token=token, open_only=True)
        page = await engine.gateway.ListOrders(request, metadata=engine.service)
        seen += [order.order_id for order in page.orders]
        token = page.next_page_token
        if not token:
            break
    assert seen == placed[::-1]


async def test_cancels_are_for_the_owner_and_while_there_is_something_to_cancel(engine: Engine) -> None:
    user, other = await engine.user(USDT="1000"), await engine.user(USDT="1000")
    order = (await engine.place(user, "BUY 0.1 @ 1000")).order
    for request, reason in (
        (order_requests_pb2.CancelOrderRequest(user_id=other, order_id=order.order_id), "ORDER_NOT_FOUND"),
        (order_requests_pb2.CancelOrderRequest(user_id=user, order_id=new_id()), "ORDER_NOT_FOUND"),
        (order_requests_pb2.CancelOrderRequest(user_id=user, order_id="nonsense"), "ID_MALFORMED"),
        (order_requests_pb2.CancelOrderRequest(user_id=user), "FIELD_REQUIRED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await engine.gateway.CancelOrder(request, metadata=engine.service)
    assert (await engine.cancel(order)).status == order_pb2.ORDER_STATUS_CANCELLED
    assert (await engine.cancel(order)).status == order_pb2.ORDER_STATUS_CANCELLED


@pytest.mark.parametrize("named", ["order_id", "client_order_id"])
async def test_an_order_that_the_matcher_has_forgotten_is_closed_as_its_record_says(engine: Engine, named: str) -> None:
    """It remembers closed orders for a day, and a million of them; a repeat of a cancel may come later."""
    user = new_id()
    kinds = (order_pb2.ORDER_STATUS_CANCELLED, FILLED)
    cancelled, filled = await insert_orders(engine.query, user, [("BTC/USDT", kind) for kind in kinds])
    insert = (
        "INSERT INTO orders.client_ids SELECT user_id, client_order_id, order_id FROM orders.orders WHERE user_id = $1"
    )
    await engine.query(insert, user)
    name = {named: cancelled}
    request = order_requests_pb2.CancelOrderRequest(user_id=user, **name)
    answer = await engine.gateway.CancelOrder(request, metadata=engine.service, timeout=20)
    assert (answer.order.order_id, answer.order.status) == (cancelled, order_pb2.ORDER_STATUS_CANCELLED)
    closed = [
        engine.gateway.CancelOrder(
            order_requests_pb2.CancelOrderRequest(user_id=user, **{named: filled}), metadata=engine.service
        ),
        engine.gateway.AmendOrder(
            order_requests_pb2.AmendOrderRequest(user_id=user, **{named: filled}, quantity="0.5"),
            metadata=engine.service,
        ),
        engine.gateway.ReduceOrder(
            order_requests_pb2.ReduceOrderRequest(user_id=user, **name, quantity="0.5"), metadata=engine.service
        ),
    ]
    for call in closed:
        with pytest.raises(grpc.aio.AioRpcError, match="ORDER_CLOSED"):
            await call
