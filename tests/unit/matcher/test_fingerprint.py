"""A commit's fingerprint: the same for ever for the same outcomes, another one for whatever is different."""

from typing import Any

import pytest

from libs.orders import Side, Status
from libs.reasons import Reason
from services.matcher.core.fingerprint import fingerprint
from services.matcher.core.orders import OrderState, Outcome, Trade
from tests.support.tables import Table

OTHER_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
EVENTFUL = """
    SELL 3 @ 101 alice
    SELL 2 @ 101 bob
    BUY 4 @ 102 carol
    BUY 1 @ 99 dave
    REDUCE dave#1 TO 0.5
    CANCEL dave#1
    BUY 1 @ 99.005 erin
    CANCEL nobody#1
"""


def outcomes() -> list[Outcome]:
    return Table().run(EVENTFUL)


def test_what_was_journaled_can_be_replayed_for_ever() -> None:
    """The number is in journals: where this fails, an engine that runs could not start on its own."""
    assert fingerprint(outcomes()) == 366_438_612
    assert fingerprint([]) == 1


def test_the_order_of_what_happened_counts() -> None:
    told = outcomes()
    assert fingerprint(told) != fingerprint([*told[1:], told[0]])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order_id", OTHER_ID), ("version", 9), ("status", Status.EXPIRED),
        ("reason", Reason.TIME_OVER), ("price", 1), ("quantity", 1), ("filled", 1), ("notional", 1), ("stop_price", 1),
        ("waiting", True), ("releases", (1,)), ("releases", (0, 1)),
    ],
)  # fmt: skip
def test_every_change_of_an_order_counts(field: str, value: Any) -> None:
    told = outcomes()
    before = fingerprint(told)
    state: OrderState = told[0].updates[0]
    setattr(state, field, value)
    assert fingerprint(told) != before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("buyer_order_id", OTHER_ID), ("seller_order_id", OTHER_ID),
        ("sequence", 9), ("maker_side", Side.BUY), ("price", 1), ("quantity", 1), ("buyer_fee", 1), ("seller_fee", 1),
    ],
)  # fmt: skip
def test_every_part_of_a_trade_counts(field: str, value: Any) -> None:
    told = outcomes()
    before = fingerprint(told)
    trade: Trade = told[2].trades[0]
    setattr(trade, field, value)
    assert fingerprint(told) != before


def test_a_refusal_counts() -> None:
    told = outcomes()
    before = fingerprint(told)
    assert told[-1].refusal is Reason.ORDER_NOT_FOUND
    told[-1].refusal = Reason.ORDER_CLOSED
    assert fingerprint(told) != before
