"""What the books are made of: balances, reservations, entries, and what a batch of operations changes of them."""

from dataclasses import dataclass

from mypy_extensions import mypyc_attr

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


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class Balance:
    """One account's amount of one asset; `sequence` is the number of its last entry."""

    available: int
    reserved: int
    sequence: int

    def __init__(self, available: int = 0, reserved: int = 0, sequence: int = 0) -> None:
        self.available = available
        self.reserved = reserved
        self.sequence = sequence


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class Reservation:
    """What is still held for one order (or withdrawal). Closed and empty before it was made means: never make it."""

    reservation_id: str
    user_id: str
    asset: str
    amount: int
    remaining: int
    closed: bool
    purpose: Purpose

    def __init__(  # noqa: PLR0917 - a record
        self, reservation_id: str, user_id: str, asset: str, amount: int, remaining: int, closed: bool = False,
        purpose: Purpose = Purpose.ORDER,
    ) -> None:  # fmt: skip
        self.reservation_id = reservation_id
        self.user_id = user_id
        self.asset = asset
        self.amount = amount
        self.remaining = remaining
        self.closed = closed
        self.purpose = purpose


@mypyc_attr(acyclic=True)
class Posting:
    """One account's part in an operation."""

    __slots__ = ("account_id", "asset", "available", "reserved")

    def __init__(self, account_id: str, asset: str, available: int, reserved: int) -> None:
        self.account_id = account_id
        self.asset = asset
        self.available = available
        self.reserved = reserved


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class Entries:
    """Postings as they are booked, numbered per balance, with the balance after them: a list for each column."""

    entry_ids: list[str]
    operation_ids: list[str]
    account_ids: list[str]
    assets: list[str]
    sequences: list[int]
    available_deltas: list[int]
    reserved_deltas: list[int]
    available_after: list[int]
    reserved_after: list[int]
    kinds: list[str]
    references: list[str]

    def __init__(self) -> None:
        self.entry_ids = []
        self.operation_ids = []
        self.account_ids = []
        self.assets = []
        self.sequences = []
        self.available_deltas = []
        self.reserved_deltas = []
        self.available_after = []
        self.reserved_after = []
        self.kinds = []
        self.references = []

    def add(  # noqa: PLR0917 - by position it is called directly once it is compiled
        self, entry_id: str, operation_id: str, posting: Posting, balance: Balance, kind: str, reference: str
    ) -> None:
        """Book a posting that is in the balance already."""
        self.entry_ids.append(entry_id)
        self.operation_ids.append(operation_id)
        self.account_ids.append(posting.account_id)
        self.assets.append(posting.asset)
        self.sequences.append(balance.sequence)
        self.available_deltas.append(posting.available)
        self.reserved_deltas.append(posting.reserved)
        self.available_after.append(balance.available)
        self.reserved_after.append(balance.reserved)
        self.kinds.append(kind)
        self.references.append(reference)

    def columns(self) -> list[list[str] | list[int]]:
        """In the order in which they are written."""
        return [
            self.entry_ids, self.operation_ids, self.account_ids, self.assets, self.sequences, self.available_deltas,
            self.reserved_deltas, self.available_after, self.reserved_after, self.kinds, self.references,
        ]  # fmt: skip


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class Changes:
    """What was changed since the last write, and on what that rests; written in one statement."""

    entries: Entries
    operations: list[tuple[Operation, Applied]]
    balances: dict[BalanceKey, int]  # -> the sequence before the first change
    reservations: dict[str, int | None]  # -> what was left before; None: it is new

    def __init__(self) -> None:
        self.entries = Entries()
        self.operations = []
        self.balances = {}
        self.reservations = {}


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
