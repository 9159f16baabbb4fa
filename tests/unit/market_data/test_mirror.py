"""A mirrored book is the book, to its depth."""

from hypothesis import given
from hypothesis import strategies as st

from libs.orders import Side
from services.market_data.core.mirror import MirrorBook

LEVELS = st.dictionaries(st.integers(1, 30), st.integers(1, 9), max_size=12)


def best(levels: dict[int, int], *, dear_first: bool) -> list[tuple[int, int]]:
    return sorted(levels.items(), reverse=dear_first)


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=6), st.integers(1, 15))
def test_changes_lead_from_any_book_to_any_other(books: list[tuple[dict, dict]], depth: int) -> None:
    asks, bids = books[0]
    mirror = MirrorBook()
    mirror.replace(asks.items(), bids.items())
    for next_asks, next_bids in books[1:]:
        changes = []
        for before, after in ((asks, next_asks), (bids, next_bids)):
            gone = [(price, 0) for price in before if price not in after]
            changes.append(gone + [item for item in after.items() if before.get(item[0]) != item[1]])
        mirror.change(*changes)
        asks, bids = next_asks, next_bids
        assert mirror.depth(Side.SELL, depth) == best(asks, dear_first=False)[:depth]
        assert mirror.depth(Side.BUY, depth) == best(bids, dear_first=True)[:depth]


def test_a_level_that_was_never_there_may_be_taken_away() -> None:
    mirror = MirrorBook()
    mirror.change([(5, 0)], [(4, 2)])
    assert mirror.depth(Side.SELL, 9) == []
    assert mirror.depth(Side.BUY, 9) == [(4, 2)]
