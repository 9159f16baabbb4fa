"""Looks once a second how far settling is behind matching, and tells the metrics."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from prometheus_client import Gauge

from libs.db.pool import DatabaseAway, Pool
from libs.reasons import RefusedError, symbol_unknown
from services.settlement.clients import Matchers
from services.settlement.core.pace import Pace, Sample
from services.settlement.store import SettlementStore

EVERY_S = 1.0
PARTITIONS_EVERY_S = 3600.0
MAINTAIN_PARTITIONS = "SELECT action, partition FROM operations.maintain_partitions()"
CHECK_PARTITIONS = "SELECT parent, ahead, rows_in_default FROM operations.check_partition_health()"

log = structlog.get_logger()
UNSETTLED = Gauge("settlement_unsettled_trades", "Trades matched and not settled")
OLDEST = Gauge("settlement_oldest_unsettled_seconds", "How long the oldest of them has been waiting")
DEAD_LETTERS = Gauge("settlement_dead_letters", "Dead letters that are open, counted to 10,000")
PARTITIONS_AHEAD = Gauge("partitions_ahead", "Partitions made for times to come", ["parent"])
DEFAULT_ROWS = Gauge("partition_default_rows", "Rows that had no partition to go to, counted to 10,000", ["parent"])


@dataclass(slots=True)
class Position:
    """What was seen last."""

    matched: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    dead_letters: int = 0
    matchers_answer: bool = False


class Monitor:
    """The position and the pace of settling, whichever process settles. `on_settled` is told the symbols that moved."""

    def __init__(self, *, store: SettlementStore, matchers: Matchers, on_settled: Callable[[set[str]], None]) -> None:
        self._store = store
        self._matchers = matchers
        self._on_settled = on_settled
        self.position = Position()
        self.pace = Pace()

    def check_known(self, symbol: str) -> None:
        """Raises RefusedError(SYMBOL_UNKNOWN) where there is no such market, as far as can be told."""
        position = self.position
        if position.matchers_answer and symbol not in position.matched and symbol not in position.settled:
            raise RefusedError(symbol_unknown(symbol))

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except DatabaseAway as error:
                log.warning("position unknown: database away", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look now; without the matchers only at our own side. Raises what asyncpg raises."""
        position = self.position
        # Settled first: what is matched between the two questions then counts as unsettled, never as settled too early.
        counts = await self._store.counts()
        self._on_settled({symbol for symbol, count in counts.items() if count != position.settled.get(symbol)})
        position.settled = counts
        position.dead_letters = await self._store.open_letters()
        try:
            position.matched = await self._matchers.heads()
            position.matchers_answer = True
        except RefusedError as error:
            if position.matchers_answer:
                log.warning("matchers do not answer", error=str(error))
            position.matchers_answer = False
            matched = position.matched
            position.matched = matched | {symbol: max(matched.get(symbol, 0), n) for symbol, n in counts.items()}
        self.pace.add(Sample(time.monotonic(), sum(position.matched.values()), sum(position.settled.values())))
        UNSETTLED.set(self.pace.unsettled())
        OLDEST.set(self.pace.oldest_unsettled_s())
        DEAD_LETTERS.set(position.dead_letters)


async def keep_partitions(pool: Pool) -> None:
    """Keep the tape's partitions ahead of time, until cancelled."""
    while True:
        wait_s = PARTITIONS_EVERY_S
        try:
            for row in await pool.fetch(MAINTAIN_PARTITIONS):
                log.info("partition", action=row["action"], partition=row["partition"])
            for row in await pool.fetch(CHECK_PARTITIONS):
                PARTITIONS_AHEAD.labels(row["parent"]).set(row["ahead"])
                DEFAULT_ROWS.labels(row["parent"]).set(row["rows_in_default"])
        except DatabaseAway as error:
            log.warning("partitions wait: database away", error=str(error))
            wait_s = EVERY_S
        await asyncio.sleep(wait_s)
