"""Tickers and candles for those who listen. A reader has no queue: it is told the newest when it is ready for more."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from prometheus_client import Gauge

from libs.reasons import RefusedError, symbol_unknown
from libs.seats import Seats
from services.market_data.core.chart import Candle, Chart, Interval

# Trades that come together are told together.
GATHER_S = 0.2

SUBSCRIBERS = Gauge("market_data_stream_subscribers", "Open StreamTickers and StreamCandles calls")


class MarketStreams:
    """Wakes readers of the markets that moved."""

    def __init__(self, *, charts: Mapping[str, Chart], subscribers_max: int) -> None:
        self._charts = charts
        self._seats = Seats(subscribers_max, SUBSCRIBERS)
        self._moved: dict[str, asyncio.Event] = {}

    def changed(self, symbol: str) -> None:
        """Trades of this symbol were taken."""
        moved = self._moved.pop(symbol, None)
        if moved is not None:
            moved.set()

    def chart(self, symbol: str) -> Chart:
        """A market. Raises RefusedError(SYMBOL_UNKNOWN)."""
        chart = self._charts.get(symbol)
        if chart is None:
            raise RefusedError(symbol_unknown(symbol))
        return chart

    async def tickers(self, symbol: str) -> AsyncIterator[Chart]:
        """A market now, and after every change. Raises RefusedError: SYMBOL_UNKNOWN, TOO_MANY_SUBSCRIBERS."""
        chart = self.chart(symbol)
        with self._seats.one():
            told = -1
            while True:
                moved = self._moved.setdefault(symbol, asyncio.Event())
                if told < chart.last_sequence:
                    told = chart.last_sequence
                    yield chart
                    await asyncio.sleep(GATHER_S)
                else:
                    await moved.wait()

    async def candles(self, symbol: str, interval: Interval) -> AsyncIterator[Candle]:
        """A market's newest candle as it grows; a finished one comes once more. Raises as `tickers`."""
        told: Candle | None = None
        async for chart in self.tickers(symbol):
            newest = chart.current.get(interval)
            if newest is None:
                continue
            if told is not None and told.opened_s != newest.opened_s:
                before = chart.previous.get(interval)
                if before is not None and before.opened_s == told.opened_s and before != told:
                    yield before
            if newest != told:
                told = newest
                yield newest
