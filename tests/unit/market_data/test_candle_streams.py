"""What a reader of candles is told, whatever is stored in between."""

import asyncio

import pytest

from services.market_data import streams
from services.market_data.core.chart import Chart, Interval, Tick
from services.market_data.streams import MarketStreams

SYMBOL = "BTC/USDT"
MINUTE_NS = 60 * 10**9
COIN = 10**8


def tick(sequence: int, at_ns: int) -> Tick:
    return Tick(sequence, sequence * COIN, COIN, at_ns)


async def test_a_finished_candle_comes_once_more_though_it_is_stored_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GATHER_S", 0)
    chart = Chart()
    chart.apply(tick(1, 0))
    candles = MarketStreams(charts={SYMBOL: chart}, subscribers_max=1).candles(SYMBOL, Interval.MINUTE)
    assert (await anext(candles)).trades == 1
    chart.apply(tick(2, MINUTE_NS - 1))
    chart.apply(tick(3, MINUTE_NS))
    chart.finished.clear()
    async with asyncio.timeout(5):
        told = [await anext(candles), await anext(candles)]
    assert [(candle.opened_s, candle.trades, candle.close) for candle in told] == [(0, 2, 2 * COIN), (60, 1, 3 * COIN)]
    await candles.aclose()
