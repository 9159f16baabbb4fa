"""Candles and the last 24 hours: what trades make of them, in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.market_data.core.chart import Candle, Chart, Day, GapError, Interval, Tick, change_bps

COIN = 10**8
NS = 10**9
DAY_S = 86_400


def tick(sequence: int, price: int, quantity: int, at_s: float) -> Tick:
    return Tick(sequence, price * COIN, quantity * COIN, int(at_s * NS))


def test_a_candle_has_first_highest_lowest_and_last_price_and_the_sums() -> None:
    chart = Chart()
    for number, price in enumerate((10, 14, 8, 11), start=1):
        chart.apply(tick(number, price, number, 60 + number))
    expected = Candle(60, 10 * COIN, 14 * COIN, 8 * COIN, 11 * COIN, 10 * COIN, (10 + 28 + 24 + 44) * COIN, 4, 4)
    assert chart.current[Interval.MINUTE] == expected
    assert chart.current[Interval.DAY].opened_s == 0
    assert chart.finished == []


@pytest.mark.parametrize(("at_s", "opened_s"), [(59.999, 0), (60, 60), (119.999999, 60), (120, 120)])
def test_a_trade_belongs_to_the_minute_that_it_began_in(at_s: float, opened_s: int) -> None:
    chart = Chart()
    chart.apply(tick(1, 1, 1, at_s))
    assert chart.current[Interval.MINUTE].opened_s == opened_s


def test_a_finished_candle_waits_to_be_stored_and_counts_in_the_day() -> None:
    chart = Chart()
    chart.apply(tick(1, 10, 1, 0))
    chart.apply(tick(2, 20, 1, 3600))
    kinds = {interval for interval, _ in chart.finished}
    assert kinds == {Interval.MINUTE, Interval.FIVE_MINUTES, Interval.HOUR}
    assert chart.day(3600 * NS) == Day(10 * COIN, 20 * COIN, 10 * COIN, 2 * COIN, 30 * COIN, 2)


def test_a_trade_that_was_taken_before_changes_nothing_and_a_gap_is_refused() -> None:
    chart = Chart()
    chart.apply(tick(1, 10, 1, 0))
    before = dict(chart.current)
    chart.apply(tick(1, 99, 9, 0))
    assert chart.current == before
    with pytest.raises(GapError):
        chart.apply(tick(3, 10, 1, 0))
    assert (chart.current, chart.last_sequence) == (before, 1)


def test_the_day_forgets_what_is_24_hours_old() -> None:
    chart = Chart()
    chart.apply(tick(1, 10, 1, 0))
    chart.apply(tick(2, 20, 1, 60))
    assert chart.day((DAY_S - 1) * NS).trades == 2
    assert chart.day(DAY_S * NS).trades == 1
    assert chart.day((DAY_S + 60) * NS) == Day()
    assert chart.last_price == 20 * COIN


def test_a_market_without_trades_shows_nothing() -> None:
    assert Chart().day(0) == Day(0, 0, 0, 0, 0, 0)
    assert (Chart().last_sequence, Chart().last_price, Chart().last_at_ns) == (0, 0, 0)


def test_the_day_is_whole_and_no_more_than_it_is_kept() -> None:
    chart = Chart()
    for minute in range(2 * DAY_S // 60):
        chart.apply(tick(minute + 1, 10, 1, 60 * minute))
    assert chart.day(chart.last_at_ns).trades == DAY_S // 60
    assert len(chart.minutes) == DAY_S // 60


@pytest.mark.parametrize(
    ("first", "last", "bps"), [(0, 5, 0), (100, 100, 0), (100, 101, 100), (100, 99, -100), (3, 4, 3333), (3, 2, -3333)]
)
def test_change_in_basis_points(first: int, last: int, bps: int) -> None:
    assert change_bps(first, last) == bps


trades = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9), st.integers(0, 90)), min_size=1, max_size=60)


@given(trades, st.integers(0, 60))
def test_the_same_trades_make_the_same_candles_wherever_one_was_cut_off(rows, cut: int) -> None:
    """Someone who goes on from a stored chart has what someone has who saw all."""
    at_s, ticks = 0.0, []
    for number, (price, quantity, later_s) in enumerate(rows, start=1):
        at_s += later_s
        ticks.append(tick(number, price, quantity, at_s))
    whole, first = Chart(), Chart()
    for one in ticks:
        whole.apply(one)
    for one in ticks[:cut]:
        first.apply(one)
    second = Chart(first.last_sequence, first.last_price, first.last_at_ns, dict(first.current), first.minutes.copy())
    for one in ticks[max(0, cut - 3) :]:  # some come twice
        second.apply(one)
    assert second.current == whole.current
    assert second.day(ticks[-1].at_ns) == whole.day(ticks[-1].at_ns)
    assert first.finished + second.finished == whole.finished
