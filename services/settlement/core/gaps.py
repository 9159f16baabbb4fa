"""Trades are numbered from 1 without gaps in their symbol: what is missing can be told from the numbers alone."""

from collections.abc import Sequence

Span = tuple[int, int]


def missing_between(after: int, numbers: Sequence[int], until: int) -> list[Span]:
    """Spans (first, last) of the numbers after `after` up to `until` that are not among `numbers`, which are sorted."""
    spans = []
    expected = after + 1
    for number in numbers:
        if number > until:
            break
        if number > expected:
            spans.append((expected, number - 1))
        expected = max(expected, number + 1)
    if expected <= until:
        spans.append((expected, until))
    return spans


def whole_until(after: int, numbers: Sequence[int]) -> int:
    """The last number before the first gap, given that nothing is missing up to `after`."""
    reached = after
    for number in numbers:
        if number > reached + 1:
            break
        reached = max(reached, number)
    return reached


def count(spans: Sequence[Span]) -> int:
    """How many numbers are in these spans."""
    return sum(last - first + 1 for first, last in spans)
