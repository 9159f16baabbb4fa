"""Requests a second through the edge: orders placed and books read, beside a bare application on the same HTTP stack."""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console

from bench.support import Clock, milliseconds, running_stack, write_results
from cli.processes import free_port
from cli.stack import Stack
from libs.ids import new_id
from libs.runtime import collect_garbage_rarely
from tests.support.engine import Engine

ROOT = Path(__file__).parents[1]
IN_FLIGHT = 64
USERS = 64
console = Console(stderr=True)
Ask = Callable[[int], bytes]


async def requests_per_s(port: int, ask: Ask, seconds: float) -> tuple[float, list[float]]:
    """(requests/s, seconds each took) over keep-alive connections, one request at a time on each."""
    until, took = time.perf_counter() + seconds, list[float]()

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < until:
            writer.write(ask(number))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            took.append(time.perf_counter() - started)
        writer.close()

    clock = Clock()
    await asyncio.gather(*(one(number) for number in range(IN_FLIGHT)))
    return len(took) / clock.seconds(), took


async def measure(stack: Stack, seconds: int) -> tuple[dict[str, float], dict[str, object]]:
    engine = Engine(stack)
    users = [await engine.user(USDT="100000000") for _ in range(USERS)]
    tokens = [engine.token(user) for user in users]
    for price in range(20):
        await engine.place(users[0], f"BUY 1 @ {900 + price}", symbol="BTC/USDT")

    def place(number: int) -> bytes:
        order = {
            "clientOrderId": new_id(), "symbol": "ETH/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT",
            "price": "100", "quantity": "0.1",
        }  # fmt: skip
        body = json.dumps(order).encode()
        head = (
            f"POST /api/v1/orders HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {tokens[number % USERS]}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def book(number: int) -> bytes:
        head = f"GET /api/v1/books/BTC-USDT HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {tokens[number % USERS]}\r\n\r\n"
        return head.encode()

    port = free_port()
    bare = subprocess.Popen([sys.executable, "-m", "bench.bare_http", str(port)], cwd=ROOT)  # noqa: ASYNC220 - beside
    keys: dict[str, float] = {}
    raw: dict[str, object] = {"in_flight": IN_FLIGHT, "seconds": seconds}
    try:
        await asyncio.sleep(1.5)
        for name, ask in (("place", place), ("book", book)):
            await requests_per_s(engine.settings.edge.port, ask, 1)
            before, _ = await requests_per_s(port, ask, seconds / 2)
            through, took = await requests_per_s(engine.settings.edge.port, ask, seconds)
            after, _ = await requests_per_s(port, ask, seconds / 2)
            yardstick = (before + after) / 2
            keys[f"{name}_vs_bare"] = round(through / yardstick, 3)
            raw |= {
                f"{name}_per_s": round(through), f"{name}_bare_per_s": round(yardstick),
                f"{name}_p50_ms": milliseconds(took, 50), f"{name}_p99_ms": milliseconds(took, 99),
            }  # fmt: skip
            console.print(f"{name}: {through:.0f} requests/s, bare {yardstick:.0f}/s")
    finally:
        bare.kill()
        bare.wait()
    await engine.close()
    return keys, raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=6, help="how long each measurement lasts")
    options = parser.parse_args()
    collect_garbage_rarely()
    over = {
        "TRADE_ENGINE_EDGE_RATE_PER_S": "1000000",
        "TRADE_ENGINE_EDGE_RATE_BURST": "1000000",
        "TRADE_ENGINE_GATEWAY_ORDERS_PER_S": "1000000",
        "TRADE_ENGINE_GATEWAY_ORDERS_BURST": "1000000",
    }
    with running_stack(settings_over=over) as stack:
        keys, raw = uvloop.run(measure(stack, options.seconds))
    write_results("edge", keys, raw)


if __name__ == "__main__":
    main()
