"""What the engine keeps and tells: orders, trades, and what one command did.

`acyclic` leaves objects out of garbage collection, which took a fifth of the core's time looking at a million orders. An
order and its neighbours in a queue do refer to each other, but only while it is live: whoever takes it out cuts that. So
the live orders of an engine that is dropped whole stay in memory; a process has one engine.
"""

from typing import TYPE_CHECKING

from mypy_extensions import mypyc_attr

from libs.orders import OrderType, PostOnly, SelfTrade, Side, TimeInForce
from libs.reasons import Reason
from services.matcher.core.choices import BUY, LIMIT, MARKET, NO_REASON, PENDING, STOP, TRAILING_STOP
from services.matcher.core.commands import NewOrder, Symbol, Tombstone

if TYPE_CHECKING:
    from services.matcher.core.book import Level


@mypyc_attr(acyclic=True)
class Trade:
    """One match. `sequence` counts the trades of the symbol from 1 without gaps."""

    __slots__ = (
        "at_ns", "buyer_fee", "buyer_order_id", "buyer_user_id", "maker_side", "price", "quantity", "seller_fee",
        "seller_order_id", "seller_user_id", "sequence", "symbol", "trade_id",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 - a record
        self, trade_id: str, sequence: int, symbol: Symbol, price: int, quantity: int, buyer_user_id: str,
        buyer_order_id: str, seller_user_id: str, seller_order_id: str, maker_side: Side, buyer_fee: int, seller_fee: int,
        at_ns: int,
    ) -> None:  # fmt: skip
        self.trade_id = trade_id
        self.sequence = sequence
        self.symbol = symbol
        self.price = price
        self.quantity = quantity
        self.buyer_user_id = buyer_user_id
        self.buyer_order_id = buyer_order_id
        self.seller_user_id = seller_user_id
        self.seller_order_id = seller_order_id
        self.maker_side = maker_side
        self.buyer_fee = buyer_fee
        self.seller_fee = seller_fee
        self.at_ns = at_ns


@mypyc_attr(acyclic=True)
class Order:
    """An order in the engine's memory, live or closed.

    `held` is what the wallet still holds for it: every fill consumes of it, every release frees of it, and when the
    order is closed it is zero. `releases` are the amounts freed so far, in order: release n has the key
    `<order_id>/<n>` at the wallet.
    """

    __slots__ = (
        "ahead", "any_price", "behind", "display", "entry_fills", "expires_at_ns", "filled", "held", "level", "newer",
        "notional", "older", "order_id", "owner", "peak", "post_only", "price", "quantity", "reason", "releases",
        "remaining", "reserved_total", "self_trade", "session", "shown", "side", "status", "stop_limit_price", "stop_price",
        "symbol", "time_in_force", "trail", "trail_bps", "type", "updated_ns", "user_id", "version", "waiting",
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
        # As the incoming order.
        self.any_price = command.type is MARKET or command.type is STOP or command.type is TRAILING_STOP
        self.waiting = False  # for its stop price
        self.peak = 0  # of a trailing stop: the best last price it has seen
        self.remaining = self.quantity
        self.shown = 0  # of what remains, in the book for all to see
        self.filled = 0
        self.notional = 0
        self.status = PENDING
        self.reason = NO_REASON
        self.version = 0
        self.releases: tuple[int, ...] = ()
        self.entry_fills: tuple[Trade, ...] = ()
        self.updated_ns = 0
        self.level: Level | None = None  # where it rests, between these two
        self.ahead: Order | None = None
        self.behind: Order | None = None
        self.owner: Owner | None = None  # whose live order it is, between these two
        self.older: Order | None = None
        self.newer: Order | None = None


@mypyc_attr(acyclic=True)
class Owner:
    """A user's live orders in one market, from the oldest on."""

    __slots__ = ("count", "newest", "oldest", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.count = 0
        self.oldest: Order | None = None
        self.newest: Order | None = None

    def add(self, order: Order) -> None:
        """Take in an order, as the newest."""
        newest = self.newest
        order.owner = self
        order.older = newest
        if newest is None:
            self.oldest = order
        else:
            newest.newer = order
        self.newest = order
        self.count += 1

    def remove(self, order: Order) -> None:
        """Take out an order."""
        older, newer = order.older, order.newer
        order.owner = None
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
            order.older = None
        if newer is None:
            self.newest = older
        else:
            newer.older = older
            order.newer = None
        self.count -= 1

    def orders(self) -> list[Order]:
        """All of them, oldest first."""
        orders: list[Order] = []
        order = self.oldest
        while order is not None:
            orders.append(order)
            order = order.newer
        return orders


def never_seen(command: Tombstone) -> Order:
    """What stands in the place of an order that never came."""
    return Order(
        NewOrder(command.order_id, command.user_id, command.symbol, BUY, LIMIT, TimeInForce.GTC, 0, 0, 0),
        command.symbol,
    )


@mypyc_attr(acyclic=True, free_list_len=1)
class OrderState:
    """An order as it is after one command."""

    __slots__ = (
        "at_ns", "filled", "notional", "order_id", "price", "quantity", "reason", "releases", "side", "status",
        "stop_price", "symbol", "user_id", "version", "waiting",
    )  # fmt: skip

    def __init__(self, order: Order) -> None:
        self.order_id = order.order_id
        self.user_id = order.user_id
        self.symbol = order.symbol
        self.side = order.side
        self.version = order.version
        self.status = order.status
        self.reason = order.reason
        self.price = order.price
        self.quantity = order.quantity
        self.filled = order.filled
        self.notional = order.notional
        self.releases = order.releases
        self.at_ns = order.updated_ns
        self.stop_price = order.stop_price
        self.waiting = order.waiting


@mypyc_attr(acyclic=True, free_list_len=1)
class Outcome:
    """What one command did.

    `order` is the order it was about (None for commands about no single order, and refusals), `updates` every order that
    changed, `trades` in order. `fills` are the trades of `order` as the incoming one; on a repeat those of the first time,
    and `updates` is empty. `refusal` says why nothing was done. `left` tells how many steps of a bounded command remain.
    """

    __slots__ = ("fills", "left", "order", "refusal", "refused_field", "trades", "updates")

    def __init__(
        self,
        order: OrderState | None = None,
        fills: tuple[Trade, ...] = (),
        updates: tuple[OrderState, ...] = (),
        trades: tuple[Trade, ...] = (),
        *,
        refusal: Reason = NO_REASON,
        refused_field: str = "",
        left: int = 0,
    ) -> None:
        self.order = order
        self.fills = fills
        self.updates = updates
        self.trades = trades
        self.refusal = refusal
        self.refused_field = refused_field
        self.left = left
