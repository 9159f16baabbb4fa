"""The engine where everything listens on IPv6."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.rpc.client import open_channel
from tests.support.engine import Engine, engine_in
from tests.support.servers import Servers
from tests.support.trading import Pair

HERE = "::1"
SECTIONS = ("WALLET", "MATCHER", "SETTLEMENT", "GATEWAY", "MARKETDATA", "EDGE")


def _ipv6_is_here() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind((HERE, 0))
        except OSError:
            return False
    return True


pytestmark = pytest.mark.skipif(not _ipv6_is_here(), reason="there is no IPv6 on this machine")


@pytest.fixture
async def engine(servers: Servers, tmp_path: Path) -> AsyncIterator[Engine]:
    over = {f"TRADE_ENGINE_{section}_HOST": HERE for section in SECTIONS}
    over["TRADE_ENGINE_MARKETDATA_STREAMS_PER_CALLER"] = "1"
    async with engine_in(servers, tmp_path, **over) as engine:
        yield engine


async def test_orders_trade_and_settle_and_are_shown(engine: Engine) -> None:
    pair = await Pair(engine).fund()
    await pair.trade(3)
    assert (await engine.quiet()).clean
    edge = engine.settings.edge
    async with httpx.AsyncClient(base_url=f"http://[{HERE}]:{edge.port}") as http:
        assert (await http.get("/health/ready")).status_code == 200
        trades = await http.get("/api/v1/trades?symbol=BTC-USDT", headers=engine.bearer(pair.buyer))
        assert len(trades.json()["trades"]) == 3
        metrics = await http.get(f"http://[{HERE}]:{engine.settings.gateway.metrics_port}/metrics")
        assert "rpc_server_requests_total" in metrics.text
    async with open_channel(engine.settings.marketdata.target()) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        first = health.Watch(health_pb2.HealthCheckRequest())
        assert (await first.read()).status == health_pb2.HealthCheckResponse.SERVING
        another = health.Watch(health_pb2.HealthCheckRequest())
        assert await another.read() is grpc.aio.EOF, "one address has one stream here"
        first.cancel()
