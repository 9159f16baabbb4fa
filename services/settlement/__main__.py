"""Wiring of settlement."""

from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.bus.connect import connect_consumer
from libs.bus.topology import settlement_queue
from libs.clients.wallet import WalletClient
from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier, service_credential
from libs.rpc.client import Peer, open_channel
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.settlement.consumer import SettlementConsumer
from services.settlement.service import SettlementService
from services.settlement.store import SettlementStore

WALLET_TIMEOUT_S = 10.0
# The message stays unacknowledged meanwhile; after this the consumer counts a retry and goes on trying.
WALLET_PATIENCE_S = 5.0


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.settlement
    pool = await open_pool(settings.database, service="settlement")
    store = SettlementStore(pool)
    peer = Peer(
        name="wallet", credential=service_credential(settings.auth, service="settlement"),
        timeout_s=WALLET_TIMEOUT_S, patience_s=WALLET_PATIENCE_S,
    )  # fmt: skip
    channel = open_channel(settings.wallet.target())
    queue = settlement_queue()
    consumer = SettlementConsumer(
        consumer=connect_consumer(settings, pool, queue, cursor_schema="settlement"),
        wallet=WalletClient(channel, peer), store=store, queue=queue.name, batch_max=mine.batch_max,
    )  # fmt: skip
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        settlement_pb2.DESCRIPTOR.services_by_name["SettlementService"],
        internal=True,
    )
    settlement_pb2_grpc.add_SettlementServiceServicer_to_server(SettlementService(store=store), server.grpc)
    await server.start()
    await serve_until_stopped(consumer.run(), stop=server.until_stopped())
    await channel.close()
    await pool.close()


if __name__ == "__main__":
    run_service("settlement", main, lambda settings: settings.settlement.metrics_port)
