"""What the engine keeps and tells: orders, trades, and what one command did."""

from typing import NamedTuple

from libs.orders import OrderType, PostOnly, SelfTrade, Side, Status, TimeInForce
from libs.reasons import Reason
from services.matcher.core.commands import NewOrder, Symbol, Tombstone


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


_ANY_PRICE = frozenset({OrderType.MARKET, OrderType.STOP, OrderType.TRAILING_STOP})


class Order:
    """An order in the engine's memory, live or closed.

    `held` is what the wallet still holds for it: every fill consumes of it, every release frees of it, and when the
    order is closed it is zero. `releases` are the amounts freed so far, in order: release n has the key
    `<order_id>/<n>` at the wallet.
    """

    __slots__ = (
        "any_price", "display", "entry_fills", "expires_at_ns", "filled", "held", "level", "notional", "order_id", "peak",
        "post_only", "price", "quantity", "reason", "releases", "remaining", "reserved_total", "self_trade", "session",
        "shown", "side", "status", "stop_level", "stop_limit_price", "stop_price", "symbol", "time_in_force", "trail",
        "trail_bps", "type", "updated_ns", "user_id", "version", "waiting",
    )  # fmt: skip

    def __init__(self, command: NewOrder, symbol: str) -> None:
        self.order_id = command.order_id
        self.user_id = command.user_id
        self.symbol = symbol
        self.side: Side = command.side
        self.type: OrderType = command.type
        self.time_in_force: TimeInForce = command.time_in_force
        self.price = command.price
        self.quantity = command.quantity
        self.held = self.reserved_total = command.reserved
        self.stop_price = command.stop_price
        self.stop_limit_price = command.stop_limit_price
        self.trail = command.trail
        self.trail_bps = command.trail_bps
        self.display = command.display_quantity
        self.post_only: PostOnly = command.post_only
        self.self_trade: SelfTrade = command.self_trade
        self.expires_at_ns = command.expires_at_ns
        self.session = command.session
        self.any_price = command.type in _ANY_PRICE  # as the incoming order
        self.waiting = False  # for its stop price
        self.peak = 0  # of a trailing stop: the best last price it has seen
        self.remaining = self.quantity
        self.shown = 0  # of what remains, in the book for all to see
        self.filled = 0
        self.notional = 0
        self.status = Status.PENDING
        self.reason = Reason.NONE
        self.version = 0
        self.releases: tuple[int, ...] = ()
        self.entry_fills: tuple[Trade, ...] = ()
        self.updated_ns = 0
        self.level: object = None
        self.stop_level: object = None


def never_seen(command: Tombstone) -> Order:
    """What stands in the place of an order that never came."""
    return Order(
        NewOrder(
            command.order_id, command.user_id, command.symbol, Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 0, 0, 0
        ),
        command.symbol,
    )


class OrderState(NamedTuple):
    """An order after one command."""

    order_id: str
    user_id: str
    symbol: str
    side: Side
    version: int
    status: Status
    reason: Reason
    price: int
    quantity: int
    filled: int
    notional: int
    releases: tuple[int, ...]
    at_ns: int
    stop_price: int
    waiting: bool


class Outcome(NamedTuple):
    """What one command did.

    `order` is the order it was about (None for commands about no single order, and refusals), `updates` every order that
    changed, `trades` in order. `fills` are the trades of `order` as the incoming one; on a repeat those of the first time,
    and `updates` is empty. `refusal` says why nothing was done. `left` tells how many steps of a bounded command remain.
    """

    order: OrderState | None = None
    fills: tuple[Trade, ...] = ()
    updates: tuple[OrderState, ...] = ()
    trades: tuple[Trade, ...] = ()
    refusal: Reason = Reason.NONE
    refused_field: str = ""
    left: int = 0


def state_of(order: Order) -> OrderState:
    """The order as it is now."""
    return OrderState(
        order.order_id, order.user_id, order.symbol, order.side, order.version, order.status, order.reason,
        order.price, order.quantity, order.filled, order.notional, order.releases, order.updated_ns, order.stop_price,
        order.waiting,
    )  # fmt: skip
