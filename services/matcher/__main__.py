"""Wiring of the matcher."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable

import structlog
from exchange.matcher.v1 import command_pb2, matcher_pb2, matcher_pb2_grpc
from prometheus_client import Gauge

from libs.batching import Batcher
from libs.books import BookHub
from libs.bus.connect import connect_publisher
from libs.config import Settings
from libs.db.pool import START_PATIENCE_S, DatabaseAway, open_pool, patiently
from libs.identity import TokenVerifier
from libs.rpc.server import RpcServer
from libs.runtime import run_service, serve_until_stopped
from libs.tape import TradeHub
from services.matcher.core.orders import Trade
from services.matcher.journal import Journal, Lease
from services.matcher.relay import Relay
from services.matcher.sequencer import FATAL, TICK, Sequencer
from services.matcher.service import Answer, MatcherService
from services.matcher.snapshots import keep_snapshots

TIME_KEPT_S = 0.5
# What a reader of the embedded bus has not read; a broker keeps what it has confirmed.
UNREAD_KEPT_S = 7 * 86_400
LEADING = Gauge("matcher_leading", "1 while this process leads its shard")

DEPTH_MAX = 1000

log = structlog.get_logger()


async def main(settings: Settings) -> None:
    """Wait for the lease, recover, serve until told to stop."""
    mine = settings.matcher
    pool = await open_pool(settings.database, service="matcher")
    owner = f"{socket.gethostname()}/{os.getpid()}"
    journal = Journal(pool, shard=mine.shard, owner=owner, address=mine.target(), lease_ms=mine.lease_ms)
    publisher = connect_publisher(settings, pool)
    unread_keep_s = 0 if settings.rabbitmq.url.get_secret_value() else UNREAD_KEPT_S
    relay = Relay(journal=journal, publisher=publisher, keep_s=mine.outbox_keep_s, unread_keep_s=unread_keep_s)
    books = BookHub(subscribers_max=mine.streams_max, depth_max=DEPTH_MAX)
    trades: TradeHub[Trade] = TradeHub(subscribers_max=mine.streams_max)
    sequencer = Sequencer(journal=journal, books=books, trades=trades, relay=relay, clock_ns=time.time_ns)

    lease = await wait_for_lease(journal, mine.lease_ms, meanwhile=sequencer.follow)
    async with asyncio.TaskGroup() as recovering:
        keeping = recovering.create_task(keep_lease(journal, mine.lease_ms))
        await patiently(lambda: sequencer.recover(lease), patience_s=START_PATIENCE_S)
        await patiently(lambda: relay.recover(lease.last_position), patience_s=START_PATIENCE_S)
        await sequencer.put_symbols(await patiently(journal.symbols, patience_s=START_PATIENCE_S))
        keeping.cancel()

    intake = Batcher(
        sequencer.commit, name="matcher", max_items=mine.batch_max, max_waiting=mine.queue_max, fatal=FATAL
    )
    server = RpcServer(
        mine,
        TokenVerifier(settings.auth),
        matcher_pb2.DESCRIPTOR.services_by_name["MatcherService"],
        internal=True,
        tls=settings.tls,
    )
    service = MatcherService(
        intake=intake, sequencer=sequencer, books=books, trades=trades, journal=journal, relay=relay,
        batch_max=mine.batch_max,
    )  # fmt: skip
    matcher_pb2_grpc.add_MatcherServiceServicer_to_server(service, server.grpc)
    await server.start()
    LEADING.set(1)
    await serve_until_stopped(
        intake.run(), keep_time(sequencer, intake), relay.run(), relay.keep_position(), relay.prune(),
        keep_lease(journal, mine.lease_ms),
        keep_snapshots(journal, every=mine.snapshot_every, sequence=lambda: sequencer.sequence),
        stop=server.until_stopped(),
    )  # fmt: skip
    with contextlib.suppress(*DatabaseAway):  # it runs out by itself
        await journal.give_lease()
    await publisher.close()
    await pool.close()


async def wait_for_lease(journal: Journal, lease_ms: int, *, meanwhile: Callable[[], Awaitable[None]]) -> Lease:
    """Stand by until the lease is free, and there is a database that gives it; before each look, do something."""
    waiting = False
    while True:
        try:
            await meanwhile()
            lease = await journal.take_lease()
        except DatabaseAway as error:
            log.warning("cannot take the lease", error=f"{type(error).__name__}: {error}")
        else:
            if lease is not None:
                log.info("leading", shard=journal.shard, epoch=lease.epoch)
                return lease
            if not waiting:
                log.info("standing by: another process leads", shard=journal.shard)
                waiting = True
        await asyncio.sleep(lease_ms / 1000 / 10)


async def keep_time(sequencer: Sequencer, intake: Batcher[command_pb2.Command, Answer]) -> None:
    """Where no commands come, do what time has made due."""
    while True:
        await asyncio.sleep(TIME_KEPT_S)
        if sequencer.is_due():
            await intake.submit([TICK])


async def keep_lease(journal: Journal, lease_ms: int) -> None:
    """Renew the lease three times in its life. Raises LeaseLostError; a database that is away is left to the commits."""
    while True:
        await asyncio.sleep(lease_ms / 1000 / 3)
        try:
            await journal.keep_lease()
        except DatabaseAway as error:
            log.warning("cannot renew the lease", error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run_service("matcher", main, lambda settings: settings.matcher)
