"""PostgreSQL answers, but not as it should: read-only, as some hosts make it when its disk is full, or statements cancelled.

Callers are told that a part is away, whatever they were in the middle of; afterwards everything goes on by itself.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import grpc.aio

from cli.stack import SERVICES
from libs.ids import new_id
from tests.support.engine import SHOWING, Engine
from tests.support.faults import cancel_statements, read_only
from tests.support.trading import Pair, until

PASSING = {"DEPENDENCY_UNAVAILABLE", "OUTCOME_UNKNOWN"}


class Callers:
    """Users who trade and are paid; what is refused is asked again, orders with their key, until it is done."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: Counter[str] = Counter()
        self.placed = 0

    async def trade(self, pair: Pair, keep_on: asyncio.Event) -> None:
        while keep_on.is_set():
            for user, text in ((pair.seller, "SELL 0.1 @ 100"), (pair.buyer, "BUY 0.1 @ 100")):
                await self._until_done(partial(self.engine.place, user, text, client_order_id=new_id()))
                self.placed += 1

    async def pay(self, user_id: str, keep_on: asyncio.Event) -> None:
        while keep_on.is_set():
            await self._until_done(partial(self.engine.deposit, user_id, USDT="1"))

    async def _until_done(self, call) -> None:
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                self.answers[(error.details() or "").split()[0]] += 1
                await asyncio.sleep(0.2)
            else:
                self.answers["done"] += 1
                return


@asynccontextmanager
async def under_load(engine: Engine) -> AsyncIterator[Callers]:
    """Calls of every kind go on inside; at the end all are answered, everything has settled and the audit is clean."""
    callers, keep_on = Callers(engine), asyncio.Event()
    keep_on.set()
    pairs = [await Pair(engine).fund() for _ in range(3)]
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for pair in pairs:
            group.create_task(callers.trade(pair, keep_on))
            group.create_task(callers.pay(pair.buyer, keep_on))
        yield callers
        keep_on.clear()
    report = await engine.quiet()
    assert report.clean, [finding for finding in report.findings if finding.wrong]
    assert set(callers.answers) <= {"done"} | PASSING, callers.answers
    assert len(await engine.tape("BTC/USDT")) == min(1000, callers.placed // 2)


def faults_logged(engine: Engine, *, but: str = "-") -> list[str]:
    """Lines that no operator should have to read."""
    logs = [engine.stack.log_dir / f"{service}.log" for service in SERVICES if service not in SHOWING]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    return [line for line in lines if '"level": "error"' in line and but not in line]


async def test_a_read_only_database(fresh_core: Engine) -> None:
    engine = fresh_core
    async with under_load(engine) as callers:
        await asyncio.sleep(1)
        async with read_only(engine.settings.database.dsn.get_secret_value()):
            await until(lambda: asyncio.sleep(0, callers.answers["DEPENDENCY_UNAVAILABLE"] > 10))
            await asyncio.sleep(3)
        done = callers.answers["done"]
        await until(lambda: asyncio.sleep(0, callers.answers["done"] > done + 20))
    assert not faults_logged(engine)


async def test_statements_that_are_cancelled(fresh_core: Engine) -> None:
    engine = fresh_core
    async with under_load(engine):
        await cancel_statements(engine.settings.database.dsn.get_secret_value(), times=100)
    # A matcher whose commit fails ends, and the next one reads from the journal whether it was done.
    assert not faults_logged(engine, but="CommitFailedError")
