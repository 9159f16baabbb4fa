"""What goes into the engine and what comes out. Prices, quantities and amounts are units of 10^-8, times nanoseconds."""

from typing import NamedTuple

from libs.orders import OrderType, Side, Status, TimeInForce
from libs.reasons import Reason


class Symbol(NamedTuple):
    """A market and its filters. price scale + quantity scale <= 8, which makes price x quantity exact."""

    name: str
    base_asset: str
    quote_asset: str
    tick: int
    lot: int
    min_quantity: int
    max_quantity: int
    min_notional: int
    maker_fee_bps: int
    taker_fee_bps: int
    market_band_bps: int


class NewOrder(NamedTuple):
    """An order whose funds are reserved. price 0: a market order. quantity 0: a market buy by quote amount."""

    order_id: str
    user_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    reserved: int


class CancelOrder(NamedTuple):
    """Take an order of this user out of the book."""

    order_id: str
    user_id: str
    symbol: str


class ReduceOrder(NamedTuple):
    """Lower an order's total quantity in place; at or below what is filled it cancels the rest."""

    order_id: str
    user_id: str
    symbol: str
    quantity: int


class Tombstone(NamedTuple):
    """Close an order that was never seen, so that a late submit is refused."""

    order_id: str
    user_id: str
    symbol: str


class PutSymbol(NamedTuple):
    """Add a symbol or replace its filters."""

    symbol: Symbol


Command = NewOrder | CancelOrder | ReduceOrder | Tombstone | PutSymbol


class Trade(NamedTuple):
    """One match. `sequence` counts the trades of the symbol from 1 without gaps."""

    trade_id: str
    sequence: int
    symbol: Symbol
    price: int
    quantity: int
    buyer_user_id: str
    buyer_order_id: str
    seller_user_id: str
    seller_order_id: str
    maker_side: Side
    buyer_fee: int
    seller_fee: int
    at_ns: int


class Order:
    """An order in the engine's memory, live or closed.

    `held` is what the wallet still holds for it: every fill consumes of it, every release frees of it, and when the
    order is closed it is zero. `releases` are the amounts freed so far, in order: release n has the key
    `<order_id>/<n>` at the wallet.
    """

    __slots__ = (
        "entry_fills", "filled", "held", "level", "notional", "order_id", "price", "quantity", "reason", "releases",
        "remaining", "side", "status", "symbol", "updated_ns", "user_id", "version",
    )  # fmt: skip

    def __init__(self, command: NewOrder | Tombstone, symbol: str) -> None:
        self.order_id = command.order_id
        self.user_id = command.user_id
        self.symbol = symbol
        if isinstance(command, NewOrder):
            self.side: Side = command.side
            self.price = command.price
            self.quantity = command.quantity
            self.held = command.reserved
        else:
            self.side, self.price, self.quantity, self.held = Side.BUY, 0, 0, 0
        self.remaining = self.quantity
        self.filled = 0
        self.notional = 0
        self.status = Status.PENDING
        self.reason = Reason.NONE
        self.version = 0
        self.releases: tuple[int, ...] = ()
        self.entry_fills: tuple[Trade, ...] = ()
        self.updated_ns = 0
        self.level: object = None


class OrderState(NamedTuple):
    """An order after one command."""

    order_id: str
    user_id: str
    symbol: str
    side: Side
    version: int
    status: Status
    reason: Reason
    quantity: int
    filled: int
    notional: int
    releases: tuple[int, ...]
    at_ns: int


class Outcome(NamedTuple):
    """What one command did.

    `order` is the order it was about (None for PutSymbol and refusals), `updates` every order that changed, `trades` in
    order. `refusal` says why nothing was done. On a repeat `fills` are those of the first time and `updates` is empty.
    """

    order: OrderState | None = None
    fills: tuple[Trade, ...] = ()
    updates: tuple[OrderState, ...] = ()
    trades: tuple[Trade, ...] = ()
    refusal: Reason = Reason.NONE
    refused_field: str = ""


def state_of(order: Order) -> OrderState:
    """The order as it is now."""
    return OrderState(
        order.order_id, order.user_id, order.symbol, order.side, order.version, order.status, order.reason,
        order.quantity, order.filled, order.notional, order.releases, order.updated_ns,
    )  # fmt: skip
