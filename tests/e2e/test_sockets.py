"""Sockets: private channels, orders, resuming, limits, and how they end."""

import asyncio
import json
import signal

import pytest
import websockets

from libs.ids import new_id
from tests.support.engine import Engine
from tests.support.sockets import SocketBook, SocketClient
from tests.support.trading import until

LIMIT = {"symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT", "price": "100", "quantity": "1"}


async def test_orders_are_placed_amended_and_cancelled_over_the_socket(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    async with SocketClient(engine, user) as client:
        await client.send(op="subscribe", channel="orders")
        assert (await client.receive(channel="orders"))["orders"] == []
        placed = await client.ask(op="place", id=1, params={**LIMIT, "clientOrderId": "s-1"})
        assert (placed["op"], placed["order"]["status"]) == ("place", "ORDER_STATUS_OPEN")
        order_id = placed["order"]["orderId"]
        amended = await client.ask(op="amend", id="a", params={"orderId": order_id, "price": "90", "quantity": "2"})
        assert (amended["order"]["price"], amended["order"]["quantity"]) == ("90", "2")
        assert await engine.balances(user) == {"USDT": ("820", "180")}
        reduced = await client.ask(op="reduce", id=3, params={"orderId": order_id, "quantity": "1"})
        assert reduced["order"]["quantity"] == "1"
        gone = await client.ask(op="cancel", id=4, params={"orderId": order_id})
        assert gone["order"]["status"] == "ORDER_STATUS_CANCELLED"
        update = await client.receive(channel="orders", type="update")
        while update["orders"][0]["status"] != "ORDER_STATUS_CANCELLED":
            update = await client.receive(channel="orders", type="update")
        assert update["orders"][0]["orderId"] == order_id
        for number in range(3):
            await client.ask(op="place", id=10 + number, params={**LIMIT, "clientOrderId": f"many-{number}"})
        cancelled = await client.ask(op="cancelAll", id=20, params={})
        assert len(cancelled["orderIds"]) == 3
    assert await engine.balances(user) == {"USDT": ("1000", "0")}


async def test_many_requests_under_way_are_each_answered_once(engine: Engine) -> None:
    user = await engine.user(USDT="10000")
    async with SocketClient(engine, user) as client:
        for number in range(50):
            await client.send(op="place", id=number, params={**LIMIT, "clientOrderId": f"n-{number}"})
        answered = [(await client.receive(op="place"))["id"] for _ in range(50)]
    assert answered == list(range(50))
    assert await engine.balances(user) == {"USDT": ("5000", "5000")}


async def test_cancel_all_means_what_was_sent_before_it(engine: Engine) -> None:
    user = await engine.user(USDT="10000")
    async with SocketClient(engine, user) as client:
        for number in range(40):
            await client.send(op="place", id=number, params={**LIMIT, "clientOrderId": f"before-{number}"})
        await client.send(op="cancelAll", id="all", params={})
        await client.send(op="place", id="after", params={**LIMIT, "clientOrderId": "after"})
        assert len((await client.receive(id="all"))["orderIds"]) == 40
        assert (await client.receive(id="after"))["order"]["status"] == "ORDER_STATUS_OPEN"
        assert await engine.balances(user) == {"USDT": ("9900", "100")}
        await client.ask(op="cancelAll", id="end", params={})


async def test_a_socket_may_take_its_orders_with_it(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    async with SocketClient(engine, user) as client:
        begun = await client.ask(op="options", id=0, params={"cancelOnDisconnect": True})
        assert begun["sessionId"]
        await client.ask(op="place", id=1, params={**LIMIT, "clientOrderId": "mine"})
        assert await engine.balances(user) == {"USDT": ("900", "100")}

    async def is_free() -> bool:
        return await engine.balances(user) == {"USDT": ("1000", "0")}

    await until(is_free)


async def test_what_a_socket_asked_for_holds_after_its_gateway_was_away_too(fresh_engine: Engine) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="1000")

    async def balance_is(*expected: str) -> bool:
        return await engine.balances(user) == {"USDT": expected}

    async with SocketClient(engine, user) as client:
        first = await client.ask(op="options", id=0, params={"cancelOnDisconnect": True})
        engine.stack.kill("order_gateway")
        await asyncio.to_thread(engine.stack.wait_healthy, "order_gateway")
        placed: dict = {"op": "error"}
        async with asyncio.timeout(20):
            while placed["op"] == "error":  # until the edge has found it again
                await asyncio.sleep(0.1)
                placed = await client.ask(op="place", id=1, params={**LIMIT, "clientOrderId": "mine"})
        assert await balance_is("900", "100")
        again = await client.ask(op="options", id=2, params={"cancelOnDisconnect": True})
        assert (again["op"], again["field"]) == ("error", "options"), f"the session goes on: {first} {again}"
    await until(lambda: balance_is("1000", "0"))


async def test_balances_and_orders_are_told_as_they_change_and_again_after_a_restart(fresh_engine: Engine) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="1000")
    async with SocketClient(engine, user) as client:
        await client.send(op="subscribe", channel="balances")
        first = await client.receive(channel="balances", type="snapshot")
        assert [(item["asset"], item["available"]) for item in first["balances"]] == [("USDT", "1000")]
        await client.send(op="subscribe", channel="orders")
        await client.receive(channel="orders", type="snapshot")
        placed = (await engine.place(user, "BUY 1 @ 100")).order
        while (await client.receive(channel="balances"))["balances"][0]["reserved"] != "100":
            pass
        engine.stack.kill("order_gateway")
        await asyncio.to_thread(engine.stack.wait_healthy, "order_gateway")
        again = await client.receive(channel="orders", type="snapshot")
        assert [order["orderId"] for order in again["orders"]] == [placed.order_id]


DENIED = [
    ("nobody's orders", "", "", {"op": "subscribe", "channel": "orders"}, "UNAUTHENTICATED"),
    ("nobody's balances", "", "", {"op": "subscribe", "channel": "balances"}, "UNAUTHENTICATED"),
    ("nobody's order", "", "", {"op": "place", "params": LIMIT}, "UNAUTHENTICATED"),
    ("nobody's cancels", "", "", {"op": "cancelAll"}, "UNAUTHENTICATED"),
    ("a reader's order", "user", "read", {"op": "place", "params": LIMIT}, "SCOPE_MISSING"),
    ("a trader who may not read", "user", "trade", {"op": "subscribe", "channel": "orders"}, "SCOPE_MISSING"),
    ("an order of another", "user", "trade", {"op": "place", "params": {**LIMIT, "userId": new_id()}}, "OTHER_USER"),
    ("cancels of another", "user", "trade", {"op": "cancelAll", "params": {"userId": new_id()}}, "OTHER_USER"),
    ("another's order", "user", "trade", {"op": "cancel", "params": {"orderId": new_id()}}, "ORDER_NOT_FOUND"),
    ("params that are none", "user", "trade", {"op": "place", "params": [1]}, "BODY_MALFORMED"),
    ("an unknown field", "user", "trade", {"op": "place", "params": {"colour": "red"}}, "BODY_MALFORMED"),
    ("an id that is none", "user", "trade", {"op": "ping", "id": {}}, "TEXT_MALFORMED"),
    (
        "a sequence that is none", "", "",
        {"op": "subscribe", "channel": "book", "symbol": "BTC/USDT", "after": -1}, "AMOUNT_OUT_OF_RANGE",
    ),
    (
        "a depth that is a fraction", "", "",
        {"op": "subscribe", "channel": "book", "symbol": "BTC/USDT", "depth": 5.0}, "CHOICE_UNKNOWN",
    ),
    ("half a character", "", "", {"op": "subscribe", "channel": "book", "symbol": "\ud800"}, "TEXT_MALFORMED"),
    ("half a character's trades", "", "", {"op": "subscribe", "channel": "trades", "symbol": "A\udfff"}, "TEXT_MALFORMED"),
    ("an order for half a character", "user", "trade", {"op": "place", "params": {"symbol": "\ud800"}}, "BODY_MALFORMED"),
    ("cancels of half a character", "user", "trade", {"op": "cancelAll", "params": {"symbol": "\ud800"}}, "BODY_MALFORMED"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("who", "scopes", "message", "reason"), [row[1:] for row in DENIED], ids=[row[0] for row in DENIED]
)
async def test_what_a_socket_may_not_do(engine: Engine, who: str, scopes: str, message: dict, reason: str) -> None:
    user = new_id() if who else ""
    async with SocketClient(engine, user, scopes=scopes) as client:
        await client.send(**message)
        assert (await client.receive(op="error"))["reason"] == reason
        await client.send(op="ping", id=7)
        assert await client.receive(op="pong") == {"op": "pong", "id": 7}


async def test_a_reader_that_comes_back_goes_on_where_it_was(fresh_engine: Engine) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="100000")
    book = SocketBook()
    async with SocketClient(engine) as other, SocketClient(engine) as client:
        for one in (other, client):  # the other one keeps the edge listening
            await one.send(op="subscribe", channel="book", symbol="BTC-USDT", depth=20)
        book.take(await client.receive(channel="book"))
        await engine.place(user, "BUY 1 @ 100")
        while not book.sides["bids"]:
            book.take(await client.receive(channel="book"))
        await client.send(op="unsubscribe", channel="book", symbol="BTC-USDT", depth=20)
        for price in (101, 102, 103):
            await engine.place(user, f"BUY 1 @ {price}")
        while json.loads(await other.socket.recv()).get("sequence") != book.sequence + 3:
            pass
        await client.send(op="subscribe", channel="book", symbol="BTC-USDT", depth=20, after=book.sequence)
        while len(book.sides["bids"]) < 4:
            book.take(await client.receive(channel="book"))
        assert book.snapshots == 1
        await client.send(op="unsubscribe", channel="book", symbol="BTC-USDT", depth=20)
        await client.send(op="subscribe", channel="book", symbol="BTC-USDT", depth=20, after=10**9)
        book.take(await client.receive(channel="book"))
        assert book.snapshots == 2, "a number that is not remembered begins anew"


async def test_a_socket_ends_with_its_token(engine: Engine) -> None:
    async with SocketClient(engine, new_id(), life_s=6) as client:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.receive(op="never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 3000


async def test_too_much_at_once_is_refused_and_the_socket_lives_on(engine: Engine) -> None:
    async with SocketClient(engine) as client:
        for _ in range(350):  # more than a hundred in one of at most three seconds, wherever they begin
            await client.send(op="ping")
        assert (await client.receive(op="error"))["reason"] == "RATE_LIMITED"
        await asyncio.sleep(1.1)
        for depth in (5, 20, 100):
            for symbol in ("BTC/USDT", "ETH/USDT", "SOL/USDT", "ADA/USDT", "DOGE/USDT", "BTC/EUR", "ETH/BTC"):
                await client.send(op="subscribe", channel="book", symbol=symbol, depth=depth)
        await client.receive(op="error", reason="TOO_MANY_SUBSCRIBERS")
        await client.send(op="ping", id=1)
        await client.receive(op="pong", id=1)


async def test_heartbeats_come_and_binary_messages_end_the_socket(engine: Engine) -> None:
    async with SocketClient(engine) as client:
        await client.receive(op="heartbeat")
        await client.socket.send(b"\x00")
        with pytest.raises(websockets.ConnectionClosed):
            await client.receive(op="never")


async def test_an_edge_that_stops_says_so_to_its_sockets(fresh_engine: Engine) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="1000")
    async with SocketClient(engine, user) as client:
        await client.send(op="subscribe", channel="book", symbol="BTC-USDT")
        await client.receive(channel="book")
        placed = await client.ask(op="place", id=1, params={**LIMIT, "clientOrderId": "stays"})
        engine.stack.send("edge", signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.receive(op="never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012, "service restart, says IANA's registry"
    await asyncio.to_thread(engine.stack.wait_healthy, "edge")
    async with SocketClient(engine, user) as client:
        await client.send(op="subscribe", channel="orders")
        first = await client.receive(channel="orders", type="snapshot")
        assert [order["orderId"] for order in first["orders"]] == [placed["order"]["orderId"]]
