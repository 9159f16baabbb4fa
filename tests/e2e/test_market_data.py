"""Tickers and candles: what the trades say, over restarts and from two processes side by side."""

import asyncio
import json
from pathlib import Path

import grpc
import httpx
import pytest
import websockets
from exchange.market_data.v1 import candle_pb2, market_data_pb2, market_data_pb2_grpc

from cli.processes import free_port
from libs.rpc.client import open_channel
from tests.support.engine import Engine, start_beside
from tests.support.trading import Pair, until

ROOT = Path(__file__).resolve().parents[2]
CANDLES_OF_THE_TAPE = """
SELECT extract(epoch FROM date_trunc($1, executed_at))::bigint AS opened_s, (array_agg(price ORDER BY sequence))[1] AS open,
       max(price) AS high, min(price) AS low, (array_agg(price ORDER BY sequence DESC))[1] AS close,
       sum(quantity) AS volume, sum(price * quantity)::numeric(38,8) AS quote_volume, count(*) AS trades,
       max(sequence) AS last_sequence
FROM settlement.trades WHERE symbol = 'BTC/USDT' GROUP BY 1 ORDER BY 1
"""
STORED = """
SELECT extract(epoch FROM opened_at)::bigint AS opened_s, open, high, low, close, volume, quote_volume, trades, last_sequence
FROM market_data.candles WHERE symbol = 'BTC/USDT' AND interval = $1::text::market_data.candle_interval ORDER BY 1
"""


@pytest.fixture
async def stub(fresh_engine: Engine):
    async with open_channel(fresh_engine.settings.marketdata.target()) as channel:
        yield market_data_pb2_grpc.MarketDataServiceStub(channel)


async def is_stored(engine: Engine) -> bool:
    for unit, name in (("minute", "1m"), ("hour", "1h"), ("day", "1d")):
        stored = [tuple(row.values()) for row in await engine.query(STORED, name)]
        if not stored or stored != [tuple(row.values()) for row in await engine.query(CANDLES_OF_THE_TAPE, unit)]:
            return False
    return True


async def test_candles_are_what_the_tape_says_over_restarts_and_from_two_processes(
    fresh_engine: Engine, tmp_path: Path
) -> None:
    engine = fresh_engine
    pair = await Pair(engine).fund()
    await pair.trade(10)
    engine.stack.kill("market_data")
    await pair.trade(10)
    over = {"TRADE_ENGINE_MARKETDATA_PORT": str(free_port()), "TRADE_ENGINE_MARKETDATA_METRICS_PORT": "0"}
    second = start_beside(engine, "market_data", tmp_path / "second.log", **over)
    try:
        await pair.trade(10)
        engine.stack.wait_healthy("market_data")
        await until(lambda: is_stored(engine))
        engine.stack.kill("market_data")
        await pair.trade(10)
        await until(lambda: is_stored(engine))
    finally:
        second.terminate()
        assert second.wait(20) == 0
    rows = await engine.query("SELECT last_sequence FROM market_data.charts WHERE symbol = 'BTC/USDT'")
    assert rows[0]["last_sequence"] == 40


async def test_tickers_and_candles_by_rest_grpc_and_socket(fresh_engine: Engine, stub) -> None:
    engine = fresh_engine
    pair = await Pair(engine, "SOL/USDT").fund()
    async with websockets.connect(f"{engine.rest.replace('http', 'ws')}/ws") as socket:
        for message in (
            {"op": "subscribe", "channel": "trades", "symbol": "SOL-USDT"},
            {"op": "subscribe", "channel": "ticker", "symbol": "SOL/USDT"},
            {"op": "subscribe", "channel": "candles", "symbol": "SOL/USDT", "interval": "1h"},
        ):
            await socket.send(json.dumps(message))
        first = json.loads(await asyncio.wait_for(socket.recv(), 10))
        assert (first["channel"], first.get("lastPrice")) == ("ticker", "")
        await asyncio.sleep(0.5)
        await pair.trade(3)
        heard: dict[str, list[dict]] = {"trades": [], "ticker": [], "candles": []}
        async with asyncio.timeout(20):
            while not all(
                (
                    sum(len(item["trades"]) for item in heard["trades"]) == 3,
                    heard["ticker"] and heard["ticker"][-1].get("trades") == "3",
                    heard["candles"] and heard["candles"][-1]["trades"] == "3",
                )
            ):
                message = json.loads(await socket.recv())
                heard[message["channel"]].append(message)
    trades = [trade for item in heard["trades"] for trade in item["trades"]]
    prices = [float(trade["price"]) for trade in trades]
    assert [trade["sequence"] for trade in trades] == ["1", "2", "3"]
    candle, ticker = heard["candles"][-1], heard["ticker"][-1]
    assert [float(candle[name]) for name in ("open", "high", "low", "close")] == [
        prices[0], max(prices), min(prices), prices[-1]
    ]  # fmt: skip
    assert (candle["interval"], candle["volume"], ticker["volume"]) == ("1h", "0.3", "0.3")
    assert int(ticker["changeBps"]) == int((prices[2] - prices[0]) / prices[0] * 10_000)
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        tickers = (await http.get("/api/v1/tickers")).json()["tickers"]
        assert len(tickers) == 10
        (one,) = (await http.get("/api/v1/tickers/SOL-USDT")).json()["tickers"]
        assert one in tickers
        assert (one["lastPrice"], one["trades"]) == (ticker["lastPrice"], "3")
        candles = (await http.get("/api/v1/candles?symbol=SOL-USDT&interval=CANDLE_INTERVAL_1D")).json()["candles"]
        assert [item["trades"] for item in candles] == ["3"]
        opened = candles[0]["openedAt"]
        before = await http.get(f"/api/v1/candles?symbol=SOL-USDT&interval=CANDLE_INTERVAL_1D&untilTime={opened}")
        assert before.json()["candles"] == []
    request = market_data_pb2.ListCandlesRequest(symbol="SOL/USDT", interval=candle_pb2.CANDLE_INTERVAL_5M)
    response = await stub.ListCandles(request, metadata=engine.service)
    assert sum(item.trades for item in response.candles) == 3


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (market_data_pb2.ListCandlesRequest(symbol="NO/SUCH"), "SYMBOL_UNKNOWN field=symbol"),
        (market_data_pb2.ListCandlesRequest(symbol="BTC/USDT", interval=9), "CHOICE_UNKNOWN field=interval"),
        (market_data_pb2.ListCandlesRequest(symbol="BTC/USDT", page_size=1001), "PAGE_INVALID field=page_size"),
        (market_data_pb2.ListTickersRequest(symbol="NO/SUCH"), "SYMBOL_UNKNOWN field=symbol"),
    ],
)
async def test_bad_questions_name_field_and_rule(engine: Engine, request_, said: str) -> None:
    async with open_channel(engine.settings.marketdata.target()) as channel:
        stub = market_data_pb2_grpc.MarketDataServiceStub(channel)
        method = getattr(stub, type(request_).__name__.removesuffix("Request"))
        with pytest.raises(grpc.aio.AioRpcError, match=said):
            await method(request_, metadata=engine.service)


async def test_bad_subscriptions_are_answered(engine: Engine) -> None:
    async with websockets.connect(f"{engine.rest.replace('http', 'ws')}/ws") as socket:
        for message, field in (
            ({"channel": "candles", "symbol": "BTC/USDT", "interval": "2m"}, "interval"),
            ({"channel": "candles", "symbol": "BTC/USDT", "interval": ["1m"]}, "interval"),
            ({"channel": ["ticker"], "symbol": "BTC/USDT"}, "channel"),
            ({"channel": "ticker", "symbol": "NO/SUCH"}, "symbol"),
        ):
            await socket.send(json.dumps({"op": "subscribe", **message}))
            answer = json.loads(await asyncio.wait_for(socket.recv(), 10))
            assert (answer["op"], answer["field"]) == ("error", field)
