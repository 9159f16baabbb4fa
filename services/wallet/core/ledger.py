"""The ledger as a state machine: operations in, an answer or a refusal out, changes collected for one write.

Double entry: the postings of an operation sum to zero per asset. A user's balance has an available and a reserved part,
neither below zero. Only EXTERNAL (the world outside) may go below zero. What may never live here: I/O, clocks, ids made up.
"""

from collections.abc import Sequence

from libs.money import MAX_UNITS, format_units
from libs.reasons import Reason, Refused
from services.wallet.core.books import Balance, BalanceKey, Changes, Posting, Reservation
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


class NotInViewError(Exception):
    """A balance or reservation that the operation needs is not here. Nothing was changed."""


class TornViewError(Exception):
    """Balances and reservations are not of the same moment, so that what is decided on them would be wrong.

    Nothing was changed. Read again, together; under locks it cannot be.
    """


# Entry n of an operation has the operation's id with this digit at the end; operation ids end in 0.
_ENTRY_DIGITS = "123456789abcdef"


class Ledger:
    """Balances and reservations in memory, as far as they are known.

    A reservation of None is known not to exist. `recorded` are operations of long ago whose keys may be repeated.
    """

    def __init__(
        self,
        balances: dict[BalanceKey, Balance],
        reservations: dict[str, Reservation | None],
        recorded: dict[tuple[str, str], Recorded],
    ) -> None:
        self.balances = balances
        self.reservations = reservations
        self.changes = Changes()
        self._recorded = recorded
        self._recorded_before: dict[tuple[str, str], Recorded] = {}

    def apply(self, operation: Operation, operation_id: str) -> Applied | Refused:
        """Do one operation, or refuse it without effect. A repeated key gives the recorded answer or KEY_REUSED.

        Raises NotInViewError or TornViewError, without effect, where what is known here does not suffice.
        """
        assert operation_id.endswith("0"), "entry ids are made from the last digit"
        key = (operation.kind, operation.key)
        before = self._recorded.get(key) or self._recorded_before.get(key)
        if before is not None:
            return _repeat(operation, before)
        outcome = self._decide(operation, operation_id)
        if isinstance(outcome, Applied):
            self.changes.operations.append((operation, outcome))
            self._recorded[key] = Recorded(operation, outcome)
        return outcome

    def take_changes(self) -> Changes:
        """What was changed since this was called last; operations of the time before that are recorded no longer."""
        taken, self.changes = self.changes, Changes()
        self._recorded_before, self._recorded = self._recorded, {}
        return taken

    def _decide(self, operation: Operation, operation_id: str) -> Applied | Refused:
        # In a chain, the frequent ones first: compiled, a match takes several times as long to tell classes apart.
        if isinstance(operation, SettleTrade):
            return self._settle(operation, operation_id)
        if isinstance(operation, Reserve):
            return self._hold(operation, operation_id, operation.order_id, Purpose.ORDER)
        if isinstance(operation, Release):
            return self._release(operation, operation_id)
        if isinstance(operation, Increase):
            return self._increase(operation, operation_id)
        if isinstance(operation, Deposit):
            return self._deposit(operation, operation_id)
        if isinstance(operation, Transfer):
            return self._transfer(operation, operation_id)
        if isinstance(operation, RequestWithdrawal):
            return self._hold(operation, operation_id, operation.withdrawal_id, Purpose.WITHDRAWAL)
        return self._end_withdrawal(operation, operation_id)

    def _deposit(self, operation: Deposit, operation_id: str) -> Applied | Refused:
        user, asset, amount = operation.user_id, operation.asset, operation.amount
        outside = self._balance(EXTERNAL_ACCOUNT, asset)
        if _held(self._balance(user, asset)) + amount > MAX_UNITS or outside.available - amount < -MAX_UNITS:
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="amount", rule="the balance must stay below 10^12")
        self._book(
            operation, operation_id, (Posting(EXTERNAL_ACCOUNT, asset, -amount, 0), Posting(user, asset, amount, 0))
        )
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _hold(
        self, operation: Reserve | RequestWithdrawal, operation_id: str, hold_id: str, purpose: Purpose
    ) -> Applied | Refused:
        user, asset, amount = operation.user_id, operation.asset, operation.amount
        # Not recorded as held, so it was closed before it was made. What is not in view is new: the write proves it.
        if self.reservations.get(hold_id) is not None:
            return Refused(Reason.RESERVATION_CLOSED, field="order_id")
        refused = self._check_available(user, asset, amount)
        if refused is not None:
            return refused
        self._book(operation, operation_id, (Posting(user, asset, -amount, amount),))
        self.reservations[hold_id] = Reservation(operation_id, user, asset, amount, amount, purpose=purpose)
        self.changes.reservations[hold_id] = None
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _increase(self, operation: Increase, operation_id: str) -> Applied | Refused:
        user, asset, amount = operation.user_id, operation.asset, operation.amount
        held = self._reservation(operation.order_id)
        if held is None:
            return Refused(Reason.RESERVATION_NOT_FOUND, field="order_id")
        refused = _check_owner(held, user, asset, field="order_id")
        if refused is not None:
            return refused
        if held.closed:
            return Refused(Reason.RESERVATION_CLOSED, field="order_id")
        if held.amount + amount > MAX_UNITS:
            rule = "all that was ever held for an order must stay below 10^12"
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="amount", rule=rule)
        refused = self._check_available(user, asset, amount)
        if refused is not None:
            return refused
        self._book(operation, operation_id, (Posting(user, asset, -amount, amount),))
        self.changes.reservations.setdefault(operation.order_id, held.remaining)
        held.amount += amount
        held.remaining += amount
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _transfer(self, operation: Transfer, operation_id: str) -> Applied | Refused:
        giver, taker, asset, amount = operation.from_user_id, operation.to_user_id, operation.asset, operation.amount
        refused = self._check_available(giver, asset, amount)
        if refused is not None:
            return refused
        if _held(self._balance(taker, asset)) + amount > MAX_UNITS:
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="amount", rule="the balance must stay below 10^12")
        self._book(operation, operation_id, (Posting(giver, asset, -amount, 0), Posting(taker, asset, amount, 0)))
        return Applied(operation_id, (self._balance_at(giver, asset), self._balance_at(taker, asset)))

    def _end_withdrawal(self, operation: ConfirmWithdrawal | CancelWithdrawal, operation_id: str) -> Applied | Refused:
        user, asset = operation.user_id, operation.asset
        held = self._reservation(operation.withdrawal_id)
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
        self._take(operation.withdrawal_id, held, amount, close=True)
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _check_available(self, user_id: str, asset: str, amount: int) -> Refused | None:
        available = self._balance(user_id, asset).available
        if available >= amount:
            return None
        detail = {"asset": asset, "available": format_units(available), "needed": format_units(amount)}
        return Refused(Reason.INSUFFICIENT_BALANCE, field="amount", detail=detail)

    def _release(self, operation: Release, operation_id: str) -> Applied | Refused:
        user, asset = operation.user_id, operation.asset
        held = self._reservation(operation.order_id)
        self._balance(user, asset)  # not in view must be told before anything is changed
        if held is None:
            if operation.amount is not None:
                return Refused(Reason.RESERVATION_NOT_FOUND, field="order_id")
            self.reservations[operation.order_id] = Reservation(operation_id, user, asset, 0, 0, closed=True)
            self.changes.reservations[operation.order_id] = None
            return Applied(operation_id, (self._balance_at(user, asset),))
        refused = _check_owner(held, user, asset, field="order_id")
        if refused is not None:
            return refused
        amount = held.remaining if operation.amount is None else operation.amount
        if amount > held.remaining:
            return _exhausted(held, amount, field="amount")
        if amount:
            self._book(operation, operation_id, (Posting(user, asset, amount, -amount),))
        self._take(operation.order_id, held, amount, close=operation.amount is None)
        return Applied(operation_id, (self._balance_at(user, asset),))

    def _settle(self, operation: SettleTrade, operation_id: str) -> Applied | Refused:
        buyer, seller = operation.buyer_user_id, operation.seller_user_id
        base, quote = operation.base_asset, operation.quote_asset
        quantity, notional = operation.quantity, operation.notional
        if operation.buyer_fee > quantity:
            return Refused(Reason.FEE_TOO_LARGE, field="buyer_fee", rule="at most what the buyer receives")
        if operation.seller_fee > notional:
            return Refused(Reason.FEE_TOO_LARGE, field="seller_fee", rule="at most what the seller receives")
        from_buyer, from_seller = notional + operation.buyer_freed, quantity + operation.seller_freed
        bid = self._check_leg(operation.buyer_order_id, buyer, quote, from_buyer, field="buyer_order_id")
        if isinstance(bid, Refused):
            return bid
        ask = self._check_leg(operation.seller_order_id, seller, base, from_seller, field="seller_order_id")
        if isinstance(ask, Refused):
            return ask
        postings = [
            Posting(buyer, base, quantity - operation.buyer_fee, 0),
            Posting(seller, quote, notional - operation.seller_fee, 0),
            Posting(buyer, quote, operation.buyer_freed, -from_buyer),
            Posting(seller, base, operation.seller_freed, -from_seller),
        ]
        if operation.buyer_fee:
            postings.append(Posting(FEES_ACCOUNT, base, operation.buyer_fee, 0))
        if operation.seller_fee:
            postings.append(Posting(FEES_ACCOUNT, quote, operation.seller_fee, 0))
        for posting in postings:
            held = _held(self._balance(posting.account_id, posting.asset))
            if held + posting.available + posting.reserved > MAX_UNITS:
                return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule="the balance must stay below 10^12")
        entry_ids = self._book(operation, operation_id, postings)
        self._take(operation.buyer_order_id, bid, from_buyer)
        self._take(operation.seller_order_id, ask, from_seller)
        balances = (
            self._balance_at(buyer, base), self._balance_at(buyer, quote),
            self._balance_at(seller, base), self._balance_at(seller, quote),
        )  # fmt: skip
        return Applied(operation_id, balances, entry_ids[:2])

    def _check_leg(self, order_id: str, user: str, asset: str, needed: int, *, field: str) -> Reservation | Refused:
        """The reservation that one side of a trade is paid from."""
        held = self._reservation(order_id)
        if held is None:
            return Refused(Reason.RESERVATION_NOT_FOUND, field=field)
        refused = _check_owner(held, user, asset, field=field)
        if refused is not None:
            return refused
        return held if held.remaining >= needed else _exhausted(held, needed, field=field)

    def _take(self, order_id: str, held: Reservation, amount: int, *, close: bool = False) -> None:
        assert 0 <= amount <= held.remaining, "checked before"
        self.changes.reservations.setdefault(order_id, held.remaining)
        held.remaining -= amount
        held.closed = held.closed or close

    def _book(self, operation: Operation, operation_id: str, postings: Sequence[Posting]) -> tuple[str, ...]:
        """Book all of them, or raise before the first. Returns the entries' ids."""
        balances = [self._balance(posting.account_id, posting.asset) for posting in postings]
        total: dict[str, int] = {}
        for posting, balance in zip(postings, balances, strict=True):
            if balance.reserved + posting.reserved < 0:
                raise TornViewError(f"{posting.account_id} {posting.asset} holds less than its reservations")
            assert balance.available + posting.available >= 0 or posting.account_id == EXTERNAL_ACCOUNT, (
                "checked before"
            )
            total[posting.asset] = total.get(posting.asset, 0) + posting.available + posting.reserved
        assert not any(total.values()), "every operation sums to zero per asset"
        kind, reference, changes = operation.kind, operation.key, self.changes
        head = operation_id[:-1]
        entry_ids = []
        for number, posting in enumerate(postings):
            balance = balances[number]
            changes.balances.setdefault((posting.account_id, posting.asset), balance.sequence)
            balance.available += posting.available
            balance.reserved += posting.reserved
            balance.sequence += 1
            entry_id = head + _ENTRY_DIGITS[number]
            entry_ids.append(entry_id)
            changes.entries.add(entry_id, operation_id, posting, balance, kind, reference)
        return tuple(entry_ids)

    def _balance(self, account_id: str, asset: str) -> Balance:
        try:
            return self.balances[account_id, asset]
        except KeyError:
            raise NotInViewError(account_id, asset) from None

    def _reservation(self, order_id: str) -> Reservation | None:
        try:
            return self.reservations[order_id]
        except KeyError:
            raise NotInViewError(order_id) from None

    def _balance_at(self, account_id: str, asset: str) -> BalanceAt:
        balance = self.balances[account_id, asset]
        return BalanceAt(asset, balance.available, balance.reserved, balance.sequence)


def _held(balance: Balance) -> int:
    return balance.available + balance.reserved


def _repeat(operation: Operation, before: Recorded) -> Applied | Refused:
    earlier = before.contents if isinstance(before.contents, dict) else contents_of(before.contents)
    for name, value in contents_of(operation).items():
        if earlier.get(name) != value:
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
