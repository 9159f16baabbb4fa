"""The matcher's streams as their readers see them, through restarts; and operators changing a market."""

import asyncio
import zlib

import grpc
import httpx
import pytest
from exchange.common.v1 import symbol_pb2
from exchange.matcher.v1 import matcher_pb2

from libs.ids import new_id
from tests.support.engine import Engine

SYMBOL = "ETH/USDT"


class Mirror:
    """A book kept up to date from a stream, checked at every step as client code for Kraken's v2 book does."""

    def __init__(self) -> None:
        self.asks: dict[str, str] = {}
        self.bids: dict[str, str] = {}
        self.sequence = 0
        self.snapshots = 0

    def take(self, response: matcher_pb2.StreamBookResponse) -> None:
        if response.HasField("snapshot"):
            update = response.snapshot
            self.asks, self.bids = {}, {}
            self.snapshots += 1
        else:
            update = response.delta
            assert update.sequence == self.sequence + 1, "no gaps"
        self.sequence = update.sequence
        for side, changes in ((self.asks, update.asks), (self.bids, update.bids)):
            for level in changes:
                if level.quantity == "0":
                    side.pop(level.price)
                else:
                    side[level.price] = level.quantity
        assert self.checksum() == update.checksum

    def checksum(self) -> int:
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))[:10]
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))[:10]
        text = "".join(part.replace(".", "").lstrip("0") for level in asks + bids for part in level)
        return zlib.crc32(text.encode())


async def read_until(stream, mirror: Mirror, condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            mirror.take(await stream.read())


async def test_a_reader_who_comes_back_goes_on_where_it_was_also_after_a_restart(fresh_core: Engine) -> None:
    engine = fresh_core
    user = await engine.user(ETH="100", USDT="100000")
    mirror = Mirror()

    def subscribe(after: int = 0):
        request = matcher_pb2.StreamBookRequest(symbol=SYMBOL, depth=50, after_sequence=after)
        return engine.matcher.StreamBook(request, metadata=engine.service, timeout=60)

    stream = subscribe()
    mirror.take(await stream.read())
    orders = [await engine.place(user, f"SELL 1 @ {2000 + number}", symbol=SYMBOL) for number in range(12)]
    await read_until(stream, mirror, lambda: len(mirror.asks) == 12)
    stream.cancel()
    await engine.cancel(orders[0].order)
    await engine.place(user, "BUY 1 @ 1990", symbol=SYMBOL)
    stream = subscribe(after=mirror.sequence)
    await read_until(stream, mirror, lambda: len(mirror.asks) == 11 and mirror.bids)
    assert mirror.snapshots == 1, "what was missed came as deltas"
    stream.cancel()

    before = mirror.sequence
    engine.stack.kill("matcher")
    await asyncio.to_thread(engine.stack.wait_healthy, "matcher")
    await engine.place(user, "BUY 2 @ 1991", symbol=SYMBOL)
    stream = subscribe(after=before)
    await read_until(stream, mirror, lambda: len(mirror.bids) == 2)
    assert mirror.snapshots == 2, "the ring is gone, so it began anew"
    assert mirror.sequence > before, "a number never stands for two states"
    stream.cancel()


async def test_trades_are_told_with_gapless_numbers_and_can_be_taken_up_again(fresh_core: Engine) -> None:
    engine = fresh_core
    seller, buyer = await engine.user(ETH="100"), await engine.user(USDT="100000")
    stream = engine.matcher.StreamTrades(
        matcher_pb2.StreamTradesRequest(symbol="ETH-USDT"), metadata=engine.service, timeout=60
    )
    await engine.place(seller, "SELL 5 @ 2000", symbol=SYMBOL)
    await asyncio.sleep(0.2)
    for _ in range(3):
        await engine.place(buyer, "BUY 1 @ 2000", symbol=SYMBOL)
    seen = []
    while len(seen) < 3:
        seen += (await stream.read()).trades
    assert [(trade.sequence, trade.price, trade.quantity) for trade in seen] == [(n, "2000", "1") for n in (1, 2, 3)]
    stream.cancel()
    again = engine.matcher.StreamTrades(
        matcher_pb2.StreamTradesRequest(symbol=SYMBOL, after_sequence=1), metadata=engine.service, timeout=60
    )
    assert [trade.sequence for trade in (await again.read()).trades] == [2, 3]
    again.cancel()


async def test_the_top_of_the_book_is_told_when_it_changes(fresh_core: Engine) -> None:
    engine = fresh_core
    user = await engine.user(ETH="100", USDT="100000")
    stream = engine.matcher.StreamTopOfBook(
        matcher_pb2.StreamTopOfBookRequest(symbol=SYMBOL), metadata=engine.service, timeout=60
    )
    first = await stream.read()
    assert not first.HasField("ask")
    assert not first.HasField("bid")
    await engine.place(user, "SELL 1 @ 2000", symbol=SYMBOL)
    await engine.place(user, "SELL 1 @ 2001", symbol=SYMBOL)  # changes nothing at the top
    await engine.place(user, "BUY 2 @ 1999", symbol=SYMBOL)
    second, third = await stream.read(), await stream.read()
    assert (second.ask.price, second.HasField("bid")) == ("2000", False)
    assert (third.ask.price, third.bid.price, third.bid.quantity) == ("2000", "1999", "2")
    stream.cancel()


async def symbol_of(engine: Engine, name: str) -> symbol_pb2.Symbol:
    symbols = (await engine.matcher.ListSymbols(matcher_pb2.ListSymbolsRequest(), metadata=engine.service)).symbols
    return next(symbol for symbol in symbols if symbol.symbol == name)


async def put(engine: Engine, symbol: symbol_pb2.Symbol) -> symbol_pb2.Symbol:
    request = matcher_pb2.PutSymbolRequest(symbol=symbol)
    return (await engine.matcher.PutSymbol(request, metadata=engine.service, timeout=10)).symbol


async def test_a_market_is_halted_and_resumed_and_stays_so_over_a_restart(fresh_core: Engine) -> None:
    engine = fresh_core
    user = await engine.user(ETH="100")
    resting = (await engine.place(user, "SELL 1 @ 2000", symbol=SYMBOL)).order
    symbol = await symbol_of(engine, SYMBOL)
    symbol.status = symbol_pb2.SYMBOL_STATUS_HALTED
    assert (await put(engine, symbol)).status == symbol_pb2.SYMBOL_STATUS_HALTED
    engine.stack.kill("matcher")
    await asyncio.to_thread(engine.stack.wait_healthy, "matcher")
    refused = (await engine.place(user, "SELL 1 @ 2001", symbol=SYMBOL)).order
    assert (refused.status, refused.reason) == (6, 87)
    assert (await engine.cancel(resting)).status == 5
    assert (await engine.balances(user))["ETH"] == ("100", "0")
    symbol.status = symbol_pb2.SYMBOL_STATUS_ACTIVE
    symbol.max_open_orders = 1
    await put(engine, symbol)
    assert [(await engine.place(user, "SELL 1 @ 2000", symbol=SYMBOL)).order.status for _ in range(2)] == [2, 6]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"symbol": "ETHUSDT"}, "FIELD_NOT_ALLOWED field=symbol.symbol"),
        ({"base_asset": "BTC"}, "FIELD_NOT_ALLOWED field=symbol.symbol"),
        ({"tick_size": "0"}, "AMOUNT_NOT_POSITIVE field=symbol.tick_size"),
        ({"tick_size": "0.00001", "lot_size": "0.00001"}, "AMOUNT_TOO_PRECISE field=symbol.tick_size"),
        ({"max_quantity": "0.00001"}, "AMOUNT_OUT_OF_RANGE field=symbol.max_quantity"),
        ({"maker_fee_bps": -1}, "AMOUNT_OUT_OF_RANGE field=symbol.maker_fee_bps"),
        ({"taker_fee_bps": 1001}, "AMOUNT_OUT_OF_RANGE field=symbol.taker_fee_bps"),
        ({"price_band_bps": -1}, "AMOUNT_OUT_OF_RANGE field=symbol.price_band_bps"),
        ({"status": 9}, "CHOICE_UNKNOWN field=symbol.status"),
    ],
)
async def test_a_market_that_makes_no_sense_is_refused_and_nothing_changes(engine: Engine, change, expected) -> None:
    symbol = await symbol_of(engine, SYMBOL)
    wanted = symbol_pb2.Symbol()
    wanted.CopyFrom(symbol)
    for field, value in change.items():
        setattr(wanted, field, value)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await put(engine, wanted)
    assert refused.value.details().startswith(expected)
    assert await symbol_of(engine, SYMBOL) == symbol


async def test_users_cannot_change_markets(engine: Engine) -> None:
    request = matcher_pb2.PutSymbolRequest(symbol=await symbol_of(engine, SYMBOL))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.matcher.PutSymbol(request, metadata=engine.as_caller(new_id(), "read trade admin"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        assert (await http.get("/health")).status_code == 200


async def test_slow_readers_do_not_slow_matching(fresh_core: Engine) -> None:
    """300 readers that never read; orders go on, and one who reads late gets a whole book."""
    engine = fresh_core
    user = await engine.user(ETH="1000")
    request = matcher_pb2.StreamBookRequest(symbol=SYMBOL, depth=20)
    streams = [engine.matcher.StreamBook(request, metadata=engine.service, timeout=120) for _ in range(300)]
    for stream in streams:
        await stream.read()
    for number in range(300):
        await engine.place(user, f"SELL 0.01 @ {2000 + number % 40}", symbol=SYMBOL)
    mirror = Mirror()
    mirror.sequence = -1
    fresh = engine.matcher.StreamBook(request, metadata=engine.service, timeout=60)
    mirror.take(await fresh.read())
    asks, _ = await engine.book(SYMBOL, depth=20)
    assert sorted(mirror.asks.items()) == sorted(asks)
    for stream in [*streams, fresh]:
        stream.cancel()
