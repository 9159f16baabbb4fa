"""Two matchers, each with markets of its own: one engine to its users, and one that dies takes only its markets along."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from exchange.common.v1 import order_pb2, symbol_pb2
from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc
from exchange.matcher.v1 import matcher_pb2, matcher_pb2_grpc

from libs.rpc.client import open_channel
from tests.support.engine import SHOWING, Engine, engine_in
from tests.support.servers import Servers
from tests.support.standby import Standby
from tests.support.trading import Pair, until

HERE, THERE = "BTC/USDT", "SOL/EUR"
OPEN = order_pb2.ORDER_STATUS_OPEN


class Shards:
    """The engine, and the matcher of its second shard."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self._folder = folder
        self.start_second()

    def start_second(self) -> None:
        self.second = Standby(self.engine, self._folder, shard=1)

    async def add_market(self) -> None:
        """On the second shard, by its own matcher, once that serves."""
        market = symbol_pb2.Symbol(
            symbol=THERE, base_asset="SOL", quote_asset="EUR", tick_size="0.01", lot_size="0.001", min_quantity="0.001",
            max_quantity="10000", min_notional="1", maker_fee_bps=10, taker_fee_bps=20, market_band_bps=500,
        )  # fmt: skip
        request = matcher_pb2.PutSymbolRequest(symbol=market)
        async with open_channel(f"127.0.0.1:{self.second.port}") as channel:
            stub = matcher_pb2_grpc.MatcherServiceStub(channel)
            await stub.PutSymbol(request, metadata=self.engine.service, timeout=30, wait_for_ready=True)

    async def restart(self, *services: str) -> None:
        for service in services:
            self.engine.stack.kill(service)
            await asyncio.to_thread(self.engine.stack.wait_healthy, service)

    async def book(self, symbol: str) -> str:
        """`shown`, or why market data does not show it."""
        request = market_data_pb2.GetBookRequest(symbol=symbol, depth=5)
        async with open_channel(self.engine.settings.marketdata.target()) as channel:
            stub = market_data_pb2_grpc.MarketDataServiceStub(channel)
            try:
                await stub.GetBook(request, metadata=self.engine.service, timeout=5)
            except grpc.aio.AioRpcError as error:
                return (error.details() or "").split()[0]
        return "shown"

    async def until_shown(self, symbol: str) -> None:
        """A market that there is may be away meanwhile, but is never unknown."""

        async def is_shown() -> bool:
            book = await self.book(symbol)
            assert book in {"shown", "DEPENDENCY_UNAVAILABLE"}
            return book == "shown"

        await until(is_shown)


@pytest.fixture
async def shards(servers: Servers, tmp_path: Path) -> AsyncIterator[Shards]:
    over = {"TRADE_ENGINE_MATCHER_SHARDS": "2", "TRADE_ENGINE_GATEWAY_RESOLVE_AFTER_S": "1"}
    # The edge calls itself ready only when all shards have a leader, and market data looks for new markets now and then.
    async with engine_in(servers, tmp_path, without=SHOWING, **over) as engine:
        shards = Shards(engine, tmp_path)
        try:
            await shards.add_market()
            engine.stack.services += ("market_data",)
            engine.stack.start_service("market_data")
            await asyncio.to_thread(engine.stack.wait_healthy, "market_data")
            yield shards
        finally:
            shards.second.stop()


async def test_markets_of_both_trade_settle_and_are_shown(shards: Shards) -> None:
    engine = shards.engine
    pairs = [await Pair(engine, symbol).fund() for symbol in (HERE, THERE)]
    await asyncio.gather(*(pair.trade(5) for pair in pairs))
    assert (await engine.quiet()).clean
    for symbol in (HERE, THERE):
        assert len(await engine.tape(symbol)) == 5
        await shards.until_shown(symbol)


async def test_a_shard_that_is_away_takes_only_its_markets_along(shards: Shards) -> None:
    engine = shards.engine
    user = await engine.user(USDT="1000", EUR="1000")
    stuck = (await engine.place(user, "BUY 1 @ 100", symbol=THERE)).order
    assert (await engine.quiet()).clean, "no event of the order is on its way"
    # As after a crash between the matcher's answer and the record of it.
    engine.stack.send("order_gateway", signal.SIGSTOP)
    await engine.query(
        "UPDATE orders.orders SET status = 1, version = 0, created_at = created_at - interval '1 minute' "
        "WHERE order_id = $1",
        stuck.order_id,
    )
    shards.second.stop()
    await shards.restart("order_gateway", "market_data")
    assert (await engine.place(user, "BUY 1 @ 100", symbol=HERE)).order.status == OPEN
    with pytest.raises(grpc.aio.AioRpcError, match="DEPENDENCY_UNAVAILABLE"):
        await engine.place(user, "BUY 1 @ 100", symbol=THERE)
    await shards.until_shown(HERE)
    assert await shards.book(THERE) == "DEPENDENCY_UNAVAILABLE"
    log = engine.stack.log_dir / "order_gateway.log"

    async def the_resolver_has_looked() -> bool:
        return "resolving waits" in log.read_text()

    await until(the_resolver_has_looked)
    assert (await engine.balances(user))["EUR"] == ("900", "100"), "nobody but its own matcher gives an order up"
    shards.start_second()

    async def is_open_again() -> bool:
        return (await engine.order(stuck)).status == OPEN

    await until(is_open_again)
    await shards.until_shown(THERE)
    await engine.cancel(stuck)
    assert (await engine.balances(user))["EUR"] == ("1000", "0")
    assert (await engine.quiet()).clean
