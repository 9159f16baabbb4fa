"""Is the edge alive, and is everything behind it ready: by name, with latency."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg
import redis.asyncio
from aiormq import connect as amqp_connect

from libs.config import Settings
from libs.rpc.client import open_channel
from services.edge.backends import SERVICES, Backends, says_serving

LEADERS = "SELECT address FROM matcher.shards WHERE address <> ''"
_TIMEOUT_S = 2.0
LATELY_S = 1.0


class Readiness:
    """Asks every part, at the same time."""

    def __init__(self, settings: Settings, backends: Backends) -> None:
        self._settings = settings
        self._probes: dict[str, Callable[[], Awaitable[bool]]] = {
            "postgresql": self._postgresql,
            "redis": self._redis,
            "rabbitmq": self._rabbitmq,
            "matchers": self._matchers,
        }
        for service in SERVICES:
            self._probes[service.full_name] = partial(backends.is_serving, service)

    async def check(self) -> tuple[bool, dict[str, dict[str, object]]]:
        """Whether all are ready, and each by name: `ready`, `latencyMs`."""
        results = await asyncio.gather(*(self._timed(probe) for probe in self._probes.values()))
        parts = dict(zip(self._probes, results, strict=True))
        return all(part["ready"] for part in parts.values()), parts

    async def _timed(self, probe: Callable[[], Awaitable[bool]]) -> dict[str, object]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                ready = await probe()
        except Exception:  # noqa: BLE001 - what cannot even be asked is not ready
            ready = False
        return {"ready": ready, "latencyMs": round((time.perf_counter() - started) * 1000, 1)}

    async def _connect(self) -> asyncpg.Connection:
        database = self._settings.database
        return await asyncpg.connect(
            database.dsn.get_secret_value(), timeout=_TIMEOUT_S, statement_cache_size=database.statement_cache_size
        )

    async def _postgresql(self) -> bool:
        connection = await self._connect()
        try:
            return bool(await connection.fetchval("SELECT 1") == 1)
        finally:
            await connection.close()

    async def _matchers(self) -> bool:
        """Whether every shard has a leader that serves. Who leads stands in its lease; nobody else knows."""
        connection = await self._connect()
        try:
            leaders = [row["address"] for row in await connection.fetch(LEADERS)]
        finally:
            await connection.close()
        if len(leaders) < self._settings.matcher.shards:
            return False
        for address in leaders:
            async with open_channel(address, self._settings.tls) as channel:
                if not await says_serving(channel):
                    return False
        return True

    async def _redis(self) -> bool:
        async with redis.asyncio.from_url(self._settings.redis.url.get_secret_value()) as client:
            return bool(await client.ping())

    async def _rabbitmq(self) -> bool:
        url = self._settings.rabbitmq.url.get_secret_value()
        if not url:
            return True  # the embedded bus is PostgreSQL
        connection = await amqp_connect(url)
        await connection.close()
        return True
