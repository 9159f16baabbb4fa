"""What the books are made of: balances, reservations, entries, and what a batch of operations changes of them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from services.wallet.core.operations import (
    EXTERNAL_ACCOUNT,
    FEES_ACCOUNT,
    Applied,
    CancelWithdrawal,
    ConfirmWithdrawal,
    Deposit,
    Increase,
    Operation,
    Purpose,
    Release,
    RequestWithdrawal,
    Reserve,
    SettleTrade,
    Transfer,
)

BalanceKey = tuple[str, str]


@dataclass(slots=True)
class Balance:
    """One account's amount of one asset; `sequence` is the number of its last entry."""

    available: int = 0
    reserved: int = 0
    sequence: int = 0


@dataclass(slots=True)
class Reservation:
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
    account_id: str
    asset: str
    sequence: int
    available_delta: int
    reserved_delta: int
    available_after: int
    reserved_after: int
    kind: str
    reference: str


@dataclass(slots=True)
class Changes:
    """What was changed since the last write, and on what that rests; written in one statement."""

    entries: list[Entry] = field(default_factory=list)
    operations: list[tuple[Operation, Applied]] = field(default_factory=list)
    balances: dict[BalanceKey, int] = field(default_factory=dict)  # -> the sequence before the first change
    reservations: dict[str, int | None] = field(default_factory=dict)  # -> what was left before; None: it is new


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
