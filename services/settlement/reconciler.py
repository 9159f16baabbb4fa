"""Compares the matcher's journal with the tape and the ledger, and delivers again what is missing.

Trades are numbered without gaps, so that what is missing is told by counting; the journal can make any trade again, byte
for byte, and settling one again is harmless: the ledger answers with what it did, or names the field that differs.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime

import structlog
from exchange.events.v1 import trade_pb2
from prometheus_client import Gauge

from libs.db.pool import DatabaseAway
from libs.money import parse_units
from libs.reasons import Reason, Refused, RefusedError, symbol_unknown
from services.settlement.clients import Matchers
from services.settlement.consumer import Settler
from services.settlement.core.gaps import Span, count, missing_between, whole_until
from services.settlement.store import executed_at
from services.settlement.tape import Tape

PAGE = 5000
SPANS_MAX = 10_000
REPAIR_BATCH = 500
_POLL_S = 0.2

log = structlog.get_logger()
UNREPAIRED = Gauge("settlement_reconcile_unrepaired", "Trades that the last reconciliation could not bring to agree")
REPAIRED = Gauge("settlement_reconcile_repaired", "Trades that the last reconciliation delivered again")
FINISHED_AT = Gauge("settlement_reconcile_last_finished_timestamp_seconds", "When the last reconciliation was finished")


@dataclass(slots=True)
class SymbolReport:
    """What was found in one market; docs at SymbolReconciliation in the proto."""

    symbol: str
    journaled: int
    settled: int = 0
    missing: int = 0
    repaired: int = 0
    refused: int = 0
    unexplained: int = 0
    different: int = 0
    compared: int = 0

    @property
    def unrepaired(self) -> int:
        """Trades about which journal, tape and ledger do not agree."""
        return self.missing - self.repaired + self.unexplained + self.different


class Reconciler:
    """One reconciliation at a time, now and then by itself. `every_s` of 0 means only when asked."""

    def __init__(self, *, matchers: Matchers, settler: Settler, tape: Tape, grace_s: float, every_s: float) -> None:
        self._matchers = matchers
        self._settler = settler
        self._tape = tape
        self._grace_s = grace_s
        self._every_s = every_s
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Reconcile until cancelled, first one interval from now."""
        while self._every_s:
            await asyncio.sleep(self._every_s)
            try:
                await self.reconcile("", deep=False)
            except (RefusedError, *DatabaseAway) as error:
                log.warning("not reconciled", error=f"{type(error).__name__}: {error}")

    async def reconcile(self, symbol: str, *, deep: bool) -> list[SymbolReport]:
        """Look at one market, or ("") at all. Raises RefusedError: SYMBOL_UNKNOWN, OVERLOADED while another one runs."""
        if self._lock.locked():
            detail = {"queue": "reconciliations", "retry_after_s": str(max(1, round(self._grace_s)))}
            raise RefusedError(Refused(Reason.OVERLOADED, detail=detail))
        async with self._lock:
            heads = await self._matchers.heads()
            if symbol and symbol not in heads:
                raise RefusedError(symbol_unknown(symbol))
            wanted = {symbol: heads[symbol]} if symbol else heads
            reports = [await self._one(name, head, deep=deep) for name, head in sorted(wanted.items())]
        if not symbol:
            UNREPAIRED.set(sum(report.unrepaired for report in reports))
            REPAIRED.set(sum(report.repaired for report in reports))
            FINISHED_AT.set_to_current_time()
        for report in reports:
            if report.missing or report.unrepaired:
                log.error("settlement did not agree with the journal", **_as_fields(report))
        return reports

    async def _one(self, symbol: str, head: int, *, deep: bool) -> SymbolReport:
        report = SymbolReport(symbol, head)
        deadline = time.monotonic() + self._grace_s
        while missing := await self._missing(symbol, head):
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(_POLL_S)
        report.missing = count(missing)
        if missing or deep:
            await self._deliver(report, missing, deep=deep)
        _, number = await self._tape.newest(symbol)
        newest_head = (await self._matchers.heads())[symbol]
        report.unexplained = max(0, number - newest_head)
        report.settled = head - report.missing + report.repaired
        return report

    async def _missing(self, symbol: str, head: int) -> list[Span]:
        """Spans of missing numbers, at most SPANS_MAX of them; remembers up to where nothing is missing."""
        place: tuple[datetime, int] = await self._tape.whole(symbol)
        spans: list[Span] = []
        while place[1] < head and len(spans) < SPANS_MAX:
            rows = await self._tape.after(symbol, place, PAGE)
            numbers = sorted(row["sequence"] for row in rows)
            last = head if len(rows) < PAGE else numbers[-1]
            found = missing_between(place[1], numbers, min(last, head))
            if not spans:
                whole = whole_until(place[1], numbers)
                times = [row["executed_at"] for row in rows if row["sequence"] == whole]
                if times:
                    await self._tape.remember_whole(symbol, (times[0], whole))
            spans += found
            if len(rows) < PAGE:
                break
            place = rows[-1]["executed_at"], numbers[-1]
        return spans[:SPANS_MAX]

    async def _deliver(self, report: SymbolReport, missing: list[Span], *, deep: bool) -> None:
        """Have trades made again, all that are kept if `deep`; settle those that are missing, and compare what was made."""
        first, last = (missing[0][0], missing[-1][1]) if missing else (report.journaled + 1, report.journaled)
        if deep:
            first, last = min(first, await self._tape.first_kept(report.symbol)), report.journaled
        if first > last:
            return
        waiting: list[trade_pb2.Trade] = []
        async for events in self._matchers.replay(report.symbol, first, last):
            waiting += events.trades
            while len(waiting) >= REPAIR_BATCH:
                await self._compare(report, missing, waiting[:REPAIR_BATCH], deep=deep)
                del waiting[:REPAIR_BATCH]
        if waiting:
            await self._compare(report, missing, waiting, deep=deep)

    async def _compare(
        self, report: SymbolReport, missing: list[Span], trades: list[trade_pb2.Trade], *, deep: bool
    ) -> None:
        lacking = {trade.trade_id for trade in trades if any(a <= trade.sequence <= b for a, b in missing)}
        chosen = trades if deep else [trade for trade in trades if trade.trade_id in lacking]
        outcome = await self._settler.settle(chosen)
        report.repaired += len(lacking & set(outcome.settled))
        report.refused += len(outcome.dead)
        report.compared += len(chosen)
        rows = await self._tape.by_id([(trade.trade_id, executed_at(trade)) for trade in chosen])
        for trade in chosen:
            row = rows.get(trade.trade_id)
            if trade.trade_id in outcome.dead:
                report.different += trade.trade_id not in lacking
            elif row is None or not _is_same(row, trade):
                report.different += 1
                log.error("the tape differs from the journal", trade_id=trade.trade_id)


def _is_same(row: object, trade: trade_pb2.Trade) -> bool:
    return list(row.values())[1:] == [  # type: ignore[attr-defined]  # asyncpg's Record
        trade.symbol, trade.sequence,
        parse_units(trade.price, field="price"), parse_units(trade.quantity, field="quantity"),
        trade.buyer_user_id, trade.buyer_order_id, trade.seller_user_id, trade.seller_order_id, trade.maker_side,
        parse_units(trade.buyer_fee, field="buyer_fee"), parse_units(trade.seller_fee, field="seller_fee"),
    ]  # fmt: skip


def _as_fields(report: SymbolReport) -> dict[str, object]:
    return {name: getattr(report, name) for name in SymbolReport.__slots__}
