"""The ledger as a state machine: operations in, an answer or a refusal out, changes collected for one write.

Double entry: the postings of an operation sum to zero per asset. A user's balance has an available and a reserved part,
neither below zero. Only EXTERNAL (the world outside) may go below zero. What may never live here: I/O, clocks, ids made up.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from libs.money import MAX_UNITS, format_units
from libs.reasons import Reason, Refused
from services.wallet.core.operations import (
    EXTERNAL_ACCOUNT,
    FEES_ACCOUNT,
    Applied,
    BalanceAt,
    CancelWithdrawal,
    ConfirmWithdrawal,
    Deposit,
    Increase,
    Operation,
    Purpose,
    Recorded,
    Release,
    RequestWithdrawal,
    Reserve,
    SettleTrade,
    Transfer,
    contents_of,
)

BalanceKey = tuple[str, str]


class TornViewError(Exception):
    """Balances and reservations are not of the same moment. Read again, together; under locks it cannot be."""


# Entry n of an operation has the operation's id with this digit at the end; operation ids end in 0.
_ENTRY_DIGITS = "123456789abcdef"


class Balance(NamedTuple):
    """One account's amount of one asset; `sequence` is the number of its last entry."""

    available: int = 0
    reserved: int = 0
    sequence: int = 0


class Reservation(NamedTuple):
    """What is still held for one order (or withdrawal). Closed and empty before it was made means: never make it."""

    reservation_id: str
    user_id: str
    asset: str
    amount: int
    remaining: int
    closed: bool = False
    purpose: Purpose = Purpose.ORDER


class Posting(NamedTuple):
    """One account's part in an operation."""

    account_id: str
    asset: str
    available: int
    reserved: int


class Entry(NamedTuple):
    """A posting as it is booked: numbered per balance, with the balance after it."""

    entry_id: str
    operation_id: str
    operation: Operation
    posting: Posting
    sequence: int
    available_after: int
    reserved_after: int


@dataclass(slots=True)
class Changes:
    """What one batch changes; written in one statement."""

    entries: list[Entry] = field(default_factory=list)
    operations: list[tuple[Operation, Applied]] = field(default_factory=list)
    balances: set[BalanceKey] = field(default_factory=set)
    reservations: dict[str, bool] = field(default_factory=dict)  # order id -> whether it is new


def balances_needed(operation: Operation) -> tuple[BalanceKey, ...]:
    """The balances an operation reads or moves."""
    match operation:
        case Deposit() | ConfirmWithdrawal():
            return ((operation.user_id, operation.asset), (EXTERNAL_ACCOUNT, operation.asset))
        case Reserve() | Increase() | Release() | RequestWithdrawal() | CancelWithdrawal():
            return ((operation.user_id, operation.asset),)
        case Transfer():
            return ((operation.from_user_id, operation.asset), (operation.to_user_id, operation.asset))
        case SettleTrade():
            base, quote = operation.base_asset, operation.quote_asset
            return (
                (operation.buyer_user_id, base), (operation.buyer_user_id, quote),
                (operation.seller_user_id, base), (operation.seller_user_id, quote),
                (FEES_ACCOUNT, base), (FEES_ACCOUNT, quote),
            )  # fmt: skip


def reservations_needed(operation: Operation) -> tuple[str, ...]:
    """The reservations an operation reads, by order id. A Reserve makes one; that there is none yet, its key proves."""
    match operation:
        case Deposit() | Reserve() | Transfer() | RequestWithdrawal():
            return ()
        case Increase() | Release():
            return (operation.order_id,)
        case ConfirmWithdrawal() | CancelWithdrawal():
            return (operation.withdrawal_id,)
        case SettleTrade():
            return (operation.buyer_order_id, operation.seller_order_id)


class Ledger:
    """The part of the ledger that a batch needs, in memory. Every balance needed must be present."""

    def __init__(
        self,
        balances: dict[BalanceKey, Balance],
        reservations: dict[str, Reservation],
        recorded: dict[tuple[str, str], Recorded],
    ) -> None:
        self.balances = balances
        self.reservations = reservations
        self._recorded = recorded
        self.changes = Changes()

    def apply(self, operation: Operation, operation_id: str) -> Applied | Refused:
        """Do one operation, or refuse it without effect. A repeated key gives the recorded answer or KEY_REUSED."""
        assert operation_id.endswith("0"), "entry ids are made from the last digit"
        key = (operation.kind.value, operation.key)
        before = self._recorded.get(key)
        if before is not None:
            return _repeat(operation, before)
        outcome = self._decide(operation, operation_id)
        if isinstance(outcome, Applied):
            self.changes.operations.append((operation, outcome))
            self._recorded[key] = Recorded(contents_of(operation), outcome)
        return outcome

    def _decide(self, operation: Operation, operation_id: str) -> Applied | Refused:
        match operation:  # the frequent ones first
            case SettleTrade():
                return self._settle(operation, operation_id)
            case Reserve():
                return self._hold(operation, operation_id, operation.order_id, Purpose.ORDER)
            case Release():
                return self._release(operation, operation_id)
            case Increase():
                return self._increase(operation, operation_id)
            case Deposit():
                return self._deposit(operation, operation_id)
            case Transfer():
                return self._transfer(operation, operation_id)
            case RequestWithdrawal():
                return self._hold(operation, operation_id, operation.withdrawal_id, Purpose.WITHDRAWAL)
            case ConfirmWithdrawal() | CancelWithdrawal():
                return self._end_withdrawal(operation, operation_id)

    def _deposit(self, operation: Deposit, operation_id: str) -> Applied | Refused:
        user, asset, amount = operation.user_id, operation.asset, operation.amount
        outside = self.balances[(EXTERNAL_ACCOUNT, asset)]
        if _held(self.balances[(user, asset)]) + amount > MAX_UNITS or outside.available - amount < -MAX_UNITS:
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="amount", rule="the balance must stay below 10^12")
        self._book(
            operation, operation_id, (Posting(EXTERNAL_ACCOUNT, asset, -amount, 0), Posting(user, asset, amount, 0))
        )
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _hold(
        self, operation: Reserve | RequestWithdrawal, operation_id: str, hold_id: str, purpose: Purpose
    ) -> Applied | Refused:
        user, asset, amount = operation.user_id, operation.asset, operation.amount
        if hold_id in self.reservations:  # not recorded as held, so it was closed before it was made
            return Refused(Reason.RESERVATION_CLOSED, field="order_id")
        refused = self._check_available(user, asset, amount)
        if refused is not None:
            return refused
        self._book(operation, operation_id, (Posting(user, asset, -amount, amount),))
        self.reservations[hold_id] = Reservation(operation_id, user, asset, amount, amount, purpose=purpose)
        self.changes.reservations[hold_id] = True
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _increase(self, operation: Increase, operation_id: str) -> Applied | Refused:
        user, asset, amount = operation.user_id, operation.asset, operation.amount
        held = self.reservations.get(operation.order_id)
        if held is None:
            return Refused(Reason.RESERVATION_NOT_FOUND, field="order_id")
        refused = _check_owner(held, user, asset, field="order_id")
        if refused is not None:
            return refused
        if held.closed:
            return Refused(Reason.RESERVATION_CLOSED, field="order_id")
        refused = self._check_available(user, asset, amount)
        if refused is not None:
            return refused
        self._book(operation, operation_id, (Posting(user, asset, -amount, amount),))
        self.reservations[operation.order_id] = held._replace(
            amount=held.amount + amount, remaining=held.remaining + amount
        )
        self.changes.reservations.setdefault(operation.order_id, False)
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _transfer(self, operation: Transfer, operation_id: str) -> Applied | Refused:
        giver, taker, asset, amount = operation.from_user_id, operation.to_user_id, operation.asset, operation.amount
        refused = self._check_available(giver, asset, amount)
        if refused is not None:
            return refused
        if _held(self.balances[(taker, asset)]) + amount > MAX_UNITS:
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="amount", rule="the balance must stay below 10^12")
        self._book(operation, operation_id, (Posting(giver, asset, -amount, 0), Posting(taker, asset, amount, 0)))
        return Applied(operation_id, (self._balance_at(giver, asset), self._balance_at(taker, asset)))

    def _end_withdrawal(self, operation: ConfirmWithdrawal | CancelWithdrawal, operation_id: str) -> Applied | Refused:
        user, asset = operation.user_id, operation.asset
        held = self.reservations.get(operation.withdrawal_id)
        if held is None or held.user_id != user or held.purpose is not Purpose.WITHDRAWAL:
            return Refused(Reason.WITHDRAWAL_NOT_FOUND, field="withdrawal_id")
        if held.asset != asset:
            return Refused(Reason.ASSET_MISMATCH, field="asset", rule=f"the withdrawal is of {held.asset}")
        if held.closed:
            return Refused(Reason.WITHDRAWAL_CLOSED, field="withdrawal_id")
        amount = held.remaining
        if isinstance(operation, CancelWithdrawal):
            postings = [Posting(user, asset, amount, -amount)]
        else:
            postings = [Posting(user, asset, 0, -amount), Posting(EXTERNAL_ACCOUNT, asset, amount, 0)]
        self._book(operation, operation_id, postings)
        self._take(operation.withdrawal_id, amount, close=True)
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _check_available(self, user_id: str, asset: str, amount: int) -> Refused | None:
        available = self.balances[(user_id, asset)].available
        if available >= amount:
            return None
        detail = {"asset": asset, "available": format_units(available), "needed": format_units(amount)}
        return Refused(Reason.INSUFFICIENT_BALANCE, field="amount", detail=detail)

    def _release(self, operation: Release, operation_id: str) -> Applied | Refused:
        user, asset = operation.user_id, operation.asset
        held = self.reservations.get(operation.order_id)
        if held is None:
            if operation.amount is not None:
                return Refused(Reason.RESERVATION_NOT_FOUND, field="order_id")
            self.reservations[operation.order_id] = Reservation(operation_id, user, asset, 0, 0, closed=True)
            self.changes.reservations[operation.order_id] = True
            return Applied(operation_id, (self._balance_at(user, asset),))
        refused = _check_owner(held, user, asset, field="order_id")
        if refused is not None:
            return refused
        amount = held.remaining if operation.amount is None else operation.amount
        if amount > held.remaining:
            return _exhausted(held, amount, field="amount")
        if amount:
            self._book(operation, operation_id, (Posting(user, asset, amount, -amount),))
        self._take(operation.order_id, amount, close=operation.amount is None)
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _settle(self, operation: SettleTrade, operation_id: str) -> Applied | Refused:
        refused = self._check_settle(operation)
        if refused is not None:
            return refused
        buyer, seller = operation.buyer_user_id, operation.seller_user_id
        base, quote = operation.base_asset, operation.quote_asset
        quantity, notional = operation.quantity, operation.notional
        postings = [
            Posting(buyer, base, quantity - operation.buyer_fee, 0),
            Posting(seller, quote, notional - operation.seller_fee, 0),
            Posting(buyer, quote, operation.buyer_freed, -notional - operation.buyer_freed),
            Posting(seller, base, operation.seller_freed, -quantity - operation.seller_freed),
        ]
        if operation.buyer_fee:
            postings.append(Posting(FEES_ACCOUNT, base, operation.buyer_fee, 0))
        if operation.seller_fee:
            postings.append(Posting(FEES_ACCOUNT, quote, operation.seller_fee, 0))
        entry_ids = self._book(operation, operation_id, postings)
        self._take(operation.buyer_order_id, notional + operation.buyer_freed)
        self._take(operation.seller_order_id, quantity + operation.seller_freed)
        balances = tuple(self._balance_at(*key) for key in balances_needed(operation)[:4])
        return Applied(operation_id, balances, entry_ids[:2])

    def _check_settle(self, operation: SettleTrade) -> Refused | None:
        """Checks in the order in which they are documented: fees, buyer's reservation, seller's, size of balances."""
        quantity, notional = operation.quantity, operation.notional
        if operation.buyer_fee > quantity:
            return Refused(Reason.FEE_TOO_LARGE, field="buyer_fee", rule="at most what the buyer receives")
        if operation.seller_fee > notional:
            return Refused(Reason.FEE_TOO_LARGE, field="seller_fee", rule="at most what the seller receives")
        legs = (
            ("buyer", operation.buyer_order_id, operation.buyer_user_id, operation.quote_asset,
             notional + operation.buyer_freed),
            ("seller", operation.seller_order_id, operation.seller_user_id, operation.base_asset,
             quantity + operation.seller_freed),
        )  # fmt: skip
        for party, order_id, user, asset, needed in legs:
            held = self.reservations.get(order_id)
            if held is None:
                return Refused(Reason.RESERVATION_NOT_FOUND, field=f"{party}_order_id")
            refused = _check_owner(held, user, asset, field=f"{party}_order_id")
            if refused is not None:
                return refused
            if held.remaining < needed:
                return _exhausted(held, needed, field=f"{party}_order_id")
        for account, asset in balances_needed(operation):
            if _held(self.balances[(account, asset)]) + max(quantity, notional) > MAX_UNITS:
                return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule="the balance must stay below 10^12")
        return None

    def _take(self, order_id: str, amount: int, *, close: bool = False) -> None:
        held = self.reservations[order_id]
        assert 0 <= amount <= held.remaining, "checked before"
        self.reservations[order_id] = held._replace(remaining=held.remaining - amount, closed=held.closed or close)
        self.changes.reservations.setdefault(order_id, False)

    def _book(self, operation: Operation, operation_id: str, postings: Iterable[Posting]) -> tuple[str, ...]:
        entry_ids = []
        total: defaultdict[str, int] = defaultdict(int)
        for digit, posting in zip(_ENTRY_DIGITS, postings, strict=False):
            key = (posting.account_id, posting.asset)
            before = self.balances[key]
            after = Balance(
                before.available + posting.available, before.reserved + posting.reserved, before.sequence + 1
            )
            if after.reserved < 0:
                raise TornViewError(f"{key} holds less than its reservations")
            assert after.available >= 0 or posting.account_id == EXTERNAL_ACCOUNT, "checked before"
            total[posting.asset] += posting.available + posting.reserved
            self.balances[key] = after
            self.changes.balances.add(key)
            entry_id = operation_id[:-1] + digit
            entry_ids.append(entry_id)
            self.changes.entries.append(
                Entry(entry_id, operation_id, operation, posting, after.sequence, after.available, after.reserved)
            )
        assert not any(total.values()), "every operation sums to zero per asset"
        return tuple(entry_ids)

    def _balance_at(self, account_id: str, asset: str) -> BalanceAt:
        balance = self.balances[(account_id, asset)]
        return BalanceAt(asset, balance.available, balance.reserved)


def _held(balance: Balance) -> int:
    return balance.available + balance.reserved


def _repeat(operation: Operation, before: Recorded) -> Applied | Refused:
    contents = contents_of(operation)
    for name, value in contents.items():
        if before.contents.get(name) != value:
            return Refused(Reason.KEY_REUSED, field=name, detail={"key": operation.key})
    return before.answer


def _check_owner(held: Reservation, user_id: str, asset: str, *, field: str) -> Refused | None:
    if held.user_id != user_id or held.purpose is not Purpose.ORDER:
        return Refused(Reason.RESERVATION_NOT_FOUND, field=field)
    if held.asset != asset:
        return Refused(Reason.ASSET_MISMATCH, field=field, rule=f"the reservation holds {held.asset}")
    return None


def _exhausted(held: Reservation, needed: int, *, field: str) -> Refused:
    detail = {"available": format_units(held.remaining), "needed": format_units(needed)}
    return Refused(Reason.RESERVATION_EXHAUSTED, field=field, detail=detail)
