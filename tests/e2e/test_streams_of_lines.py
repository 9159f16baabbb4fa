"""Server streams by HTTP: a message a line."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from libs.ids import LAST_ID, new_id
from tests.support.engine import Engine
from tests.support.trading import Pair


async def test_a_book_comes_line_by_line(engine: Engine, http: httpx.AsyncClient) -> None:
    user = await engine.user(USDT="1000")
    async with http.stream("GET", "/api/v1/books/SOL-USDT:stream?depth=5") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-request-id"]
        lines = answer.aiter_lines()
        first = json.loads(await anext(lines))
        assert first["snapshot"]["symbol"] == "SOL/USDT"
        await engine.place(user, "BUY 1 @ 10", symbol="SOL/USDT")
        async with asyncio.timeout(20):
            while not (update := json.loads(await anext(lines))).get("delta", {}).get("bids"):
                pass
        assert {"price": "10", "quantity": "1"} in update["delta"]["bids"]


async def test_a_stream_with_nothing_to_say_begins_all_the_same(engine: Engine, http: httpx.AsyncClient) -> None:
    pair = await Pair(engine, "XRP/USDT").fund()
    async with http.stream("GET", "/api/v1/trades:stream?symbol=XRP/USDT") as answer:
        assert answer.status_code == 200
        await pair.trade(1)
        line = json.loads(await anext(answer.aiter_lines()))
    assert [trade["quantity"] for trade in line["trades"]] == ["0.1"]


async def test_own_orders_come_by_line_and_go_on_where_they_were(engine: Engine, http: httpx.AsyncClient) -> None:
    user = await engine.user(USDT="1000")
    kept = (await engine.place(user, "BUY 1 @ 100")).order
    gone = (await engine.place(user, "BUY 1 @ 101")).order
    await engine.cancel(gone)
    heard: dict[str, list[str]] = {}
    for since in ("", "?changedSince=2026-01-01T00:00:00Z", "?changedSince=2200-01-01T00:00:00Z"):
        async with http.stream("GET", f"/api/v1/orders:stream{since}", headers=engine.bearer(user)) as answer:
            heard[since] = []
            async for line in answer.aiter_lines():
                message = json.loads(line)
                if message["snapshotComplete"]:
                    break
                assert message["snapshot"]
                heard[since].append(message["order"]["orderId"])
    assert [sorted(ids) for ids in heard.values()] == [
        [kept.order_id], sorted([kept.order_id, gone.order_id]), [kept.order_id]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "user", "status", "reason"),
    [
        ("/api/v1/books/NO-SUCH:stream", "", 400, "SYMBOL_UNKNOWN"),
        ("/api/v1/books/BTC-USDT:stream?depth=5000", "", 400, "AMOUNT_OUT_OF_RANGE"),
        ("/api/v1/orders:stream", "", 401, "UNAUTHENTICATED"),
        ("/api/v1/wallets/balances:stream", "trade", 403, "SCOPE_MISSING"),
        (f"/api/v1/orders:stream?user_id={LAST_ID}", "read", 403, "OTHER_USER"),
    ],
)
async def test_a_refused_stream_is_a_problem(
    engine: Engine, http: httpx.AsyncClient, path: str, user: str, status: int, reason: str
) -> None:
    answer = await http.get(path, headers=engine.bearer(new_id(), user) if user else {})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert answer.headers["content-type"] == "application/problem+json"


@contextlib.asynccontextmanager
async def book_lines(engine: Engine) -> AsyncIterator[AsyncIterator[str]]:
    """What a stream says after its first line."""
    async with (
        httpx.AsyncClient(base_url=engine.rest, timeout=30) as http,
        http.stream("GET", "/api/v1/books/BTC-USDT:stream") as answer,
    ):
        lines = answer.aiter_lines()
        await anext(lines)
        yield lines


async def test_a_stream_that_breaks_off_says_why(fresh_engine: Engine) -> None:
    engine = fresh_engine
    async with book_lines(engine) as lines:
        engine.stack.kill("market_data")
        assert json.loads([line async for line in lines][-1])["error"]["reason"] == "DEPENDENCY_UNAVAILABLE"


async def test_an_edge_that_stops_ends_its_streams_with_a_line_that_says_so(fresh_engine: Engine) -> None:
    engine = fresh_engine
    async with book_lines(engine) as lines:
        process = engine.stack.process("edge")
        engine.stack.send("edge", signal.SIGTERM)
        last = json.loads([line async for line in lines][-1])
        assert (last["error"]["reason"], last["error"]["dependency"]) == ("DEPENDENCY_UNAVAILABLE", "edge")
    assert await asyncio.to_thread(process.wait, 15) == 0


async def test_streams_are_counted_and_given_back(engine: Engine, http: httpx.AsyncClient) -> None:
    limit = engine.settings.edge.streams_max

    async def open_streams() -> float:
        text = (await http.get(f"http://127.0.0.1:{engine.settings.edge.metrics_port}/metrics")).text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("http_streams "))

    before = await open_streams()
    assert before < limit
    for _ in range(5):
        async with http.stream("GET", "/api/v1/tickers/BTC-USDT:stream") as answer:
            assert answer.status_code == 200
            assert await open_streams() == before + 1
        async with asyncio.timeout(20):
            while await open_streams() != before:
                await asyncio.sleep(0.05)


async def test_one_caller_does_not_take_the_streams_of_all(engine: Engine) -> None:
    each = engine.settings.edge.streams_per_caller
    mine, others = (engine.bearer(new_id()) for _ in range(2))
    path = "/api/v1/orders:stream"
    async with contextlib.AsyncExitStack() as opened:
        http = await opened.enter_async_context(
            httpx.AsyncClient(base_url=engine.rest, timeout=30, limits=httpx.Limits(max_connections=2 * each))
        )
        for _ in range(each):
            answer = await opened.enter_async_context(http.stream("GET", path, headers=mine))
            assert answer.status_code == 200
        refused = await http.get(path, headers=mine)
        assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_SUBSCRIBERS")
        assert f"at most {each} " in refused.json()["rule"]
        for headers in (others, {}):
            answer = await opened.enter_async_context(
                http.stream("GET", path if headers else "/api/v1/books/BTC-USDT:stream", headers=headers)
            )
            assert answer.status_code == 200
