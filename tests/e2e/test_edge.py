"""The REST and WebSocket door."""

import asyncio
import json
from urllib.parse import quote

import httpx
import pytest
import websockets
from exchange.gateway.v1 import order_gateway_pb2
from exchange.matcher.v1 import matcher_pb2
from exchange.settlement.v1 import settlement_pb2

from libs.ids import new_id
from tests.support.engine import Engine
from tests.support.trading import Pair, until


async def test_an_order_is_placed_told_listed_and_cancelled(engine: Engine, http: httpx.AsyncClient) -> None:
    user = await engine.user(USDT="1000")
    order = {
        "clientOrderId": "rest-1", "symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT",
        "price": "100", "quantity": "1",
    }  # fmt: skip
    placed = await http.post("/api/v1/orders", json=order, headers=engine.bearer(user))
    assert placed.status_code == 200, placed.text
    assert placed.json()["order"]["status"] == "ORDER_STATUS_OPEN"
    assert placed.headers["x-request-id"]
    order_id = placed.json()["order"]["orderId"]
    told = await http.get(f"/api/v1/orders/{order_id}", headers=engine.bearer(user))
    assert told.json()["order"]["clientOrderId"] == "rest-1"
    listed = await http.get("/api/v1/orders?open_only=true&pageSize=10", headers=engine.bearer(user))
    assert [item["orderId"] for item in listed.json()["orders"]] == [order_id]
    balances = await http.get("/api/v1/wallets/balances", headers=engine.bearer(user))
    assert balances.json()["balances"] == [{"asset": "USDT", "available": "900", "reserved": "100", "sequence": "2"}]
    cancelled = await http.delete(f"/api/v1/orders/{order_id}", headers=engine.bearer(user))
    assert cancelled.json()["order"]["status"] == "ORDER_STATUS_CANCELLED"


async def test_books_and_tapes_are_public_and_symbols_work_in_paths(engine: Engine, http: httpx.AsyncClient) -> None:
    seller, buyer = await engine.user(DOGE="100"), await engine.user(USDT="1000")
    await engine.place(seller, "SELL 100 @ 0.2", symbol="DOGE/USDT")
    for path in ("/api/v1/books/DOGE-USDT", "/api/v1/books/DOGE%2FUSDT?depth=5"):

        async def shown(path: str = path) -> bool:
            return (await http.get(path)).json()["book"]["asks"] == [{"price": "0.2", "quantity": "100"}]

        await until(shown)
    await engine.place(buyer, "BUY 100 @ 0.2", symbol="DOGE/USDT")
    assert (await engine.quiet()).clean
    trades = (await http.get("/api/v1/trades", params={"symbol": "DOGE/USDT"})).json()["trades"]
    assert [(trade["price"], trade["quantity"], trade["takerSide"]) for trade in trades] == [("0.2", "100", "SIDE_BUY")]
    assert "user" not in json.dumps(trades).lower()


async def test_fills_are_told_to_their_owner_in_pages(engine: Engine, http: httpx.AsyncClient) -> None:
    await engine.empty_books("ADA/USDT")
    pair = await Pair(engine, "ADA/USDT").fund()
    await pair.trade(3)
    assert (await engine.quiet()).clean
    pages: list[list[dict]] = []
    token = ""
    while not pages or token:
        answer = await http.get(
            f"/api/v1/fills?symbol=ADA-USDT&pageSize=2&pageToken={quote(token)}", headers=engine.bearer(pair.buyer)
        )
        pages.append(answer.json()["fills"])
        token = answer.json().get("nextPageToken", "")
    fills = [fill for page in pages for fill in page]
    assert [len(page) for page in pages] == [2, 1]
    assert [fill["quantity"] for fill in fills] == ["0.1"] * 3
    assert fills == sorted(fills, key=lambda fill: -int(fill["sequence"]))
    assert {(fill["side"], fill["feeAsset"], fill["fee"]) for fill in fills} == {("SIDE_BUY", "ADA", "0.0002")}
    assert {fill.get("maker", False) for fill in fills} == {False}
    one = await http.get(f"/api/v1/fills?orderId={fills[0]['orderId']}", headers=engine.bearer(pair.buyer))
    assert one.json()["fills"] == fills[:1]
    middle = fills[1]["executedAt"]
    since = await http.get(f"/api/v1/fills?fromTime={middle}", headers=engine.bearer(pair.buyer))
    before = await http.get(f"/api/v1/fills?untilTime={middle}", headers=engine.bearer(pair.buyer))
    assert since.json()["fills"] + before.json()["fills"] == fills
    theirs = await http.get("/api/v1/fills", headers=engine.bearer(pair.seller))
    assert {fill["side"] for fill in theirs.json()["fills"]} == {"SIDE_SELL"}
    assert (await http.get("/api/v1/fills", headers=engine.bearer(new_id()))).json().get("fills", []) == []
    other = await http.get(f"/api/v1/fills?userId={pair.seller}", headers=engine.bearer(pair.buyer))
    assert (other.status_code, other.json()["reason"]) == (403, "OTHER_USER")
    assert (await http.get("/api/v1/fills")).status_code == 401
    question = order_gateway_pb2.ListFillsRequest(filter=settlement_pb2.ListFillsRequest(page_size=2))
    page = await engine.gateway.ListFills(question, metadata=engine.as_caller(pair.buyer))
    assert [fill.trade_id for fill in page.fills] == [fill["tradeId"] for fill in fills[:2]]
    question.filter.page_token = page.next_page_token
    page = await engine.gateway.ListFills(question, metadata=engine.as_caller(pair.buyer))
    assert [fill.trade_id for fill in page.fills] == [fills[2]["tradeId"]]


@pytest.mark.parametrize("path", ["/api/v1/fills", "/api/v1/trades?symbol=BTC-USDT"])
@pytest.mark.parametrize(
    ("query", "field"),
    [("pageToken=x", "page_token"), ("pageToken=2026-01-01T00:00:00%2B00:00_x", "page_token"),
     ("pageSize=1001", "page_size"),
     ("pageSize=-1", "page_size"), ("fromTime=3000-01-01T00:00:00Z", "from_time"),
     ("untilTime=0001-01-01T00:00:00Z", "until_time")],
)  # fmt: skip
async def test_a_bad_page_names_its_field(engine: Engine, http: httpx.AsyncClient, path, query, field) -> None:
    answer = await http.get(f"{path}{'&' if '?' in path else '?'}{query}", headers=engine.bearer(new_id()))
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field


async def test_fees_are_public(http: httpx.AsyncClient) -> None:
    fees = (await http.get("/api/v1/fees")).json()["fees"]
    assert len(fees) == 10
    (one,) = (await http.get("/api/v1/fees?symbol=AAPL-USD")).json()["fees"]
    assert one == {"symbol": "AAPL/USD", "makerBps": 1, "takerBps": 2}
    unknown = await http.get("/api/v1/fees?symbol=NO-SUCH")
    assert (unknown.status_code, unknown.json()["reason"]) == (400, "SYMBOL_UNKNOWN")


async def test_an_idempotency_key_is_the_client_order_id(engine: Engine, http: httpx.AsyncClient) -> None:
    user = await engine.user(USDT="1000")
    order = {"symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT", "price": "100", "quantity": "1"}
    headers = {**engine.bearer(user), "idempotency-key": "key-1"}
    first, again = [(await http.post("/api/v1/orders", json=order, headers=headers)).json() for _ in range(2)]
    assert first["order"]["orderId"] == again["order"]["orderId"]
    differing = await http.post("/api/v1/orders", json={**order, "clientOrderId": "other"}, headers=headers)
    assert differing.status_code == 400


BAD = [
    ("no credential", {}, "{}", 401, "UNAUTHENTICATED"),
    ("not a token", {"authorization": "Bearer nonsense"}, "{}", 401, "UNAUTHENTICATED"),
    ("another scheme", {"authorization": "Basic abc"}, "{}", 401, "UNAUTHENTICATED"),
    ("not JSON", None, "{", 400, "BODY_MALFORMED"),
    ("not an object", None, "[]", 400, "BODY_MALFORMED"),
    ("a key twice", None, '{"symbol":"BTC/USDT","symbol":"ETH/USDT"}', 400, "BODY_MALFORMED"),
    ("an unknown field", None, '{"colour":"red"}', 400, "BODY_MALFORMED"),
    ("a number for a text", None, '{"symbol":5}', 400, "BODY_MALFORMED"),
    ("NaN", None, '{"price":NaN}', 400, "BODY_MALFORMED"),
    ("an unknown choice", None, '{"side":"SIDE_UP"}', 400, "BODY_MALFORMED"),
    ("nothing", None, "{}", 400, "FIELD_REQUIRED"),
    ("another user's order", None, json.dumps({"userId": new_id()}), 403, "OTHER_USER"),
]


@pytest.mark.parametrize(("headers", "body", "status", "reason"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_bad_requests_get_problems_that_say_why(
    engine: Engine, http: httpx.AsyncClient, headers: dict[str, str] | None, body: str, status: int, reason: str
) -> None:
    user = new_id()
    sent = engine.bearer(user) if headers is None else headers
    answer = await http.post("/api/v1/orders", content=body, headers=sent)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == reason
    assert answer.json()["requestId"] == answer.headers["x-request-id"]


async def test_unknown_paths_and_methods_are_told_apart(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/nothing")).status_code == 404
    wrong_method = await http.put("/api/v1/orders")
    assert wrong_method.status_code == 405
    assert wrong_method.headers["allow"] == "GET, POST"


async def test_wallet_writes_need_a_service_credential(engine: Engine, http: httpx.AsyncClient) -> None:
    user = await engine.user(USDT="10")
    reserve = {"userId": user, "asset": "USDT", "amount": "1", "orderId": new_id()}
    refused = await http.post("/api/v1/wallets/reserve", json=reserve, headers=engine.bearer(user))
    assert (refused.status_code, refused.json()["reason"]) == (403, "SCOPE_MISSING")
    done = await http.post("/api/v1/wallets/reserve", json=reserve, headers=engine.bearer("ops", "service"))
    assert done.json()["reservedBalance"] == "1"
    release = {"userId": user, "asset": "USDT", "orderId": reserve["orderId"], "key": new_id()}
    released = await http.post("/api/v1/wallets/release", json=release, headers=engine.bearer("ops", "service"))
    assert released.json() == {"availableBalance": "10", "reservedBalance": "0"}


async def test_a_body_over_the_limit_is_refused(engine: Engine, http: httpx.AsyncClient) -> None:
    body = b'{"symbol":"' + b"x" * 2_000_000 + b'"}'
    answer = await http.post("/api/v1/orders", content=body, headers=engine.bearer(new_id()))
    assert (answer.status_code, answer.json()["field"]) == (413, "body")


async def test_health_names_every_part(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/live")).json() == {"status": "alive"}
    ready = await http.get("/health/ready")
    assert ready.status_code == 200
    parts = ready.json()["parts"]
    assert {"postgresql", "redis", "rabbitmq", "matchers"} < parts.keys()
    assert len(parts) == 9
    assert parts["matchers"]["ready"]
    assert all(part["ready"] and part["latencyMs"] >= 0 for part in parts.values())


async def test_a_socket_follows_the_book(engine: Engine) -> None:
    user = await engine.user(EUR="100000")
    async with websockets.connect(f"{engine.rest.replace('http', 'ws')}/ws") as socket:
        await socket.send(json.dumps({"op": "ping"}))
        assert json.loads(await socket.recv()) == {"op": "pong"}
        await socket.send(json.dumps({"op": "subscribe", "channel": "book", "symbol": "BTC-EUR", "depth": 5}))
        snapshot = json.loads(await socket.recv())
        assert (snapshot["type"], snapshot["bids"]) == ("snapshot", [])
        book: dict[str, str] = {}
        sequence = snapshot["sequence"]
        for price in (100, 101, 102, 103, 104, 105):
            await engine.place(user, f"BUY 1 @ {price}", symbol="BTC/EUR")
            update = json.loads(await asyncio.wait_for(socket.recv(), 10))
            sequence += 1
            assert (update["type"], update["sequence"]) == ("delta", sequence)
            for level, quantity in update["bids"]:
                book.pop(level, None) if quantity == "0" else book.update({level: quantity})
        assert sorted(book, key=int) == ["101", "102", "103", "104", "105"]
        response = await engine.matcher.GetBook(matcher_pb2.GetBookRequest(symbol="BTC/EUR"), metadata=engine.service)
        assert update["checksum"] == response.book.checksum


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"op": "dance"}, "op"),
        ({"op": "subscribe", "channel": "secrets"}, "channel"),
        ({"op": "subscribe", "channel": "book"}, "symbol"),
        ({"op": "subscribe", "channel": "book", "symbol": "BTC/USDT", "depth": 7}, "depth"),
        ({"op": "subscribe", "channel": "book", "symbol": "NO/SUCH"}, "symbol"),
    ],
)
async def test_bad_socket_messages_are_answered_and_change_nothing(engine: Engine, message: dict, field: str) -> None:
    async with websockets.connect(f"{engine.rest.replace('http', 'ws')}/ws") as socket:
        await socket.send(json.dumps(message))
        answer = json.loads(await asyncio.wait_for(socket.recv(), 10))
        assert (answer["op"], answer["field"]) == ("error", field)
        await socket.send('{"op":"ping"}')
        assert json.loads(await socket.recv()) == {"op": "pong"}
