"""The whole engine on servers of its own, every connection through a proxy, and everything that can be done to it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from cli.processes import free_port
from cli.stack import SERVICES, Stack, free_ports
from tests.support.engine import Engine
from tests.support.faults import cancel_statements, read_only
from tests.support.proxy import Proxy, through
from tests.support.rabbitmq import OwnRabbitMq

SECTIONS = {"wallet": "WALLET", "matcher": "MATCHER", "settlement": "SETTLEMENT", "order_gateway": "GATEWAY"}
PAUSE_S = (0.3, 7.0)  # from and to; the longest are longer than one service waits for another


class System:
    """Starts everything, breaks it on request, and mends what does not mend itself."""

    def __init__(self, folder: Path, *, pause_s: tuple[float, float] = PAUSE_S) -> None:
        self._folder = folder
        self._pause_s = pause_s
        self._postgres = EmbeddedPostgres(folder)
        self._redis = EmbeddedRedis(folder)
        self._rabbitmq = OwnRabbitMq()
        self.proxies: dict[str, Proxy] = {}
        self.stack: Stack | None = None
        self.engine: Engine | None = None

    async def start(self) -> Engine:
        await asyncio.to_thread(self._start_servers)
        over = {**free_ports(), "TRADE_ENGINE_MATCHER_LEASE_MS": "1000", "TRADE_ENGINE_MATCHER_SNAPSHOT_EVERY": "2000",
                "TRADE_ENGINE_CIRCUIT_OPEN_S": "1", "TRADE_ENGINE_GATEWAY_RESOLVE_AFTER_S": "3"}  # fmt: skip
        for name, section in SECTIONS.items():
            port = await self._proxy(name, int(over[f"TRADE_ENGINE_{section}_PORT"]))
            over[f"TRADE_ENGINE_{section}_ADDRESS"] = f"127.0.0.1:{port}"
        over["TRADE_ENGINE_DATABASE_DSN"] = await self._through_proxy("postgresql", self._postgres.dsn)
        over["TRADE_ENGINE_REDIS_URL"] = await self._through_proxy("redis", self._redis.url)
        over["TRADE_ENGINE_RABBITMQ_URL"] = await self._through_proxy("rabbitmq", self._rabbitmq.url)
        self.stack = Stack(self._folder, log_dir=self._folder / "logs", settings_over=over)
        await asyncio.to_thread(self.stack.start)
        self.engine = Engine(self.stack)
        return self.engine

    async def stop(self) -> None:
        if self.engine is not None:
            await self.engine.close()
        if self.stack is not None:
            await asyncio.to_thread(self.stack.stop)
        for proxy in self.proxies.values():
            await proxy.stop()
        for server in (self._rabbitmq, self._redis, self._postgres):
            await asyncio.to_thread(server.stop)

    def faults(self) -> dict[str, Callable[[float], Awaitable[None]]]:
        """Everything that can happen, by name; each takes a number from 0 to 1 that says how long, where that matters."""
        assert self.stack is not None
        found: dict[str, Callable[[float], Awaitable[None]]] = {}
        for name in SERVICES:
            found[f"kill {name}"] = lambda _, name=name: asyncio.to_thread(self.stack.kill, name)
            found[f"restart {name}"] = lambda _, name=name: self._restart(name)
            found[f"pause {name}"] = lambda much, name=name: self._pause(self.stack.process(name).pid, much)
        found["kill postgresql"] = lambda _: asyncio.to_thread(self._kill_postgres)
        found["kill redis"] = lambda _: asyncio.to_thread(self._kill_redis)
        found["kill rabbitmq"] = lambda _: asyncio.to_thread(self._kill_rabbitmq)
        found["pause rabbitmq"] = lambda much: self._pause(-self._rabbitmq.group, much)
        found["pause redis"] = lambda much: self._pause(self._redis.pid, much)
        found["cancel statements"] = lambda much: cancel_statements(self._postgres.dsn, times=1 + int(50 * much))
        found["read-only postgresql"] = self._let_nobody_write
        for name, proxy in self.proxies.items():
            found[f"cut {name}"] = lambda _, proxy=proxy: _cut(proxy)
        return found

    async def wait_healthy(self) -> None:
        assert self.stack is not None
        for name in SERVICES:
            await asyncio.to_thread(self.stack.wait_healthy, name)

    def _start_servers(self) -> None:
        for server in (self._postgres, self._redis, self._rabbitmq):
            server.start()

    async def _proxy(self, name: str, target: int) -> int:
        port = free_port()
        self.proxies[name] = Proxy(port=port, target=target)
        await self.proxies[name].start()
        return port

    async def _through_proxy(self, name: str, url: str) -> str:
        return through(url, await self._proxy(name, urlsplit(url).port or 0))

    async def _let_nobody_write(self, much: float) -> None:
        async with read_only(self._postgres.dsn):
            await self._wait(much)

    async def _restart(self, name: str) -> None:
        process = self.stack.process(name)
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)

    async def _pause(self, pid: int, much: float) -> None:
        kill = os.kill if pid > 0 else os.killpg
        kill(abs(pid), signal.SIGSTOP)
        await self._wait(much)
        with suppress(ProcessLookupError):
            kill(abs(pid), signal.SIGCONT)

    async def _wait(self, much: float) -> None:
        shortest, longest = self._pause_s
        await asyncio.sleep(shortest + much * (longest - shortest))

    def _kill_postgres(self) -> None:
        postmaster = self._postgres.pid
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self._postgres.wait()
        self._postgres.start()

    def _kill_redis(self) -> None:
        os.kill(self._redis.pid, signal.SIGKILL)
        self._redis.wait()
        self._redis.start()

    def _kill_rabbitmq(self) -> None:
        self._rabbitmq.kill()
        self._rabbitmq.start()


async def _cut(proxy: Proxy) -> None:
    proxy.cut()
