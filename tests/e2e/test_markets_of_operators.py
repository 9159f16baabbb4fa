"""Operators add assets and markets, as many as they like, and pay out what the house earns in them."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest
from exchange.common.v1 import order_pb2, reason_pb2
from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc
from exchange.matcher.v1 import matcher_pb2
from exchange.wallet.v1 import wallet_pb2

from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.engine import Engine, order_from
from tests.support.trading import until

ROOT = Path(__file__).resolve().parents[2]
# More than any process used to have subscribers of settled trades.
MARKETS = 120


async def command(engine: Engine, *arguments: str) -> subprocess.CompletedProcess:
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "cli", *arguments], cwd=ROOT,
        env={**os.environ, **engine.stack.environment, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


async def test_an_asset_and_a_market_are_added_and_halted(fresh_engine: Engine) -> None:
    engine = fresh_engine
    refused = await command(engine, "markets", "put", "GOLD/USDT", "--tick-size", "0.01", "--lot-size", "0.001")
    assert (refused.returncode, refused.stderr.strip()) == (
        1,
        "RefusedError: ASSET_UNKNOWN field=base_asset asset=GOLD",
    )
    malformed = await command(engine, "assets", "add", "gold")
    assert malformed.returncode == 1
    assert "TEXT_MALFORMED field=asset rule=2 to 12 capital letters and digits" in " ".join(malformed.stderr.split())
    for _ in range(2):
        assert (await command(engine, "assets", "add", "GOLD")).returncode == 0
    assert "GOLD" in json.loads((await command(engine, "assets", "list", "--json")).stdout)
    unfinished = await command(engine, "markets", "put", "GOLD/USDT", "--tick-size", "0.01")
    assert unfinished.returncode == 1
    assert "FIELD_REQUIRED field=symbol.lot_size" in unfinished.stderr

    added = await command(engine, "markets", "put", "GOLD/USDT", "--tick-size", "0.01", "--lot-size", "0.001", "--json")
    assert added.returncode == 0, added.stderr
    told = json.loads(added.stdout)
    assert (told["minQuantity"], told["maxQuantity"], told["status"]) == ("0.001", "1000000", "SYMBOL_STATUS_ACTIVE")
    seller, buyer = await engine.user(GOLD="10"), await engine.user(USDT="1000")
    await engine.place(seller, "SELL 1 @ 100", symbol="GOLD/USDT")
    await engine.place(buyer, "BUY 1 @ 100", symbol="GOLD/USDT")
    assert (await engine.quiet()).clean
    assert (await engine.balances(buyer))["GOLD"] == ("0.998", "0"), "less the fee of the incoming party"

    assert json.loads((await command(engine, "fees", "list", "--json")).stdout) == {"GOLD": "0.002", "USDT": "0.1"}
    treasury, key = new_id(), new_id()
    for _ in range(2):
        paid = await command(engine, "fees", "pay", treasury, "USDT", "0.08", "--transfer-id", key)
        assert paid.stdout.strip() == f"paid 0.08 USDT to {treasury}; 0.02 are left"
    assert (await engine.balances(treasury))["USDT"] == ("0.08", "0")
    refused = await command(engine, "fees", "pay", treasury, "USDT", "0.08")
    assert refused.returncode == 1
    assert "INSUFFICIENT_BALANCE" in refused.stderr

    halted = await command(engine, "markets", "put", "GOLD/USDT", "--status", "HALTED")
    assert halted.stdout.strip() == "GOLD/USDT is HALTED"
    rejected = (await engine.place(seller, "SELL 1 @ 100", symbol="GOLD/USDT")).order
    assert (rejected.status, rejected.reason) == (order_pb2.ORDER_STATUS_REJECTED, reason_pb2.REASON_SYMBOL_NOT_TRADING)
    listed = {item["symbol"]: item for item in json.loads((await command(engine, "markets", "list", "--json")).stdout)}
    assert listed["GOLD/USDT"] == {**told, "status": "SYMBOL_STATUS_HALTED"}
    assert "HALTED" in (await command(engine, "markets", "list")).stdout


async def test_filters_that_do_not_go_with_what_is_open_wait_until_it_is_gone(fresh_engine: Engine) -> None:
    """Price x quantity would have more than 8 decimals: the order that met one ended the matcher, again and again."""
    engine = fresh_engine
    before = engine.stack.process("matcher").pid
    put = ("markets", "put", "BTC/USDT", "--tick-size", "0.00000001", "--lot-size", "1", "--min-quantity", "1")
    user, other = await engine.user(BTC="10", USDT="1000"), await engine.user(BTC="10", USDT="1000")
    resting = (await engine.place(user, "SELL 0.06001 @ 100")).order
    refused = await command(engine, *put)
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "AMOUNT_TOO_PRECISE field=symbol.tick_size" in said
    assert "prices are multiples of 100 and quantities of 0.06001" in said
    stop = order_from("SELL 0.1 @ 50", user_id=user, symbol="BTC/USDT", client_order_id="stop")
    stop.type, stop.stop_price = order_pb2.ORDER_TYPE_STOP_LIMIT, "60.01"
    waiting = (await engine.gateway.PlaceOrder(stop, metadata=engine.service)).order
    await engine.cancel(resting)
    assert "multiples of 0.01 and quantities of 0.1" in " ".join((await command(engine, *put)).stderr.split())
    await engine.cancel(waiting)
    assert (await command(engine, *put)).returncode == 0

    async def is_known() -> bool:
        try:
            await engine.place(user, "SELL 1 @ 100.00000003")
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_known, timeout_s=60)
    assert (await engine.place(other, "BUY 1 @ 100.00000003")).order.filled_notional == "100.00000003"
    assert (await engine.quiet()).clean
    assert engine.stack.process("matcher").pid == before


@pytest.mark.parametrize("name", ["gold/USDT", "A-B/USDT", "G/USDT", "GOLD /USDT", "GOLDGOLDGOLDG/USDT", "GÖLD/USDT"])
async def test_a_market_of_what_cannot_be_an_asset_is_refused(engine: Engine, name: str) -> None:
    symbols = (await engine.matcher.ListSymbols(matcher_pb2.ListSymbolsRequest(), metadata=engine.service)).symbols
    request = matcher_pb2.PutSymbolRequest(symbol=symbols[0])
    request.symbol.symbol, request.symbol.base_asset = name, name.partition("/")[0]
    request.symbol.quote_asset = "USDT"
    with pytest.raises(grpc.aio.AioRpcError, match=r"TEXT_MALFORMED field=symbol\.base_asset"):
        await engine.matcher.PutSymbol(request, metadata=engine.service)
    after = (await engine.matcher.ListSymbols(matcher_pb2.ListSymbolsRequest(), metadata=engine.service)).symbols
    assert after == symbols


async def test_more_markets_than_anybody_thought_of(fresh_engine: Engine) -> None:
    engine = fresh_engine
    model = (await engine.matcher.ListSymbols(matcher_pb2.ListSymbolsRequest(), metadata=engine.service)).symbols[0]
    for number in range(MARKETS):
        asset = f"C{number}"
        await engine.wallet.PutAsset(wallet_pb2.PutAssetRequest(asset=asset), metadata=engine.service)
        request = matcher_pb2.PutSymbolRequest(symbol=model)
        request.symbol.symbol, request.symbol.base_asset, request.symbol.quote_asset = f"{asset}/USDT", asset, "USDT"
        await engine.matcher.PutSymbol(request, metadata=engine.service)
    names = [f"C{number}/USDT" for number in range(MARKETS)]
    seller, buyer = (
        await engine.user(**{f"C{number}": "1" for number in range(MARKETS)}),
        await engine.user(USDT="99999"),
    )
    for name in names:
        await engine.place(seller, "SELL 1 @ 100", symbol=name)
        await engine.place(buyer, "BUY 1 @ 100", symbol=name)
    async with open_channel(engine.settings.marketdata.target()) as channel:
        shown = market_data_pb2_grpc.MarketDataServiceStub(channel)

        async def all_traded() -> bool:
            answer = await shown.ListTickers(market_data_pb2.ListTickersRequest(), metadata=engine.service)
            return set(names) <= {ticker.symbol for ticker in answer.tickers if ticker.last_price}

        await until(all_traded)
