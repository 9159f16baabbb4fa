"""Every alert seen firing: a real Prometheus with the real rules, on an engine to which the causes happen.

Only waiting is shortened: how long a condition must hold, and how many commands or hours are too many.
"""

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import grpc
import httpx
import pytest
import yaml
from exchange.gateway.v1 import order_requests_pb2
from exchange.settlement.v1 import settlement_pb2

from cli.embedded import EmbeddedRedis
from cli.health import SERVICES
from cli.processes import free_port
from libs.bus.interface import Message
from tests.support.engine import Engine, engine_in
from tests.support.rabbitmq import OwnRabbitMq
from tests.support.records import insert_orders
from tests.support.servers import Servers
from tests.support.trading import Pair, publish

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
PROGRAM = shutil.which("prometheus")
pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed (Debian: apt-get install prometheus)"),
]
ALERTS = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
SOONER = [(r"for: \w+", "for: 1s"), (r"> 500000", "> 5"), (r"3 \* 3600", "3"), (r"\[1m\]", "[10s]")]
SECTIONS = {"order_gateway": "gateway", "market_data": "marketdata"}
PATIENCE_S = 90
ORDER_OF_1970 = "00000000-0000-7000-8000-000000000001"
CANCELLED = 5


class Prometheus:
    """A server with our rules, looking every half second."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._port = free_port()
        rules = RULES.read_text()
        for pattern, shorter in SOONER:
            rules, found = re.subn(pattern, shorter, rules)
            assert found, pattern
        (folder / "alerts.yml").write_text(rules)
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{_metrics_port(engine, name)}"]}]}
            for name in SERVICES
        ]
        settings = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        content = {"global": settings, "rule_files": ["alerts.yml"], "scrape_configs": jobs}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                str(PROGRAM), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    async def firing(self) -> set[str]:
        try:
            async with httpx.AsyncClient() as http:
                answer = (await http.get(f"http://127.0.0.1:{self._port}/api/v1/alerts")).json()
        except httpx.TransportError:
            return set()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}

    async def until_fires(self, *names: str, doing: Callable[[], Awaitable[object]] | None = None) -> None:
        seen: set[str] = set()
        async with asyncio.timeout(PATIENCE_S):
            while not set(names) <= seen:
                if doing is not None:
                    await doing()
                seen |= await self.firing()
                await asyncio.sleep(0.2)


def _metrics_port(engine: Engine, name: str) -> int:
    return int(getattr(engine.settings, SECTIONS.get(name, name)).metrics_port)


class Scene:
    def __init__(self, engine: Engine, prometheus: Prometheus, broker: OwnRabbitMq, redis: EmbeddedRedis) -> None:
        self.engine = engine
        self.prometheus = prometheus
        self.broker = broker
        self.redis = redis

    async def pair(self) -> Pair:
        return await Pair(self.engine).fund()


@pytest.fixture
async def scene(servers: Servers, tmp_path: Path) -> AsyncIterator[Scene]:
    broker, redis = OwnRabbitMq(), EmbeddedRedis(tmp_path)
    await asyncio.to_thread(broker.start)
    redis.start()
    over = {
        "TRADE_ENGINE_RABBITMQ_URL": broker.url, "TRADE_ENGINE_REDIS_URL": redis.url,
        "TRADE_ENGINE_WALLET_AUDIT_EVERY_S": "1", "TRADE_ENGINE_CIRCUIT_FAILURES": "1",
        "TRADE_ENGINE_MATCHER_SNAPSHOT_EVERY": "1000000", "TRADE_ENGINE_SETTLEMENT_RECONCILE_GRACE_S": "1",
    }  # fmt: skip
    async with engine_in(servers, tmp_path, **over) as engine:
        prometheus = Prometheus(engine, tmp_path)
        try:
            yield Scene(engine, prometheus, broker, redis)
        finally:
            prometheus.stop()
            await asyncio.to_thread(broker.stop)
            redis.stop()


async def test_every_alert_fires_when_its_cause_happens(scene: Scene) -> None:
    engine, prometheus = scene.engine, scene.prometheus
    pair = await scene.pair()
    await pair.trade(3)
    await asyncio.sleep(3)
    async with asyncio.timeout(PATIENCE_S):
        while await prometheus.firing() - {"SnapshotOverdue"}:  # its first looks may find nobody yet
            await asyncio.sleep(0.5)
    seen: set[str] = set()

    async def see(*names: str, doing: Callable[[], Awaitable[object]] | None = None) -> None:
        await prometheus.until_fires(*names, doing=doing)
        seen.update(names)

    async def ask() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
            await asyncio.wait_for(engine.place(pair.buyer, "BUY 0.1 @ 60"), 1)

    # Redis is gone: limits are checked alone. Only a user's own order is limited.
    scene.redis.stop()

    async def as_user() -> None:
        async with httpx.AsyncClient(base_url=engine.rest) as http:
            await http.get("/api/v1/symbols", headers={"authorization": f"Bearer {engine.token(str(uuid.uuid4()))}"})

    await see("RateLimitsUnchecked", doing=as_user)

    # The broker is gone: events wait in the outbox.
    await asyncio.to_thread(scene.broker.kill)
    await pair.trade(2)
    await see("BrokerDown")
    await asyncio.to_thread(scene.broker.start)

    # No snapshot for long, as far as the shortened rule goes.
    await see("SnapshotOverdue", doing=ask)

    # A table is not there for a moment: a fault of ours.
    await engine.query("ALTER TABLE orders.client_ids RENAME TO away")
    await see("InternalErrors", doing=ask)
    await engine.query("ALTER TABLE orders.away RENAME TO client_ids")

    # A row that no partition was made for.
    await insert_orders(engine.query, pair.buyer, [("BTC/USDT", CANCELLED)], ids=[ORDER_OF_1970])
    engine.stack.kill("settlement")
    await see("PartitionMissing")

    # A message that nobody can read.
    await publish(engine, [Message("trade.events", "BTC-USDT", "TradeEvents", "broken/1", b"not a trade")])
    await see("DeadLetters")

    # The tape says something else than the journal.
    await engine.query("UPDATE settlement.trades SET price = price + 1 WHERE sequence = 1")
    await engine.settlement.Reconcile(settlement_pb2.ReconcileRequest(deep=True), metadata=engine.service, timeout=60)
    await see("ReconciliationFailed")

    # A reservation is gone: what its order frees has no home.
    resting = (await engine.place(pair.buyer, "BUY 0.1 @ 61")).order
    engine.stack.kill("wallet")
    await engine.query("DELETE FROM wallet.reservations WHERE order_id = $1", resting.order_id)
    await asyncio.to_thread(engine.stack.wait_healthy, "wallet")
    await engine.cancel(resting)
    await see("ReleaseRefused")

    # Somebody holds the auditors' lock; then an audit finds money that came from nowhere.
    connection = await asyncpg.connect(engine.settings.database.dsn.get_secret_value())
    await connection.execute("SELECT pg_advisory_lock(7226, 1)")
    await see("AuditMissing")
    await connection.close()
    await engine.query("UPDATE wallet.balances SET available = available + 1 WHERE account_id = $1", pair.buyer)
    await see("LedgerImbalance")

    # The wallet hangs, while a sell that needs no more money moves onto a buy.
    buy = (await engine.place(pair.buyer, "BUY 0.1 @ 90")).order
    sell = (await engine.place(pair.seller, "SELL 0.1 @ 95")).order
    assert (buy.status, sell.status) == (2, 2)
    engine.stack.send("wallet", signal.SIGSTOP)
    amend = order_requests_pb2.AmendOrderRequest(user_id=pair.seller, order_id=sell.order_id, price="90")
    moving = asyncio.ensure_future(engine.gateway.AmendOrder(amend, metadata=engine.service, timeout=60))
    await asyncio.sleep(2)  # an order before it would hold up its batch
    await see("ServiceDown", "SettlementLag", "CircuitOpen", "HighOrderLatency", doing=ask)
    engine.stack.send("wallet", signal.SIGCONT)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await moving

    # The matcher hangs.
    engine.stack.send("matcher", signal.SIGSTOP)
    await see("MatchingEngineStopped")
    engine.stack.send("matcher", signal.SIGCONT)
    assert seen == ALERTS
