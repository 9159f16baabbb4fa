"""What is missing, told from numbers; how far behind, told from samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.settlement.core.gaps import count, missing_between, whole_until
from services.settlement.core.pace import Pace, Sample


@pytest.mark.parametrize(
    ("after", "numbers", "until", "spans"),
    [
        (0, [1, 2, 3], 3, []),
        (0, [], 0, []),
        (0, [], 3, [(1, 3)]),
        (0, [2], 3, [(1, 1), (3, 3)]),
        (5, [6, 9], 9, [(7, 8)]),
        (5, [6, 9, 11], 10, [(7, 8), (10, 10)]),
        (5, [6, 20], 10, [(7, 10)]),
    ],
)
def test_missing_numbers(after, numbers, until, spans) -> None:
    assert missing_between(after, numbers, until) == spans


@given(st.integers(0, 50), st.sets(st.integers(1, 100)), st.integers(0, 120))
def test_what_is_there_and_what_is_missing_make_up_the_whole(after, numbers, until) -> None:
    known = sorted(number for number in numbers if number > after)
    spans = missing_between(after, known, until)
    missing = {number for first, last in spans for number in range(first, last + 1)}
    assert missing == set(range(after + 1, until + 1)) - numbers
    assert count(spans) == len(missing)
    whole = whole_until(after, known)
    assert set(range(after + 1, whole + 1)) <= numbers
    assert whole + 1 not in numbers


def test_nothing_waits_where_all_is_settled() -> None:
    pace = Pace()
    for second in range(200):
        pace.add(Sample(float(second), matched=10 * second, settled=10 * second))
    assert (pace.unsettled(), pace.oldest_unsettled_s()) == (0, 0.0)
    assert pace.settled_per_s() == pytest.approx(10)
    assert len(pace.samples) < 65


def test_the_oldest_waits_since_it_was_first_seen_however_long_ago() -> None:
    pace = Pace()
    pace.add(Sample(0.0, matched=5, settled=5))
    for second in range(1, 301):
        pace.add(Sample(float(second), matched=6, settled=5))
    assert pace.unsettled() == 1
    assert pace.oldest_unsettled_s() == 299
    assert len(pace.samples) < 65
    pace.add(Sample(301.0, matched=9, settled=6))
    assert pace.oldest_unsettled_s() == 0, "those three were first seen now"


def test_without_samples_nothing_is_claimed() -> None:
    pace = Pace()
    assert (pace.unsettled(), pace.oldest_unsettled_s(), pace.settled_per_s(), pace.matched_per_s()) == (0, 0, 0, 0)


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace()
    for second in range(121):
        count = 600 if second > 90 else 0
        pace.add(Sample(float(second), matched=2 * count, settled=count))
    assert (pace.matched_per_s(), pace.settled_per_s()) == (20.0, 10.0)
    for second in range(121, 152):
        pace.add(Sample(float(second), matched=1200, settled=1200))
    assert (pace.matched_per_s(), pace.settled_per_s()) == (0.0, 10.0), "the first half was more than a minute ago"
