"""The engine's whole state as plain lists, and back: what a snapshot stores and what the state hash is of.

The lists are in an order that the state alone decides. What was loaded goes on exactly as what was dumped would have.
"""

import hashlib
import heapq
import json
from collections import deque
from typing import Any

from libs.orders import OrderType, PostOnly, SelfTrade, Side, Status, SymbolStatus, TimeInForce
from libs.reasons import Reason
from services.matcher.core.commands import NewOrder, Symbol
from services.matcher.core.engine import Engine
from services.matcher.core.market import Market
from services.matcher.core.orders import Order, Trade

VERSION = 1
# Every field of an order but its places in the book, which the lists' order tells.
_PLAIN = (
    "price", "quantity", "held", "reserved_total", "stop_price", "stop_limit_price", "trail", "trail_bps", "display",
    "expires_at_ns", "session", "any_price", "waiting", "peak", "remaining", "shown", "filled", "notional", "version",
    "updated_ns",
)  # fmt: skip
_ENUMS = {
    "type": OrderType, "time_in_force": TimeInForce, "post_only": PostOnly, "self_trade": SelfTrade, "status": Status,
    "reason": Reason,
}  # fmt: skip


def dump(engine: Engine) -> list[Any]:
    """The state as lists of numbers, texts and lists."""
    markets = [_dump_market(market) for _, market in sorted(engine.markets.items())]
    closed = [[at_ns, _dump_order(engine.orders[order_id])] for at_ns, order_id in engine.closed]
    return [VERSION, engine.horizon_ms, markets, closed]


def load(state: list[Any]) -> Engine:
    """An engine in this state. Raises ValueError where it was dumped by another version."""
    version, horizon_ms, markets, closed = state
    if version != VERSION:
        raise ValueError(f"a snapshot of version {version}, this reads {VERSION}")
    engine = Engine()
    engine.horizon_ms = horizon_ms
    for stored in markets:
        market = _load_market(engine, stored)
        engine.markets[market.symbol.name] = market
    for at_ns, stored in closed:
        order = _load_order(engine, stored)
        engine.closed.append((at_ns, order.order_id))
    for order in engine.orders.values():
        if order.expires_at_ns and order.status in {Status.OPEN, Status.PARTIALLY_FILLED}:
            heapq.heappush(engine.expiries, (order.expires_at_ns, order.order_id))
    return engine


def state_hash(engine: Engine) -> str:
    """SHA-256 of the whole state, hex. Costs time in proportion to the state."""
    text = json.dumps(dump(engine), separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _dump_market(market: Market) -> list[Any]:
    open_by_user = [[user_id, list(orders)] for user_id, orders in sorted(market.open.items())]
    return [
        list(market.symbol), market.trades, market.last_price, market.seen_price,
        [_dump_order(order) for side in Side for order in market.book.resting(side)],
        # An order that waits and rests, too (an OCO), is told in the book.
        [order.order_id if order.level is not None else _dump_order(order) for order in market.stops.waiting()],
        [_dump_order(order) for order in market.triggered],
        open_by_user,
    ]  # fmt: skip


def _load_market(engine: Engine, stored: list[Any]) -> Market:
    symbol, trades, last_price, seen_price, resting, waiting, triggered, open_by_user = stored
    market = Market(_load_symbol(symbol))
    market.trades, market.last_price, market.seen_price = trades, last_price, seen_price
    for plain in resting:
        order = _load_order(engine, plain)
        shown, is_waiting = order.shown, order.waiting
        market.book.add(order)
        # An iceberg's slice may be half gone.
        assert order.level is not None, "it was added"
        market.book.side(order.side).levels[order.level.key].quantity += shown - order.shown  # type: ignore[attr-defined]  # a Level
        order.shown, order.waiting = shown, is_waiting
    for plain in waiting:
        order = engine.orders[plain] if isinstance(plain, str) else _load_order(engine, plain)
        stop_price = order.stop_price
        market.stops.add(order, 0)
        order.stop_price = stop_price
    market.triggered = deque(_load_order(engine, plain) for plain in triggered)
    market.open = {
        user_id: {order_id: engine.orders[order_id] for order_id in order_ids} for user_id, order_ids in open_by_user
    }
    return market


def _dump_order(order: Order) -> list[Any]:
    return [
        order.order_id, order.user_id, order.symbol, int(order.side),
        [getattr(order, name) for name in _PLAIN], [int(getattr(order, name)) for name in _ENUMS],
        list(order.releases), [_dump_trade(trade) for trade in order.entry_fills],
    ]  # fmt: skip


def _load_order(engine: Engine, stored: list[Any]) -> Order:
    order_id, user_id, symbol, side, plain, enums, releases, fills = stored
    order = Order(NewOrder(order_id, user_id, symbol, Side(side), OrderType.LIMIT, TimeInForce.GTC, 0, 0, 0), symbol)
    for name, value in zip(_PLAIN, plain, strict=True):
        setattr(order, name, value)
    for (name, kind), value in zip(_ENUMS.items(), enums, strict=True):
        setattr(order, name, kind(value))
    order.releases = tuple(releases)
    order.entry_fills = tuple(_load_trade(fill) for fill in fills)
    engine.orders[order_id] = order
    return order


def _dump_trade(trade: Trade) -> list[Any]:
    return [list(field) if isinstance(field, Symbol) else field for field in trade]


def _load_trade(stored: list[Any]) -> Trade:
    trade = Trade(*stored)
    return trade._replace(symbol=_load_symbol(stored[2]), maker_side=Side(trade.maker_side))


def _load_symbol(stored: list[Any]) -> Symbol:
    symbol = Symbol(*stored)
    return symbol._replace(status=SymbolStatus(symbol.status))
