"""Rounds of one fault each, and the proof after each round."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exchange.settlement.v1 import settlement_pb2

from libs.money import parse_optional
from libs.orders import NEXT, Status
from tests.chaos.load import Load
from tests.chaos.system import PAUSE_S, System
from tests.support.engine import Engine

BEFORE_S = 0.5
AFTER_S = 1.0
SELECT_ORDERS = """
SELECT client_order_id, order_id::text, status, filled_quantity FROM orders.orders WHERE client_order_id = ANY ($1)
"""
SELECT_TRADES = "SELECT coalesce(sum(settled), 0)::bigint AS trades FROM settlement.tapes"


@dataclass(slots=True)
class Report:
    """What a campaign found."""

    rounds: int = 0
    faults: int = 0
    orders: int = 0
    trades: int = 0
    lost: int = 0
    duplicated: int = 0
    asked_again: int = 0
    slowest_round_s: float = 0.0
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.findings and self.lost == self.duplicated == 0

    def line(self) -> str:
        return (
            f"chaos: {'PASS' if self.passed else 'FAIL'} rounds={self.rounds} faults={self.faults} orders={self.orders} "
            f"trades={self.trades} lost={self.lost} duplicated={self.duplicated}"
        )


async def run_campaign(
    folder: Path,
    *,
    seed: int,
    rounds: int,
    only: str = "",
    pause_s: tuple[float, float] = PAUSE_S,
    on_round: Callable[[Report, str], None] = lambda *_: None,
) -> Report:
    """Rounds of the faults whose names begin with `only`; stops at the first round after which anything is wrong."""
    system = System(folder, pause_s=pause_s)
    report = Report()
    try:
        engine = await system.start()
        load = Load(engine, seed)
        trading = asyncio.create_task(load.run())
        try:
            for name, much in plan(system, seed, rounds, only):
                started = time.monotonic()
                load.go()
                await asyncio.sleep(BEFORE_S)
                await system.faults()[name](much)
                report.faults += 1
                await asyncio.sleep(AFTER_S)
                await system.wait_healthy()
                await _unless_ended(load.halt(), trading)
                await prove(engine, load, report)
                report.rounds += 1
                report.slowest_round_s = max(report.slowest_round_s, time.monotonic() - started)
                on_round(report, name)
                if not report.passed:
                    report.findings.append(f"after round {report.rounds}: {name}")
                    break
        finally:
            trading.cancel()
            await asyncio.gather(trading, return_exceptions=True)
    finally:
        await system.stop()
    report.findings += unexpected_faults(folder / "logs")
    return report


def unexpected_faults(logs: Path) -> list[str]:
    """What the services themselves call unexpected: a fault of the world is to be met, not to be stumbled over.

    The matcher alone ends itself on purpose, where a commit's outcome is unknown.
    """
    found = []
    for path in sorted(logs.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            unexpected = "unexpected fault in a handler" in line or "stopped by a fault" in line
            if unexpected and not ("CommitFailedError" in line or "LeaseLostError" in line):
                found.append(f"{path.stem}: {line[-600:]}")
    return found


def plan(system: System, seed: int, rounds: int, only: str) -> list[tuple[str, float]]:
    """The faults of all rounds: every one of them once before any comes twice."""
    wanted = sorted(name for name in system.faults() if name.startswith(only))
    assert wanted, f"no fault begins with {only}"
    rng = random.Random(seed)
    names: list[str] = []
    while len(names) < rounds:
        every = list(wanted)
        rng.shuffle(every)
        names += every
    return [(name, rng.random()) for name in names[:rounds]]


async def prove(engine: Engine, load: Load, report: Report) -> None:
    """Everything quiet: the audit is clean, the journal is settled, every answer that was given still holds."""
    audit = await engine.quiet()
    report.findings += [f"{item.check}: {item.wrong} wrong, {item.examples}" for item in audit.findings if item.wrong]
    found = await engine.settlement.Reconcile(settlement_pb2.ReconcileRequest(), metadata=engine.service, timeout=60)
    if not found.clean or any(item.missing for item in found.symbols):
        report.findings.append(f"not reconciled: {found}")
    report.lost += sum(item.missing for item in found.symbols)
    report.lost += await _lost_orders(engine, load)
    report.duplicated = load.doubled
    report.findings += [f"stale: {read}" for read in load.stale[:5]]
    report.orders = len(load.acknowledged)
    report.trades = (await engine.query(SELECT_TRADES))[0]["trades"]
    report.asked_again = load.asked_again


async def _lost_orders(engine: Engine, load: Load) -> int:
    """Orders that are not what their owners were told: gone, moved back, or another one."""
    rows = await engine.query(SELECT_ORDERS, list(load.acknowledged))
    known = {row["client_order_id"]: row for row in rows}
    lost = 0
    for key, told in load.acknowledged.items():
        row = known.get(key)
        lost += (
            row is None
            or row["order_id"] != told.order_id
            or not _may_become(Status(told.status), Status(row["status"]))
            or row["filled_quantity"] < parse_optional(told.filled, field="filled")
        )
    return lost


def _may_become(was: Status, now: Status) -> bool:
    if was is now:
        return True
    return any(step is now or (step is not was and _may_become(step, now)) for step in NEXT[was])


async def _unless_ended(work, trading: asyncio.Task) -> None:
    """Wait for `work`; a trader's fault ends it. Raises what the trader raised."""
    waiting = asyncio.ensure_future(work)
    await asyncio.wait({waiting, trading}, return_when=asyncio.FIRST_COMPLETED)
    if trading.done():
        waiting.cancel()
        trading.result()
    await waiting
