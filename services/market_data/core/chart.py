"""One market's candles and its last 24 hours, from its trades in the order of their numbers. Amounts in units of 10^-8.

A candle is a function of the trades in it: whoever has seen the same trades has the same candle.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum

from libs.money import BPS, notional_units

DAY_MINUTES = 24 * 60
_NS = 10**9


class Interval(Enum):
    """Seconds that a candle lasts."""

    MINUTE = 60
    FIVE_MINUTES = 300
    HOUR = 3600
    DAY = 86_400


@dataclass(frozen=True, slots=True)
class Candle:
    """What was traded from `opened_s` (seconds since 1970 UTC) on, for one interval."""

    opened_s: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    quote_volume: int
    trades: int
    last_sequence: int


@dataclass(frozen=True, slots=True)
class Tick:
    """One trade."""

    sequence: int
    price: int
    quantity: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Day:
    """The last 24 hours, to the minute. Prices are 0 without a trade in them."""

    open: int = 0
    high: int = 0
    low: int = 0
    volume: int = 0
    quote_volume: int = 0
    trades: int = 0


class GapError(Exception):
    """A trade is missing before this one."""


@dataclass(slots=True)
class Chart:
    """All of it. `finished` takes candles that the next one has replaced, until somebody has stored them.

    `previous` has the last of them of each interval.
    """

    last_sequence: int = 0
    last_price: int = 0
    last_at_ns: int = 0
    current: dict[Interval, Candle] = field(default_factory=dict)
    minutes: deque[Candle] = field(default_factory=lambda: deque(maxlen=DAY_MINUTES))
    finished: list[tuple[Interval, Candle]] = field(default_factory=list)
    previous: dict[Interval, Candle] = field(default_factory=dict)

    def apply(self, tick: Tick) -> None:
        """Take the next trade; one that was taken before changes nothing. Raises GapError."""
        if tick.sequence <= self.last_sequence:
            return
        if tick.sequence != self.last_sequence + 1:
            raise GapError(f"trade {tick.sequence} after {self.last_sequence}")
        for interval in Interval:
            before = self.current.get(interval)
            opened_s = tick.at_ns // _NS // interval.value * interval.value
            if before is not None and before.opened_s == opened_s:
                self.current[interval] = _grown(before, tick)
                continue
            if before is not None:
                self.previous[interval] = before
                self.finished.append((interval, before))
                if interval is Interval.MINUTE:
                    self.minutes.append(before)
            self.current[interval] = _grown(None, tick, opened_s)
        self.last_sequence, self.last_price, self.last_at_ns = tick.sequence, tick.price, tick.at_ns

    def day(self, now_ns: int) -> Day:
        """The 24 hours before now."""
        since_s = now_ns // _NS - Interval.DAY.value
        newest = self.current.get(Interval.MINUTE)
        minutes = [candle for candle in self.minutes if candle.opened_s > since_s]
        if newest is not None and newest.opened_s > since_s:
            minutes.append(newest)
        if not minutes:
            return Day()
        return Day(
            open=minutes[0].open,
            high=max(candle.high for candle in minutes),
            low=min(candle.low for candle in minutes),
            volume=sum(candle.volume for candle in minutes),
            quote_volume=sum(candle.quote_volume for candle in minutes),
            trades=sum(candle.trades for candle in minutes),
        )


def change_bps(first: int, last: int) -> int:
    """How much the last price is above the first, in basis points, rounded towards zero; 0 without a first."""
    if not first:
        return 0
    change = abs(last - first) * BPS // first
    return change if last >= first else -change


def _grown(candle: Candle | None, tick: Tick, opened_s: int = 0) -> Candle:
    notional = notional_units(tick.price, tick.quantity)
    if candle is None:
        return Candle(
            opened_s, tick.price, tick.price, tick.price, tick.price, tick.quantity, notional, 1, tick.sequence
        )
    return replace(
        candle,
        high=max(candle.high, tick.price),
        low=min(candle.low, tick.price),
        close=tick.price,
        volume=candle.volume + tick.quantity,
        quote_volume=candle.quote_volume + notional,
        trades=candle.trades + 1,
        last_sequence=tick.sequence,
    )
