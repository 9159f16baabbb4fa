"""Wiring of market data."""

import time
from functools import partial

from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc, ticker_pb2

from libs.clients.leader import ShardLeader
from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier, service_credential
from libs.rpc.client import Peer, open_channel
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.market_data.cache import MarketCache
from services.market_data.clients import Sources
from services.market_data.core.chart import Chart
from services.market_data.follower import Follower
from services.market_data.mirrors import Mirrors
from services.market_data.service import MarketDataService
from services.market_data.store import CandleStore
from services.market_data.streams import MarketStreams
from services.market_data.wire import ticker_message

CALL_TIMEOUT_S = 5.0
PATIENCE_S = 2.0


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.marketdata
    pool = await open_pool(settings.database, service="market_data")
    store = CandleStore(pool)
    credential = service_credential(settings.auth, service="market-data")
    peer = Peer(name="matcher", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=PATIENCE_S)
    leaders = [
        ShardLeader(pool=pool, peer=peer, shard=shard, patience_s=PATIENCE_S, tls=settings.tls)
        for shard in range(settings.matcher.shards)
    ]
    channel = open_channel(settings.settlement.target(), settings.tls)
    settlement = Peer(name="settlement", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=PATIENCE_S)
    sources = Sources(leaders=leaders, settlement=channel, peer=settlement)
    cache = MarketCache(settings.redis.url.get_secret_value())
    mirrors = Mirrors(sources=sources, cache=cache, depth=mine.book_depth, subscribers_max=mine.streams_max)
    charts: dict[str, Chart] = {}
    streams = MarketStreams(charts=charts, subscribers_max=mine.streams_max)

    def changed(symbol: str) -> None:
        streams.changed(symbol)
        cache.changed(symbol)

    follower = Follower(store=store, sources=sources, mirrors=mirrors, charts=charts, on_change=changed)
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        market_data_pb2.DESCRIPTOR.services_by_name["MarketDataService"],
        internal=True,
        tls=settings.tls,
    )
    service = MarketDataService(follower=follower, mirrors=mirrors, store=store, streams=streams)
    market_data_pb2_grpc.add_MarketDataServiceServicer_to_server(service, server.grpc)
    await server.start()
    caching = cache.run(mirrors.newest, partial(_ticker, charts))
    await serve_until_stopped(follower.run(), follower.keep(), caching, stop=server.until_stopped())
    await cache.close()
    await sources.close()
    await channel.close()
    await pool.close()


def _ticker(charts: dict[str, Chart], symbol: str) -> ticker_pb2.Ticker | None:
    chart = charts.get(symbol)
    return ticker_message(symbol, chart, time.time_ns()) if chart is not None else None


if __name__ == "__main__":
    run_service("market-data", main, lambda settings: settings.marketdata, needs=("database.dsn", "redis.url"))
