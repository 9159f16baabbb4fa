"""A standby takes over from a leader that dies, and from one that only sleeps, which then must not write."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest
from exchange.common.v1 import order_pb2

from libs.ids import new_id
from libs.rpc.breaker import is_passing
from tests.support.engine import SHOWING, Engine, engine_in, order_from
from tests.support.faults import read_only
from tests.support.servers import Servers
from tests.support.standby import Standby
from tests.support.trading import until

ROOT = Path(__file__).resolve().parents[2]
TRADERS = 12
LEASE_MS = 1000


@pytest.fixture
async def engine_with_snapshots(servers: Servers, tmp_path: Path):
    over = {"TRADE_ENGINE_MATCHER_SNAPSHOT_EVERY": "200", "TRADE_ENGINE_MATCHER_LEASE_MS": str(LEASE_MS)}
    async with engine_in(servers, tmp_path, without=SHOWING, **over) as engine:
        yield engine


async def leader_port(engine: Engine) -> int:
    rows = await engine.query("SELECT address FROM matcher.shards WHERE shard = 0")
    return int(rows[0]["address"].rsplit(":")[-1])


async def until_led_by(engine: Engine, port: int) -> float:
    """Seconds until the shard has this leader and it answers."""
    started = time.monotonic()
    async with asyncio.timeout(60):
        while await leader_port(engine) != port:
            await asyncio.sleep(0.05)
        await engine.place(await engine.user(USDT="100"), "BUY 0.1 @ 50")
    return time.monotonic() - started


async def trade(
    engine: Engine, user: str, sides: Iterator[str], acknowledged: list[order_pb2.Order], stop: asyncio.Event
):
    """Place orders that meet each other; each is asked for with its own key until it is answered."""
    while not stop.is_set():
        request = order_from(f"{next(sides)} 0.1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id())
        while True:
            try:
                answer = await engine.gateway.PlaceOrder(request, metadata=engine.service, timeout=20)
                acknowledged.append(answer.order)
                break
            except grpc.aio.AioRpcError as error:
                if not is_passing(error):
                    raise
                await asyncio.sleep(0.1)


async def test_a_standby_takes_over_and_a_sleeping_leader_cannot_write(engine_with_snapshots: Engine, tmp_path) -> None:
    engine = engine_with_snapshots
    first_port = engine.settings.matcher.port
    assert await leader_port(engine) == first_port
    standby = Standby(engine, tmp_path)
    users = [await engine.user(BTC="1000", USDT="100000") for _ in range(TRADERS)]
    acknowledged: list[order_pb2.Order] = []
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(users):
                sides = iter(lambda number=number: "BUY" if number % 2 else "SELL", None)
                group.create_task(trade(engine, user, sides, acknowledged, stop))
            await asyncio.sleep(6)  # at least one snapshot is made meanwhile

            sleeper = engine.stack.process("matcher")
            sleeper.send_signal(signal.SIGSTOP)
            slept = await until_led_by(engine, standby.port)
            sleeper.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(sleeper.wait, 30) != 0, "it must not go on"
            await asyncio.sleep(1.5)

            standby.process.kill()
            died = await until_led_by(engine, first_port)
            await asyncio.sleep(1.5)
            stop.set()
        logging.getLogger(__name__).warning(
            "taken over after %.1f s (asleep), %.1f s (killed); the lease is %d ms", slept, died, LEASE_MS
        )
        report = await engine.quiet()
        assert report.clean, [finding for finding in report.findings if finding.wrong]
        await assert_nothing_lost_or_doubled(engine, acknowledged)
    finally:
        standby.stop()


async def assert_nothing_lost_or_doubled(engine: Engine, acknowledged: list[order_pb2.Order]) -> None:
    assert len(acknowledged) > 500
    ids = {order.order_id for order in acknowledged}
    assert len(ids) == len(acknowledged), "one order a key"
    known = {
        row["id"] for row in await engine.query("SELECT order_id::text AS id FROM orders.orders WHERE version > 0")
    }
    assert ids <= known
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "cli", "journal", "verify", "--json"], cwd=ROOT,
        env={**os.environ, **engine.stack.environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["snapshots"] >= 1
    assert found["commands"] >= len(acknowledged)
    epochs = [row["epoch"] for row in await engine.query("SELECT epoch FROM matcher.journal ORDER BY first_sequence")]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 3


async def test_a_standby_outlives_trouble_of_the_database(fresh_core: Engine, tmp_path: Path) -> None:
    engine = fresh_core
    standby = Standby(engine, tmp_path)
    try:
        async with read_only(engine.settings.database.dsn.get_secret_value()):
            await until(lambda: asyncio.sleep(0, "cannot take the lease" in standby.log.read_text()))
        engine.stack.send("matcher", signal.SIGTERM)
        await until_led_by(engine, standby.port)
        assert standby.process.poll() is None
    finally:
        standby.stop()
