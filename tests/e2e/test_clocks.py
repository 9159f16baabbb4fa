"""A clock that jumps, under services and servers alike: nothing stops, nothing is lost, and days end when they should."""

import asyncio
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc.aio
import pytest
from exchange.common.v1 import order_pb2

from cli.stack import Stack, temporary_folder
from libs.ids import new_id
from tests.support.engine import Engine, order_from, running
from tests.support.trading import Pair, until

SOURCE = Path(__file__).resolve().parents[1] / "support" / "clock.c"
COMPILER = shutil.which("cc")
HOUR_S, DAY_S = 3600, 86_400
TOKEN_LIFE_S = 10 * DAY_S
OVER = {
    "TRADE_ENGINE_MATCHER_LEASE_MS": "1000",
    "TRADE_ENGINE_GATEWAY_ORDERS_PER_S": "5",
    "TRADE_ENGINE_GATEWAY_ORDERS_BURST": "5",
}
pytestmark = pytest.mark.skipif(COMPILER is None, reason="a clock that jumps is made by a C compiler (cc)")


class Clock:
    """The wall clock of everything that is started; it begins two days ahead, so that our tokens are never of the future."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ahead_s = 2 * DAY_S
        path.write_bytes(struct.pack("l", self._ahead_s))

    def jump(self, seconds: int) -> None:
        self._ahead_s += seconds
        with self._path.open("r+b") as file:
            file.write(struct.pack("l", self._ahead_s))


@pytest.fixture
async def jumping(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Engine, Clock]]:
    """On PostgreSQL and Redis of its own, whose clock is the same."""
    with temporary_folder("trade-engine-clock-") as folder:
        library = folder / "clock.so"
        compiling = [str(COMPILER), "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        await asyncio.to_thread(subprocess.run, compiling, check=True)
        clock = Clock(folder / "clock")
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("TESTS_CLOCK", str(folder / "clock"))
        stack = Stack(folder, private_ports=True, log_dir=folder / "logs", settings_over=OVER)
        async with running(stack) as engine:
            engine.service = engine.as_caller("tests", "service", TOKEN_LIFE_S)
            yield engine, clock


async def refusal(call: Awaitable[object]) -> str:
    """What was said of a call; "" where it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.details())
    return ""


async def trades_again(pair: Pair) -> None:
    """Placing goes on within what a caller would try again for."""

    async def trades() -> bool:
        said = await refusal(pair.trade(1))
        assert said == "" or said.startswith(("DEPENDENCY_UNAVAILABLE", "OUTCOME_UNKNOWN")), said
        return said == ""

    await until(trades)


async def place_many(engine: Engine, user: str, count: int = 50) -> None:
    for _ in range(count):
        request = order_from("BUY 1 @ 10", user_id=user, symbol="BTC/USDT", client_order_id=new_id())
        await engine.gateway.PlaceOrder(request, metadata=engine.as_caller(user, life_s=TOKEN_LIFE_S), timeout=20)


async def test_whatever_a_clock_does_trading_goes_on(jumping: tuple[Engine, Clock]) -> None:
    engine, clock = jumping
    pair = await Pair(engine).fund()
    day = order_from("BUY 1 @ 10", user_id=pair.buyer, symbol="BTC/USDT", client_order_id=new_id())
    day.time_in_force = order_pb2.TIME_IN_FORCE_DAY
    today = (await engine.gateway.PlaceOrder(day, metadata=engine.service)).order
    await trades_again(pair)

    clock.jump(DAY_S)
    await trades_again(pair)

    async def day_is_over() -> bool:
        return (await engine.order(today)).status == order_pb2.ORDER_STATUS_EXPIRED

    await until(day_is_over)

    # Whoever led until now has a lease until tomorrow.
    await asyncio.to_thread(engine.stack.kill, "matcher")
    clock.jump(-DAY_S)
    await trades_again(pair)

    hasty = await engine.user(USDT="1000")
    assert (await refusal(place_many(engine, hasty))).startswith("RATE_LIMITED")
    clock.jump(-2 * HOUR_S)

    async def may_place_again() -> bool:
        said = await refusal(place_many(engine, hasty, 1))
        assert said == "" or said.startswith("RATE_LIMITED"), said
        return said == ""

    await until(may_place_again)
    await trades_again(pair)
    assert (await engine.quiet()).clean
    assert len(await engine.tape("BTC/USDT")) >= 4
