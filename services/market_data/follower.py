"""Follows every market: settled trades in, candles grown, stored once a second, readers woken; books mirrored beside.

The stream of settled trades has no gaps and begins after any number, so that a restart goes on where the store is.
"""

import asyncio
from collections.abc import Callable

import structlog
from prometheus_client import Counter, Gauge

from libs.db.pool import DatabaseAway
from libs.reasons import RefusedError, away
from libs.telemetry import SeldomWarning
from services.market_data.clients import Sources
from services.market_data.core.chart import Candle, Chart, Interval
from services.market_data.mirrors import Mirrors
from services.market_data.store import CandleStore

STORE_EVERY_S = 1.0
SYMBOLS_EVERY_S = 10.0
_RETRY_S = 0.5

log = structlog.get_logger()
BROKEN_OFF = SeldomWarning("trades broke off")
TRADES = Counter("market_data_trades_total", "Trades taken into candles", ["symbol"])
SEQUENCE = Gauge("market_data_last_sequence", "Number of the last trade in the candles", ["symbol"])


class Follower:
    """Charts of all markets. `on_change` is told the symbol after every batch of trades."""

    def __init__(
        self,
        *,
        store: CandleStore,
        sources: Sources,
        mirrors: Mirrors,
        charts: dict[str, Chart],
        on_change: Callable[[str], None],
    ) -> None:
        self._store = store
        self._sources = sources
        self._mirrors = mirrors
        self._on_change = on_change
        self.charts = charts
        self._stored: dict[str, int] = {}
        self._all_taken = False

    def is_known(self, symbol: str) -> bool:
        """Whether there is such a market. Raises RefusedError(DEPENDENCY_UNAVAILABLE) while that cannot be said."""
        if symbol not in self.charts and not self._all_taken:
            raise RefusedError(away("matcher"))
        return symbol in self.charts

    async def run(self) -> None:
        """Follow all markets, new ones too, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    symbols, all_told = await self._sources.symbols(), self._sources.all_told
                    new = [symbol for symbol in symbols if symbol not in self.charts]
                    charts = {symbol: await self._store.chart(symbol) for symbol in new}
                except (RefusedError, *DatabaseAway) as error:
                    log.warning("markets unknown", error=f"{type(error).__name__}: {error}")
                    await asyncio.sleep(_RETRY_S)
                    continue
                # All at once: while some were known and some not, a market that there is would be called unknown.
                for symbol, chart in charts.items():
                    self.charts[symbol] = chart
                    self._stored[symbol] = chart.last_sequence
                    self._mirrors.expect(symbol)
                    group.create_task(self._follow(symbol, chart))
                    group.create_task(self._mirrors.follow_book(symbol))
                    group.create_task(self._mirrors.follow_trades(symbol))
                # Not as soon as they are told: reading their charts takes a moment, too.
                self._all_taken = all_told
                await asyncio.sleep(SYMBOLS_EVERY_S if self._all_taken else _RETRY_S)

    async def keep(self) -> None:
        """Store what has changed, until cancelled."""
        while True:
            await asyncio.sleep(STORE_EVERY_S)
            try:
                for symbol, chart in list(self.charts.items()):
                    await self.store(symbol, chart)
            except DatabaseAway as error:
                log.warning("candles are not stored: database away", error=str(error))

    async def store(self, symbol: str, chart: Chart) -> None:
        """Store one market, if it has changed. Raises what asyncpg raises; then nothing is forgotten."""
        if self._stored[symbol] == chart.last_sequence:
            return
        sequence, finished = chart.last_sequence, len(chart.finished)
        candles: list[tuple[Interval, Candle]] = [*chart.finished, *chart.current.items()]
        await self._store.write(symbol, chart, candles)
        del chart.finished[:finished]
        self._stored[symbol] = sequence

    async def _follow(self, symbol: str, chart: Chart) -> None:
        while True:
            try:
                async for ticks in self._sources.trades(symbol, chart.last_sequence):
                    for tick in ticks:
                        chart.apply(tick)
                    TRADES.labels(symbol).inc(len(ticks))
                    SEQUENCE.labels(symbol).set(chart.last_sequence)
                    self._on_change(symbol)
            except RefusedError as error:
                BROKEN_OFF.tell(symbol=symbol, error=str(error))
            await asyncio.sleep(_RETRY_S)
