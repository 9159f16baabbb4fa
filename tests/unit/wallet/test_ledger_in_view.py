"""What the ledger does where what it needs is not in view: it says so, and has changed nothing."""

import pytest

from libs.ids import new_id
from libs.money import MAX_UNITS
from libs.reasons import Reason, Refused
from services.wallet.core.books import Balance, Reservation
from services.wallet.core.ledger import Ledger, NotInViewError, TornViewError
from services.wallet.core.operations import (
    EXTERNAL_ACCOUNT,
    FEES_ACCOUNT,
    Applied,
    CancelWithdrawal,
    ConfirmWithdrawal,
    Deposit,
    Increase,
    Kind,
    Purpose,
    Release,
    RequestWithdrawal,
    Reserve,
    SettleTrade,
    Transfer,
)

ALICE, BOB = new_id(), new_id()
BUY, SELL, OUT = new_id(), new_id(), new_id()
ID = new_id()[:-1] + "0"


def whole_view() -> Ledger:
    balances = {(who, asset): Balance(1000, 500, 7) for who in (ALICE, BOB) for asset in ("BTC", "USDT")}
    balances |= {
        (who, asset): Balance(0, 0, 1) for who in (EXTERNAL_ACCOUNT, FEES_ACCOUNT) for asset in ("BTC", "USDT")
    }
    reservations: dict[str, Reservation | None] = {
        BUY: Reservation(new_id(), ALICE, "USDT", 400, 400),
        SELL: Reservation(new_id(), BOB, "BTC", 400, 400),
        OUT: Reservation(new_id(), ALICE, "BTC", 400, 400, purpose=Purpose.WITHDRAWAL),
    }
    return Ledger(balances, reservations, {})


OPERATIONS = [
    Deposit(ALICE, "BTC", 5, new_id()),
    Reserve(ALICE, "BTC", 5, new_id()),
    Increase(ALICE, "USDT", 5, BUY, "more"),
    Release(ALICE, "USDT", 5, BUY, "some"),
    Release(ALICE, "USDT", None, BUY, "all"),
    Transfer(new_id(), ALICE, BOB, "BTC", 5),
    ConfirmWithdrawal(ALICE, "BTC", OUT),
    SettleTrade(new_id(), ALICE, BOB, BUY, SELL, "BTC", "USDT", 10, 2 * 10**8, 20, 1, 1),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.kind)
def test_whatever_is_missing_nothing_is_half_done(operation) -> None:
    assert isinstance(whole_view().apply(operation, ID), Applied)
    missed = 0
    for part in ("balances", "reservations"):
        for key in getattr(whole_view(), part):
            ledger = whole_view()
            del getattr(ledger, part)[key]
            before = repr((ledger.balances, ledger.reservations, ledger.changes))
            try:
                ledger.apply(operation, ID)
            except NotInViewError:
                missed += 1
                assert repr((ledger.balances, ledger.reservations, ledger.changes)) == before
    assert missed >= 1, "some part is needed"


def test_a_torn_view_is_told_before_anything_is_booked() -> None:
    ledger = whole_view()
    ledger.balances[BOB, "BTC"].reserved = 3
    before = repr((ledger.balances, ledger.reservations, ledger.changes))
    with pytest.raises(TornViewError):
        ledger.apply(OPERATIONS[-1], ID)
    assert repr((ledger.balances, ledger.reservations, ledger.changes)) == before


# What is asked, whose balance it fills, and how much it adds to it.
FILLING = [
    (OPERATIONS[0], (ALICE, "BTC"), 5),
    (OPERATIONS[5], (BOB, "BTC"), 5),
    (SettleTrade(new_id(), ALICE, BOB, BUY, SELL, "BTC", "USDT", 10, 2 * 10**8, 20, 0, 0), (BOB, "USDT"), 20),
    (SettleTrade(new_id(), ALICE, BOB, BUY, SELL, "BTC", "USDT", 10, 2 * 10**8, 20, 4, 3), (ALICE, "BTC"), 6),
    (SettleTrade(new_id(), ALICE, BOB, BUY, SELL, "BTC", "USDT", 10, 2 * 10**8, 20, 4, 3), (FEES_ACCOUNT, "USDT"), 3),
]


@pytest.mark.parametrize(("operation", "filled", "more"), FILLING, ids=lambda part: type(part).__name__)
def test_a_balance_may_become_as_large_as_there_is_and_no_larger(operation, filled, more: int) -> None:
    ledger = whole_view()
    balance = ledger.balances[filled]
    balance.available = MAX_UNITS - balance.reserved - more
    assert isinstance(ledger.apply(operation, ID), Applied)
    assert balance.available + balance.reserved == MAX_UNITS
    ledger = whole_view()
    balance = ledger.balances[filled]
    balance.available = MAX_UNITS - balance.reserved - more + 1
    refused = ledger.apply(operation, ID)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.AMOUNT_OUT_OF_RANGE
    assert ledger.changes == whole_view().changes


@pytest.mark.parametrize(
    ("buyer_fee", "seller_fee", "field"), [(10, 20, ""), (11, 20, "buyer_fee"), (10, 21, "seller_fee")]
)
def test_a_fee_takes_all_that_is_received_at_most(buyer_fee: int, seller_fee: int, field: str) -> None:
    trade = SettleTrade(new_id(), ALICE, BOB, BUY, SELL, "BTC", "USDT", 10, 2 * 10**8, 20, buyer_fee, seller_fee)
    outcome = whole_view().apply(trade, ID)
    refused = (outcome.reason, outcome.field) if isinstance(outcome, Refused) else (Reason.NONE, "")
    assert refused == (Reason.FEE_TOO_LARGE if field else Reason.NONE, field)


def test_a_repeat_is_answered_while_the_first_is_being_written_and_after() -> None:
    ledger = whole_view()
    first = ledger.apply(OPERATIONS[0], ID)
    assert ledger.apply(OPERATIONS[0], ID) == first
    assert len(ledger.take_changes().operations) == 1
    assert ledger.apply(OPERATIONS[0], ID) == first
    assert not ledger.take_changes().operations


def test_every_operation_says_its_kind() -> None:
    kinds = {operation.kind for operation in OPERATIONS}
    kinds |= {RequestWithdrawal(ALICE, "BTC", 1, OUT).kind, CancelWithdrawal(ALICE, "BTC", OUT).kind}
    assert kinds == {kind.value for kind in Kind}
