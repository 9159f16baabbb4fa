"""Wiring of the order gateway."""

from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc

from libs.batching import Batcher
from libs.bus.connect import connect_consumer, connect_listener
from libs.bus.topology import order_status_queue
from libs.clients.wallet import WalletClient
from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier, service_credential
from libs.rpc.client import Peer, open_channel
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.order_gateway.clients import MatcherClient
from services.order_gateway.intake import Intake
from services.order_gateway.resolver import Resolver
from services.order_gateway.service import OrderGatewayService
from services.order_gateway.store import OrderStore
from services.order_gateway.streams import OrderStreams
from services.order_gateway.updates import UpdateConsumer

CALL_TIMEOUT_S = 5.0
# While a service behind is away, orders wait in the queue; after this the batch is given back as "outcome unknown".
PATIENCE_S = 30.0
# The listener and the consumer of the embedded bus hold a connection each.
BUS_CONNECTIONS = 2


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.gateway
    pool_size = settings.database.pool_max + BUS_CONNECTIONS
    database = settings.database.model_copy(update={"pool_max": pool_size})
    pool = await open_pool(database, service="order-gateway")
    store = OrderStore(pool)
    credential = service_credential(settings.auth, service="order-gateway")
    wallet_channel = open_channel(settings.wallet.target())
    wallet = WalletClient(
        wallet_channel, Peer(name="wallet", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=PATIENCE_S)
    )
    matcher = MatcherClient(
        pool=pool,
        peer=Peer(name="matcher", credential=credential, timeout_s=CALL_TIMEOUT_S, patience_s=PATIENCE_S),
        shard=settings.matcher.shard,
        patience_s=PATIENCE_S,
    )
    flow = Intake(store=store, wallet=wallet, matcher=matcher, patience_s=PATIENCE_S)
    intake = Batcher(flow.process, name="gateway", max_items=mine.batch_max, max_waiting=mine.queue_max)
    queue = order_status_queue()
    updates = UpdateConsumer(
        consumer=connect_consumer(settings, pool, queue, cursor_schema="orders"),
        store=store, intake=flow, queue=queue.name,
    )  # fmt: skip
    streams = OrderStreams(
        listener=connect_listener(settings, pool, queue), store=store, subscribers_max=mine.streams_max
    )
    resolver = Resolver(store=store, matcher=matcher, intake=flow, after_s=mine.resolve_after_s)
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        order_gateway_pb2.DESCRIPTOR.services_by_name["OrderGatewayService"],
        internal=False,
    )
    service = OrderGatewayService(intake=intake, store=store, matcher=matcher, streams=streams)
    order_gateway_pb2_grpc.add_OrderGatewayServiceServicer_to_server(service, server.grpc)
    await server.start()
    await serve_until_stopped(intake.run(), updates.run(), streams.run(), resolver.run(), stop=server.until_stopped())
    await matcher.close()
    await wallet_channel.close()
    await pool.close()


if __name__ == "__main__":
    run_service("order-gateway", main, lambda settings: settings.gateway.metrics_port)
