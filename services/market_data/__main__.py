"""Wiring of market data."""

from exchange.market_data.v1 import market_data_pb2, market_data_pb2_grpc

from libs.clients.leader import ShardLeader
from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier, service_credential
from libs.rpc.client import Peer, open_channel
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.market_data.clients import Sources
from services.market_data.core.chart import Chart
from services.market_data.follower import Follower
from services.market_data.service import MarketDataService
from services.market_data.store import CandleStore
from services.market_data.streams import MarketStreams

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
        ShardLeader(pool=pool, peer=peer, shard=shard, patience_s=PATIENCE_S)
        for shard in range(settings.matcher.shards)
    ]
    channel = open_channel(settings.settlement.target())
    settlement = Peer(name="settlement", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=PATIENCE_S)
    sources = Sources(leaders=leaders, settlement=channel, peer=settlement)
    charts: dict[str, Chart] = {}
    streams = MarketStreams(charts=charts, subscribers_max=mine.streams_max)
    follower = Follower(store=store, sources=sources, charts=charts, on_change=streams.changed)
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        market_data_pb2.DESCRIPTOR.services_by_name["MarketDataService"],
        internal=True,
    )
    service = MarketDataService(follower=follower, store=store, streams=streams)
    market_data_pb2_grpc.add_MarketDataServiceServicer_to_server(service, server.grpc)
    await server.start()
    await serve_until_stopped(follower.run(), follower.keep(), stop=server.until_stopped())
    await sources.close()
    await channel.close()
    await pool.close()


if __name__ == "__main__":
    run_service("market-data", main, lambda settings: settings.marketdata.metrics_port)
