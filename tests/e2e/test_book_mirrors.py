"""The books that market data mirrors: always what the matcher says, whoever dies."""

import asyncio
import json
import random
import signal
from pathlib import Path

import grpc
import httpx
import pytest
import redis.asyncio
from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc
from exchange.matcher.v1 import book_pb2, matcher_pb2

from libs.rpc.client import open_channel
from tests.support.engine import Engine
from tests.support.standby import Standby
from tests.support.trading import Pair, until

SYMBOL = "BTC/USDT"


@pytest.fixture
async def stub(fresh_engine: Engine):
    async with open_channel(fresh_engine.settings.marketdata.target()) as channel:
        yield market_data_pb2_grpc.MarketDataServiceStub(channel)


async def mirrored(engine: Engine, stub, depth: int = 20) -> book_pb2.Book | None:
    """None while market data is away, or has not been told yet."""
    try:
        request = market_data_pb2.GetBookRequest(symbol="BTC-USDT", depth=depth)
        return (await stub.GetBook(request, timeout=5, metadata=engine.service)).book
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


async def is_same(engine: Engine, stub, depth: int = 20) -> bool:
    request = matcher_pb2.GetBookRequest(symbol=SYMBOL, depth=depth)
    return (await engine.matcher.GetBook(request, metadata=engine.service)).book == await mirrored(engine, stub, depth)


async def quote(engine: Engine, user: str, dice: random.Random, count: int) -> None:
    """Orders on both sides, deeper than what is mirrored."""
    for _ in range(count):
        price = dice.randint(1, 150)
        side, at = ("BUY", 10_000 - price) if dice.random() < 0.5 else ("SELL", 10_000 + price)
        await engine.place(user, f"{side} {dice.randint(1, 9)} @ {at}", symbol=SYMBOL)


async def test_a_mirror_shows_what_the_matcher_shows_whoever_dies(fresh_engine: Engine, stub) -> None:
    engine, dice = fresh_engine, random.Random(7)
    user = await engine.user(BTC="10000", USDT="100000000")
    for victim in ("", "matcher", "market_data", "matcher"):
        if victim:
            engine.stack.kill(victim)
            await asyncio.to_thread(engine.stack.wait_healthy, victim)
        await quote(engine, user, dice, 60)
        for depth in (1, 20, 100):
            await until(lambda depth=depth: is_same(engine, stub, depth))


async def test_readers_go_on_over_a_restart_of_the_matcher(fresh_engine: Engine, stub) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="100000")
    await engine.place(user, "BUY 1 @ 100", symbol=SYMBOL)
    stream = stub.StreamBook(market_data_pb2.StreamBookRequest(symbol=SYMBOL, depth=5), metadata=engine.service)
    while not (await stream.read()).snapshot.bids:
        pass
    engine.stack.kill("matcher")
    await asyncio.to_thread(engine.stack.wait_healthy, "matcher")
    await engine.place(user, "BUY 1 @ 101", symbol=SYMBOL)
    while True:
        update = await stream.read()
        shown = update.snapshot if update.HasField("snapshot") else update.delta
        if any(level.price == "101" for level in shown.bids):
            break
    stream.cancel()


async def test_newest_trades_are_told_with_their_numbers_also_to_who_comes_back(fresh_engine: Engine, stub) -> None:
    engine = fresh_engine
    pair = await Pair(engine).fund()
    await pair.trade(3)
    engine.stack.kill("market_data")
    await pair.trade(2)
    await asyncio.to_thread(engine.stack.wait_healthy, "market_data")

    async def told() -> bool:
        request = market_data_pb2.StreamTradesRequest(symbol=SYMBOL, after_sequence=1)
        stream = stub.StreamTrades(request, timeout=5, metadata=engine.service)
        try:
            return [trade.sequence for trade in (await stream.read()).trades] == [2, 3, 4, 5]
        except grpc.aio.AioRpcError:
            return False
        finally:
            stream.cancel()

    await until(told)


async def test_a_paused_matcher_is_left_for_the_one_that_leads_now(fresh_engine: Engine, stub, tmp_path: Path) -> None:
    engine = fresh_engine
    user = await engine.user(USDT="100000")
    await engine.place(user, "BUY 1 @ 100", symbol=SYMBOL)
    await until(lambda: is_same(engine, stub))
    standby, paused = Standby(engine, tmp_path), engine.stack.process("matcher")
    try:
        paused.send_signal(signal.SIGSTOP)
        await engine.place(user, "BUY 1 @ 101", symbol=SYMBOL)

        async def shown() -> bool:
            book = await mirrored(engine, stub)
            return book is not None and [level.price for level in book.bids] == ["101", "100"]

        await until(shown)
    finally:
        paused.send_signal(signal.SIGCONT)
        standby.stop()


async def test_the_newest_book_and_ticker_are_in_redis(fresh_engine: Engine) -> None:
    engine = fresh_engine
    pair = await Pair(engine).fund()
    await pair.trade(1)
    await engine.place(await engine.user(USDT="1000"), "BUY 1 @ 77", symbol=SYMBOL)
    async with redis.asyncio.from_url(engine.settings.redis.url.get_secret_value(), decode_responses=True) as client:

        async def cached() -> bool:
            book, ticker = await client.mget(f"trade-engine:book:{SYMBOL}", f"trade-engine:ticker:{SYMBOL}")
            if not book or not ticker or not json.loads(ticker)["lastPrice"]:
                return False
            return any(level["price"] == "77" for level in json.loads(book)["bids"])

        await until(cached)
        ticker = json.loads(await client.get(f"trade-engine:ticker:{SYMBOL}"))
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        answer = (await http.get("/api/v1/tickers/BTC-USDT")).json()["tickers"][0]
        assert ticker["lastPrice"] == answer["lastPrice"]
