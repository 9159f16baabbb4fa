"""Candles and tickers as their protos have them."""

from exchange.market_data.v1 import candle_pb2, ticker_pb2

from libs.money import format_units
from libs.reasons import Reason, Refused, RefusedError
from services.market_data.core.chart import Candle, Chart, Interval, change_bps

_INTERVALS = {
    candle_pb2.CANDLE_INTERVAL_UNSPECIFIED: Interval.MINUTE,
    candle_pb2.CANDLE_INTERVAL_1M: Interval.MINUTE,
    candle_pb2.CANDLE_INTERVAL_5M: Interval.FIVE_MINUTES,
    candle_pb2.CANDLE_INTERVAL_1H: Interval.HOUR,
    candle_pb2.CANDLE_INTERVAL_1D: Interval.DAY,
}
_NUMBERS = {interval: number for number, interval in _INTERVALS.items()}


def interval_from(number: candle_pb2.CandleInterval.ValueType) -> Interval:
    """Which candles are meant. Raises RefusedError(CHOICE_UNKNOWN)."""
    interval = _INTERVALS.get(number)
    if interval is None:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="interval", rule="one of CANDLE_INTERVAL_..."))
    return interval


def candle_message(symbol: str, interval: Interval, candle: Candle) -> candle_pb2.Candle:
    """A candle."""
    message = candle_pb2.Candle(
        symbol=symbol,
        interval=_NUMBERS[interval],
        open=format_units(candle.open),
        high=format_units(candle.high),
        low=format_units(candle.low),
        close=format_units(candle.close),
        volume=format_units(candle.volume),
        quote_volume=format_units(candle.quote_volume),
        trades=candle.trades,
        last_sequence=candle.last_sequence,
    )
    message.opened_at.FromSeconds(candle.opened_s)
    return message


def ticker_message(symbol: str, chart: Chart, now_ns: int) -> ticker_pb2.Ticker:
    """A market's last 24 hours."""
    day = chart.day(now_ns)
    message = ticker_pb2.Ticker(
        symbol=symbol,
        volume=format_units(day.volume),
        quote_volume=format_units(day.quote_volume),
        trades=day.trades,
        last_sequence=chart.last_sequence,
        change_bps=change_bps(day.open, chart.last_price),
    )
    if chart.last_price:
        message.last_price = format_units(chart.last_price)
        message.last_at.FromNanoseconds(chart.last_at_ns)
    if day.open:
        message.open, message.high, message.low = map(format_units, (day.open, day.high, day.low))
    return message
