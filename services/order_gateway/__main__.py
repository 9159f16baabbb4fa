"""Wiring of the order gateway."""

from functools import partial

from exchange.gateway.v1 import api_key_pb2, api_key_pb2_grpc, order_gateway_pb2, order_gateway_pb2_grpc

from libs.batching import Batcher
from libs.bus.connect import connect_consumer, connect_listener
from libs.bus.topology import order_status_queue
from libs.clients.leader import ShardLeader
from libs.clients.wallet import WalletClient
from libs.config import Settings
from libs.db.pool import open_pool
from libs.identity import TokenVerifier, api_key_master, service_credential
from libs.limiter import SharedLimit
from libs.reload import on_reload
from libs.rpc.client import Peer, open_channel
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from services.order_gateway.amending import Amender
from services.order_gateway.clients import MatcherClient, SettlementClient
from services.order_gateway.conversation import Conversations
from services.order_gateway.desk import Desk
from services.order_gateway.intake import BATCHES_IN_FLIGHT, BESIDE_FROM_ITEMS, Intake
from services.order_gateway.key_desk import ApiKeyService
from services.order_gateway.key_store import KeyStore
from services.order_gateway.lanes import Changes
from services.order_gateway.rates import OrderRate
from services.order_gateway.resolver import Resolver
from services.order_gateway.service import OrderGatewayService
from services.order_gateway.sessions import Sessions
from services.order_gateway.store import OrderStore
from services.order_gateway.streams import OrderStreams
from services.order_gateway.updates import UpdateConsumer

CALL_TIMEOUT_S = 5.0
# While a service behind is away, orders wait in the queue; after this the batch is given back as "outcome unknown".
PATIENCE_S = 30.0
# How long a standby may take to lead once the lease is over.
FAIL_OVER_S = 2.0
# The listener and the consumer of the embedded bus hold a connection each.
BUS_CONNECTIONS = 2


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.gateway
    database = settings.database.model_copy(update={"pool_max": settings.database.pool_max + BUS_CONNECTIONS})
    pool = await open_pool(database, service="order_gateway")
    store = OrderStore(pool)
    peer = partial(
        Peer, credential=service_credential(settings.auth, service="order-gateway"), timeout_s=CALL_TIMEOUT_S,
        patience_s=PATIENCE_S,
    )  # fmt: skip
    wallet_channel = open_channel(settings.wallet.target(), settings.tls)
    wallet = WalletClient(wallet_channel, peer(name="wallet", circuit=settings.circuit))
    settlement_channel = open_channel(settings.settlement.target(), settings.tls)
    settlement = SettlementClient(settlement_channel, peer(name="settlement"))
    patience_s = patience_with_matchers(settings)
    matcher = MatcherClient([
        ShardLeader(pool=pool, peer=peer(name="matcher"), shard=shard, patience_s=patience_s, tls=settings.tls)
        for shard in range(settings.matcher.shards)
    ])  # fmt: skip
    flow = Intake(store=store, wallet=wallet, matcher=matcher, patience_s=PATIENCE_S)
    intake = Batcher(
        flow.process, name="gateway", max_items=mine.batch_max, max_waiting=mine.queue_max, beside_from=BESIDE_FROM_ITEMS
    )  # fmt: skip
    beside = Batcher(flow.change, name="changes", max_items=mine.batch_max, max_waiting=mine.queue_max)
    changes = Changes(flow=flow, intake=intake, beside=beside)
    amender = Amender(store=store, wallet=wallet, matcher=matcher, flow=flow, changes=changes)
    queue = order_status_queue()
    updates = UpdateConsumer(
        consumer=connect_consumer(settings, pool, queue), store=store, intake=flow, queue=queue.name
    )
    streams = OrderStreams(
        listener=connect_listener(settings, pool, queue),
        store=store,
        memory=flow.memory,
        subscribers_max=mine.streams_max,
    )
    resolver = Resolver(
        store=store, matcher=matcher, intake=flow, amender=amender, after_s=mine.resolve_after_s,
        sweep_after_s=mine.sweep_after_s,
    )  # fmt: skip
    sessions = Sessions(pool=pool, flow=flow)
    limit = SharedLimit(
        "orders", per_s=mine.orders_per_s, burst=mine.orders_burst, redis_url=settings.redis.url.get_secret_value()
    )
    on_reload(
        "gateway.orders_per_s", "gateway.orders_burst",
        apply=lambda changed: limit.change(per_s=changed.gateway.orders_per_s, burst=changed.gateway.orders_burst),
    )  # fmt: skip
    server = RpcServer(
        mine, TokenVerifier(settings.auth), order_gateway_pb2.DESCRIPTOR.services_by_name["OrderGatewayService"],
        api_key_pb2.DESCRIPTOR.services_by_name["ApiKeyService"], internal=False, tls=settings.tls,
    )  # fmt: skip
    desk = Desk(matcher=matcher, rate=OrderRate(limit), store=store)
    conversations = Conversations(taking=desk, intake=intake, amender=amender, sessions=sessions, streams=streams)
    service = OrderGatewayService(
        flow=flow, intake=intake, changes=changes, store=store, matcher=matcher, streams=streams, amender=amender,
        settlement=settlement, taking=desk, conversations=conversations, orders_max=mine.batch_max,
    )  # fmt: skip
    order_gateway_pb2_grpc.add_OrderGatewayServiceServicer_to_server(service, server.grpc)
    keys = ApiKeyService(store=KeyStore(pool), master=api_key_master(settings.auth))
    api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server(keys, server.grpc)
    await server.start()
    await serve_until_stopped(
        *(intake.run() for _ in range(BATCHES_IN_FLIGHT)), beside.run(), updates.run(), streams.run(), resolver.run(),
        sessions.run(), stop=server.until_stopped(),
    )  # fmt: skip
    await matcher.close()
    await settlement_channel.close()
    await wallet_channel.close()
    await pool.close()


def patience_with_matchers(settings: Settings) -> float:
    """How long an order waits for its matcher: with several shards, as long as a fail-over takes.

    For what is taken meanwhile waits behind it, orders of the other shards, too.
    """
    lease_s = settings.matcher.lease_ms / 1000
    return PATIENCE_S if settings.matcher.shards == 1 else min(PATIENCE_S, lease_s + FAIL_OVER_S)


if __name__ == "__main__":
    run_service("order-gateway", main, lambda settings: settings.gateway, needs=("database.dsn", "redis.url"))
