"""What can be asked of the ledger, and what it answers. Amounts are units of 10^-8."""

from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple, get_args

EXTERNAL_ACCOUNT = "00000000-0000-0000-0000-000000000001"
FEES_ACCOUNT = "00000000-0000-0000-0000-000000000002"
HOUSE_ACCOUNTS = frozenset({EXTERNAL_ACCOUNT, FEES_ACCOUNT})


class Kind(StrEnum):
    """Kinds of operation; a key is unique within its kind."""

    DEPOSIT = "DEPOSIT"
    RESERVE = "RESERVE"
    INCREASE = "INCREASE"
    RELEASE = "RELEASE"
    SETTLE = "SETTLE"
    TRANSFER = "TRANSFER"
    WITHDRAWAL_REQUEST = "WITHDRAWAL_REQUEST"
    WITHDRAWAL_CONFIRM = "WITHDRAWAL_CONFIRM"
    WITHDRAWAL_CANCEL = "WITHDRAWAL_CANCEL"


class Purpose(StrEnum):
    """What a reservation is for; one for a withdrawal has the withdrawal's id in place of an order's."""

    ORDER = "ORDER"
    WITHDRAWAL = "WITHDRAWAL"


@dataclass(frozen=True, slots=True)
class Deposit:
    """Credit a user from outside. Key: deposit_id."""

    user_id: str
    asset: str
    amount: int
    deposit_id: str

    kind = Kind.DEPOSIT

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.deposit_id


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold an amount for one order. Key: order_id."""

    user_id: str
    asset: str
    amount: int
    order_id: str
    reason: str = ""

    kind = Kind.RESERVE

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.order_id


@dataclass(frozen=True, slots=True)
class Release:
    """Free a part of a reservation; amount None frees what is left and closes it, even before it was made."""

    user_id: str
    asset: str
    amount: int | None
    order_id: str
    release_key: str
    reason: str = ""

    kind = Kind.RELEASE

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.release_key


@dataclass(frozen=True, slots=True)
class SettleTrade:
    """Move both assets of a trade out of the two reservations, fees to the house. Key: trade_id."""

    trade_id: str
    buyer_user_id: str
    seller_user_id: str
    buyer_order_id: str
    seller_order_id: str
    base_asset: str
    quote_asset: str
    quantity: int
    price: int
    notional: int
    buyer_fee: int = 0
    seller_fee: int = 0
    buyer_freed: int = 0
    seller_freed: int = 0

    kind = Kind.SETTLE

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.trade_id


@dataclass(frozen=True, slots=True)
class Increase:
    """Hold more for an order whose reservation is open."""

    user_id: str
    asset: str
    amount: int
    order_id: str
    increase_key: str

    kind = Kind.INCREASE

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.increase_key


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move an amount from one user to another. Key: transfer_id."""

    transfer_id: str
    from_user_id: str
    to_user_id: str
    asset: str
    amount: int
    reason: str = ""

    kind = Kind.TRANSFER

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.transfer_id


@dataclass(frozen=True, slots=True)
class RequestWithdrawal:
    """Hold an amount that is to leave. Key: withdrawal_id."""

    user_id: str
    asset: str
    amount: int
    withdrawal_id: str
    destination: str = ""

    kind = Kind.WITHDRAWAL_REQUEST

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.withdrawal_id


@dataclass(frozen=True, slots=True)
class ConfirmWithdrawal:
    """Book a held amount out. Key: withdrawal_id."""

    user_id: str
    asset: str
    withdrawal_id: str

    kind = Kind.WITHDRAWAL_CONFIRM

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.withdrawal_id


@dataclass(frozen=True, slots=True)
class CancelWithdrawal:
    """Give a held amount back. Key: withdrawal_id."""

    user_id: str
    asset: str
    withdrawal_id: str
    reason: str = ""

    kind = Kind.WITHDRAWAL_CANCEL

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.withdrawal_id


Operation = (
    Deposit
    | Reserve
    | Increase
    | Release
    | SettleTrade
    | Transfer
    | RequestWithdrawal
    | ConfirmWithdrawal
    | CancelWithdrawal
)


class BalanceAt(NamedTuple):
    """A balance as of an operation; `sequence` is the number of its last entry then."""

    asset: str
    available: int
    reserved: int
    sequence: int = 0


class Applied(NamedTuple):
    """The answer to an operation that was done: its id, the balances as of it, and for a trade the two credits."""

    operation_id: str
    balances: tuple[BalanceAt, ...]
    entry_ids: tuple[str, ...] = ()


class Recorded(NamedTuple):
    """An operation that was done before, itself or its contents as recorded, and its answer then."""

    contents: Operation | dict[str, str]
    answer: Applied


_FIELDS: dict[type, tuple[str, ...]] = {kind: tuple(item.name for item in fields(kind)) for kind in get_args(Operation)}
_VALUES = {kind: attrgetter(*names) for kind, names in _FIELDS.items()}


def contents_of(operation: Operation) -> dict[str, str]:
    """What makes two requests with one key the same; also what the record keeps."""
    kind = type(operation)
    return dict(zip(_FIELDS[kind], map(str, _VALUES[kind](operation)), strict=True))
