"""Wiring of settlement."""

from exchange.settlement.v1 import settlement_pb2, settlement_pb2_grpc

from libs.bus.connect import connect_consumer, connect_dead_letters
from libs.bus.topology import dead_letter_queue, settlement_queue
from libs.clients.leader import ShardLeader
from libs.clients.wallet import WalletClient
from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier, service_credential
from libs.rpc.client import Peer, open_channel
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.settlement.clients import Matchers
from services.settlement.consumer import SettlementConsumer, Settler
from services.settlement.monitor import Monitor, keep_partitions
from services.settlement.reconciler import Reconciler
from services.settlement.service import SettlementService
from services.settlement.store import SettlementStore
from services.settlement.streams import SettlementStreams
from services.settlement.tape import Tape

CALL_TIMEOUT_S = 10.0
# The message stays unacknowledged meanwhile; after this the consumer counts a retry and goes on trying.
WALLET_PATIENCE_S = 5.0
MATCHER_PATIENCE_S = 2.0


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.settlement
    pool = await open_pool(settings.database, service="settlement")
    store, tape = SettlementStore(pool), Tape(pool)
    credential = service_credential(settings.auth, service="settlement")
    channel = open_channel(settings.wallet.target(), settings.tls)
    wallet = Peer(
        name="wallet", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=WALLET_PATIENCE_S,
        circuit=settings.circuit,
    )  # fmt: skip
    matcher = Peer(name="matcher", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=MATCHER_PATIENCE_S)
    matchers = Matchers([
        ShardLeader(pool=pool, peer=matcher, shard=shard, patience_s=MATCHER_PATIENCE_S, tls=settings.tls)
        for shard in range(settings.matcher.shards)
    ])  # fmt: skip
    streams = SettlementStreams(tape=tape, subscribers_max=mine.streams_max)
    settler = Settler(
        wallet=WalletClient(channel, wallet), store=store, batch_max=mine.batch_max, on_settled=streams.changed
    )
    queue, dead_letters = settlement_queue(), dead_letter_queue()
    consumers = [
        SettlementConsumer(consumer=connect_consumer(settings, pool, queue), settler=settler, queue=queue.name)
    ]
    if (late := connect_dead_letters(settings)) is not None:
        consumers.append(SettlementConsumer(consumer=late, settler=settler, queue=dead_letters.name))
    monitor = Monitor(store=store, matchers=matchers, on_settled=streams.changed)
    reconciler = Reconciler(
        matchers=matchers, settler=settler, tape=tape, grace_s=mine.reconcile_grace_s, every_s=mine.reconcile_every_s
    )
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        settlement_pb2.DESCRIPTOR.services_by_name["SettlementService"],
        internal=True,
        tls=settings.tls,
    )
    service = SettlementService(
        store=store, tape=tape, settler=settler, monitor=monitor, reconciler=reconciler, streams=streams
    )
    settlement_pb2_grpc.add_SettlementServiceServicer_to_server(service, server.grpc)
    await server.start()
    await serve_until_stopped(
        *(consumer.run() for consumer in consumers), monitor.run(), reconciler.run(), keep_partitions(pool),
        stop=server.until_stopped(),
    )  # fmt: skip
    await matchers.close()
    await channel.close()
    await pool.close()


if __name__ == "__main__":
    run_service("settlement", main, lambda settings: settings.settlement)
