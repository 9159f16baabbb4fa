"""What can be asked of the ledger, and what it answers. Amounts are units of 10^-8.

Those that come all the time are made by a constructor of their own: compiled, it takes a sixth of what the one of
`dataclass` does.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple, get_args

from mypy_extensions import mypyc_attr

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


@mypyc_attr(acyclic=True)
@dataclass
class Deposit:
    """Credit a user from outside. Key: deposit_id."""

    user_id: str
    asset: str
    amount: int
    deposit_id: str

    @property
    def kind(self) -> str:
        """What is done."""
        return "DEPOSIT"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.deposit_id


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class Reserve:
    """Hold an amount for one order. Key: order_id."""

    user_id: str
    asset: str
    amount: int
    order_id: str
    reason: str

    def __init__(self, user_id: str, asset: str, amount: int, order_id: str, reason: str = "") -> None:
        self.user_id = user_id
        self.asset = asset
        self.amount = amount
        self.order_id = order_id
        self.reason = reason

    @property
    def kind(self) -> str:
        """What is done."""
        return "RESERVE"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.order_id


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class Release:
    """Free a part of a reservation; amount None frees what is left and closes it, even before it was made."""

    user_id: str
    asset: str
    amount: int | None
    order_id: str
    release_key: str
    reason: str

    def __init__(  # noqa: PLR0917 - a record
        self, user_id: str, asset: str, amount: int | None, order_id: str, release_key: str, reason: str = ""
    ) -> None:
        self.user_id = user_id
        self.asset = asset
        self.amount = amount
        self.order_id = order_id
        self.release_key = release_key
        self.reason = reason

    @property
    def kind(self) -> str:
        """What is done."""
        return "RELEASE"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.release_key


@mypyc_attr(acyclic=True)
@dataclass(init=False)
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
    buyer_fee: int
    seller_fee: int
    buyer_freed: int
    seller_freed: int

    def __init__(  # noqa: PLR0917 - a record
        self, trade_id: str, buyer_user_id: str, seller_user_id: str, buyer_order_id: str, seller_order_id: str,
        base_asset: str, quote_asset: str, quantity: int, price: int, notional: int, buyer_fee: int = 0,
        seller_fee: int = 0, buyer_freed: int = 0, seller_freed: int = 0,
    ) -> None:  # fmt: skip
        self.trade_id = trade_id
        self.buyer_user_id = buyer_user_id
        self.seller_user_id = seller_user_id
        self.buyer_order_id = buyer_order_id
        self.seller_order_id = seller_order_id
        self.base_asset = base_asset
        self.quote_asset = quote_asset
        self.quantity = quantity
        self.price = price
        self.notional = notional
        self.buyer_fee = buyer_fee
        self.seller_fee = seller_fee
        self.buyer_freed = buyer_freed
        self.seller_freed = seller_freed

    @property
    def kind(self) -> str:
        """What is done."""
        return "SETTLE"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.trade_id


@mypyc_attr(acyclic=True)
@dataclass
class Increase:
    """Hold more for an order whose reservation is open."""

    user_id: str
    asset: str
    amount: int
    order_id: str
    increase_key: str

    @property
    def kind(self) -> str:
        """What is done."""
        return "INCREASE"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.increase_key


@mypyc_attr(acyclic=True)
@dataclass
class Transfer:
    """Move an amount from one user to another. Key: transfer_id."""

    transfer_id: str
    from_user_id: str
    to_user_id: str
    asset: str
    amount: int
    reason: str = ""

    @property
    def kind(self) -> str:
        """What is done."""
        return "TRANSFER"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.transfer_id


@mypyc_attr(acyclic=True)
@dataclass
class RequestWithdrawal:
    """Hold an amount that is to leave. Key: withdrawal_id."""

    user_id: str
    asset: str
    amount: int
    withdrawal_id: str
    destination: str = ""

    @property
    def kind(self) -> str:
        """What is done."""
        return "WITHDRAWAL_REQUEST"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.withdrawal_id


@mypyc_attr(acyclic=True)
@dataclass
class ConfirmWithdrawal:
    """Book a held amount out. Key: withdrawal_id."""

    user_id: str
    asset: str
    withdrawal_id: str

    @property
    def kind(self) -> str:
        """What is done."""
        return "WITHDRAWAL_CONFIRM"

    @property
    def key(self) -> str:
        """Idempotency key."""
        return self.withdrawal_id


@mypyc_attr(acyclic=True)
@dataclass
class CancelWithdrawal:
    """Give a held amount back. Key: withdrawal_id."""

    user_id: str
    asset: str
    withdrawal_id: str
    reason: str = ""

    @property
    def kind(self) -> str:
        """What is done."""
        return "WITHDRAWAL_CANCEL"

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
