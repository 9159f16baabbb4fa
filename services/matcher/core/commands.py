"""What goes into the engine. Prices, quantities and amounts are units of 10^-8, times nanoseconds since 1970 UTC.

Those that come all the time are made by a constructor of their own: compiled, it takes a sixth of what the one of
`dataclass` does.
"""

from dataclasses import dataclass

from mypy_extensions import mypyc_attr

from libs.orders import OrderType, PostOnly, SelfTrade, Side, SymbolStatus, TimeInForce


@dataclass(frozen=True)
class Symbol:
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
    market_band_bps: int  # a market order trades no further than this from the last trade
    price_band_bps: int = 0  # a limit price further than this from the last trade is refused; 0: none is
    max_open_orders: int = 0  # per user; 0: no limit
    status: SymbolStatus = SymbolStatus.ACTIVE


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class NewOrder:
    """An order whose funds are reserved.

    price 0: it takes any price. quantity 0: a market buy by quote amount, which is all that is reserved. A STOP waits for
    `stop_price` and is then a market order, a STOP_LIMIT a limit order at `price`. A TRAILING_STOP waits for the last
    trade to come back by `trail` (or `trail_bps`) from the best it has seen. An OCO rests at `price` and waits for
    `stop_price` at once: its first fill ends the waiting; if triggered it leaves the book and goes on at
    `stop_limit_price` (0: at any price).
    """

    order_id: str
    user_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    reserved: int
    stop_price: int
    stop_limit_price: int
    trail: int
    trail_bps: int
    display_quantity: int  # of an iceberg: what the book shows of it at a time
    post_only: PostOnly
    self_trade: SelfTrade
    expires_at_ns: int  # GTD only; a DAY order's is the next midnight UTC
    session: str  # cancelled with it

    def __init__(  # noqa: PLR0917 - a record
        self, order_id: str, user_id: str, symbol: str, side: Side, type: OrderType,  # noqa: A002 - the field's name
        time_in_force: TimeInForce, price: int, quantity: int, reserved: int, stop_price: int = 0, stop_limit_price: int = 0,
        trail: int = 0, trail_bps: int = 0, display_quantity: int = 0, post_only: PostOnly = PostOnly.OFF,
        self_trade: SelfTrade = SelfTrade.CANCEL_NEWEST, expires_at_ns: int = 0, session: str = "",
    ) -> None:  # fmt: skip
        self.order_id = order_id
        self.user_id = user_id
        self.symbol = symbol
        self.side = side
        self.type = type
        self.time_in_force = time_in_force
        self.price = price
        self.quantity = quantity
        self.reserved = reserved
        self.stop_price = stop_price
        self.stop_limit_price = stop_limit_price
        self.trail = trail
        self.trail_bps = trail_bps
        self.display_quantity = display_quantity
        self.post_only = post_only
        self.self_trade = self_trade
        self.expires_at_ns = expires_at_ns
        self.session = session


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class CancelOrder:
    """Take an order of this user out of the book."""

    order_id: str
    user_id: str
    symbol: str

    def __init__(self, order_id: str, user_id: str, symbol: str) -> None:
        self.order_id = order_id
        self.user_id = user_id
        self.symbol = symbol


@dataclass
class CancelAll:
    """Take out orders of this user, oldest first, at most CANCELLED_AT_ONCE_MAX; empty symbol or session: any."""

    user_id: str
    symbol: str = ""
    session: str = ""


@mypyc_attr(acyclic=True)
@dataclass(init=False)
class AmendOrder:
    """Change an order's price, total quantity or stop price in one step; 0 (None) leaves it as it is.

    Less quantity alone keeps its place in the queue, at or below what is filled it cancels the rest; anything else goes
    to the back, trading first if it crosses. `reserved_total` is all that was ever reserved for the order, first and by
    increases; what of it is not needed, or all that is new where the change is refused, is set free. With `only_less` a
    quantity that is not less is refused.
    """

    order_id: str
    user_id: str
    symbol: str
    price: int
    quantity: int | None
    stop_price: int
    reserved_total: int
    only_less: bool

    def __init__(  # noqa: PLR0917 - a record
        self, order_id: str, user_id: str, symbol: str, price: int = 0, quantity: int | None = None, stop_price: int = 0,
        reserved_total: int = 0, only_less: bool = False,
    ) -> None:  # fmt: skip
        self.order_id = order_id
        self.user_id = user_id
        self.symbol = symbol
        self.price = price
        self.quantity = quantity
        self.stop_price = stop_price
        self.reserved_total = reserved_total
        self.only_less = only_less


@dataclass
class Tombstone:
    """Close an order that was never seen, so that a late submit is refused."""

    order_id: str
    user_id: str
    symbol: str


@dataclass
class AskOrder:
    """Not a command: a question, asked between commands."""

    order_id: str
    user_id: str
    symbol: str


@dataclass
class PutSymbol:
    """Add a symbol or replace its filters and status."""

    symbol: Symbol


@dataclass
class Tick:
    """Do what time has made due, at most DUE_AT_ONCE_MAX steps of it."""


Command = NewOrder | CancelOrder | CancelAll | AmendOrder | Tombstone | PutSymbol | Tick
