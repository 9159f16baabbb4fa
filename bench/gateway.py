"""Orders through the front door, everything on, trades settling behind: beside a bare echo server and beside pgbench.

Client, services and PostgreSQL share the machine's cores.
"""

import argparse
import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import uvloop
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2, trading_session_pb2
from rich.console import Console

from bench.support import Clock, milliseconds, pgbench_tps, running_stack, write_results
from cli.processes import free_port
from cli.stack import Stack
from libs.ids import new_id
from libs.rpc.client import open_channel
from libs.runtime import collect_garbage_rarely
from tests.support.engine import Engine, order_from

ROOT = Path(__file__).parents[1]
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
USERS = 64
IN_FLIGHT = (32, 128, 400)
BATCH = 100
BATCHES_AT_ONCE = 4
SESSIONS = 4
SESSION_IN_FLIGHT = 250
OPEN_LOOP_PER_S = 1000
PGBENCH_CLIENTS = 32
ALONE = 300
console = Console(stderr=True)
Place = Callable[[order_requests_pb2.PlaceOrderRequest], Awaitable[object]]


class Orders:
    """Orders of many users that meet each other: half of them trade."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._users: list[str] = []
        self._numbers = itertools.count()

    async def fund(self) -> None:
        for _ in range(USERS):
            self._users.append(
                await self.engine.user(BTC="1000000", ETH="1000000", SOL="1000000", XRP="9000000", USDT="100000000")
            )

    def next(self) -> order_requests_pb2.PlaceOrderRequest:
        number = next(self._numbers)
        side, price = ("SELL", 100 + number % 3) if number % 2 else ("BUY", 100 - number % 3)
        user, symbol = self._users[number % USERS], SYMBOLS[number // 2 % len(SYMBOLS)]
        return order_from(f"{side} 0.1 @ {price}", user_id=user, symbol=symbol, client_order_id=new_id())


async def closed_loop(place: Place, orders: Orders, in_flight: int, seconds: float) -> tuple[float, list[float]]:
    """(calls/s, seconds each took) with so many in flight."""
    until, took = time.perf_counter() + seconds, list[float]()

    async def one() -> None:
        while (started := time.perf_counter()) < until:
            await place(orders.next())
            took.append(time.perf_counter() - started)

    clock = Clock()
    await asyncio.gather(*(one() for _ in range(in_flight)))
    return len(took) / clock.seconds(), took


async def open_loop(place: Place, orders: Orders, seconds: int) -> list[float]:
    """1,000 orders/s whether the engine keeps up or not; latency counts from when an order was due."""
    took: list[float] = []

    async def one(due: float) -> None:
        await place(orders.next())
        took.append(time.perf_counter() - due)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(OPEN_LOOP_PER_S * seconds):
            due = started + number / OPEN_LOOP_PER_S
            await asyncio.sleep(max(0, due - time.perf_counter()))
            group.create_task(one(due))
    return took


async def batches(engine: Engine, orders: Orders, seconds: float) -> float:
    """Orders/s by PlaceOrders."""
    until, done = time.perf_counter() + seconds, 0

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < until:
            request = order_requests_pb2.PlaceOrdersRequest(orders=[orders.next() for _ in range(BATCH)])
            answer = await engine.gateway.PlaceOrders(request, metadata=engine.service)
            assert not [result for result in answer.results if result.HasField("error")]
            done += BATCH

    clock = Clock()
    await asyncio.gather(*(one() for _ in range(BATCHES_AT_ONCE)))
    return done / clock.seconds()


async def sessions(engine: Engine, orders: Orders, seconds: float) -> float:
    """Orders/s by TradingSession."""
    until, done = time.perf_counter() + seconds, 0

    async def one() -> None:
        nonlocal done
        seats = asyncio.Semaphore(SESSION_IN_FLIGHT)

        async def requests() -> AsyncIterator[trading_session_pb2.TradingSessionRequest]:
            while time.perf_counter() < until:
                await seats.acquire()
                yield trading_session_pb2.TradingSessionRequest(place=orders.next())

        async for answer in engine.gateway.TradingSession(requests(), metadata=engine.service):
            assert not answer.HasField("error"), answer.error
            seats.release()
            done += 1

    clock = Clock()
    await asyncio.gather(*(one() for _ in range(SESSIONS)))
    return done / clock.seconds()


async def bare_commits(dsn: str) -> list[float]:
    """Seconds of one small durable insert each."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_commits (id uuid, at timestamptz)")
    took = []
    for _ in range(ALONE):
        clock = Clock()
        await connection.execute("INSERT INTO bench_commits VALUES ($1, now())", new_id())
        took.append(clock.seconds())
    await connection.execute("DROP TABLE bench_commits")
    await connection.close()
    return took


async def measure(stack: Stack, seconds: int) -> tuple[dict[str, float], dict[str, object]]:
    engine = Engine(stack)
    orders = Orders(engine)
    await orders.fund()

    async def place(request: order_requests_pb2.PlaceOrderRequest) -> object:
        return await engine.gateway.PlaceOrder(request, metadata=engine.service, timeout=60)

    port = free_port()
    echo = subprocess.Popen([sys.executable, "-m", "bench.echo", str(port)], cwd=ROOT)  # noqa: ASYNC220 - beside
    raw: dict[str, object] = {}
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
            stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)

            async def call(request: order_requests_pb2.PlaceOrderRequest) -> object:
                return await stub.PlaceOrder(request, metadata=engine.service, timeout=60)

            await closed_loop(place, orders, 32, 2)  # warm up
            ratios = await unary(place, call, orders, seconds, raw)
    finally:
        echo.kill()
        echo.wait()
    by_batch = await batches(engine, orders, seconds)
    by_session = await sessions(engine, orders, seconds)
    console.print(f"batches: {by_batch:.0f} orders/s, sessions: {by_session:.0f} orders/s")
    await engine.quiet()
    due = await open_loop(place, orders, seconds)
    await engine.quiet()
    alone = [clock for _ in range(ALONE) for clock in [await _timed(place, orders)]]
    commits = await bare_commits(stack.environment["TRADE_ENGINE_DATABASE_DSN"])
    report = await engine.quiet()
    assert report.clean
    await engine.close()
    tps = await asyncio.to_thread(pgbench_tps, stack.postgres, clients=PGBENCH_CLIENTS, seconds=seconds)
    keys = {
        "unary_400_vs_echo": ratios[400],
        "batch_100_vs_pgbench": round(by_batch / tps, 2),
        "session_vs_pgbench": round(by_session / tps, 2),
        "open_loop_1000_p99_ms": milliseconds(due, 99),
        "single_p50_vs_commits": round(milliseconds(alone, 50) / (3 * milliseconds(commits, 50)), 2),
    }
    raw |= {
        "batch_orders_per_s": round(by_batch),
        "session_orders_per_s": round(by_session),
        "pgbench_tps": round(tps),
        "open_loop_p50_ms": milliseconds(due, 50),
        "open_loop_orders": len(due),
        "single_p50_ms": milliseconds(alone, 50),
        "commit_p50_ms": milliseconds(commits, 50),
        "seconds": seconds,
    }
    return keys, raw


async def unary(place: Place, call: Place, orders: Orders, seconds: float, raw: dict[str, object]) -> dict[int, float]:
    """Orders/s over echo calls/s, by how many are in flight; one after the other, so that both meet the same machine."""
    ratios = {}
    for in_flight in IN_FLIGHT:
        echoed, _ = await closed_loop(call, orders, in_flight, seconds / 2)
        placed, took = await closed_loop(place, orders, in_flight, seconds)
        again, _ = await closed_loop(call, orders, in_flight, seconds / 2)
        bare = (echoed + again) / 2
        ratios[in_flight] = round(placed / bare, 3)
        raw |= {
            f"unary_{in_flight}_orders_per_s": round(placed),
            f"unary_{in_flight}_echo_per_s": round(bare),
            f"unary_{in_flight}_vs_echo": ratios[in_flight],
            f"unary_{in_flight}_p50_ms": milliseconds(took, 50),
            f"unary_{in_flight}_p99_ms": milliseconds(took, 99),
        }
        console.print(f"{in_flight} in flight: {placed:.0f} orders/s, echo {bare:.0f}/s")
    return ratios


async def _timed(place: Place, orders: Orders) -> float:
    clock = Clock()
    await place(orders.next())
    return clock.seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=6, help="how long each measurement lasts")
    parser.add_argument("--full", action="store_true", help="half a minute each")
    options = parser.parse_args()
    collect_garbage_rarely()
    with running_stack() as stack:
        keys, raw = uvloop.run(measure(stack, 30 if options.full else options.seconds))
    write_results("gateway", keys, raw)


if __name__ == "__main__":
    main()
