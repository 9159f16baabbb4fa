"""The engine's whole state as plain lists, and back: what a snapshot stores and what the state hash is of.

The lists are in an order that the state alone decides. What was loaded goes on exactly as what was dumped would have.
"""

import hashlib
import heapq
import json
from collections import deque
from typing import Any, Final

from libs.orders import Side, Status, SymbolStatus
from libs.reasons import Reason
from services.matcher.core.choices import POST_ONLY, SELF_TRADES, SIDES, TIMES, TYPES, lives
from services.matcher.core.commands import NewOrder, Symbol
from services.matcher.core.engine import Engine
from services.matcher.core.market import Market
from services.matcher.core.orders import Order, Trade

VERSION: Final = 1
_STATUSES: Final = {int(item): item for item in Status}
_REASONS: Final = {int(item): item for item in Reason}


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
        engine.remember_closed(order.order_id, at_ns)
    for order in engine.orders.values():
        if order.expires_at_ns and lives(order.status):
            heapq.heappush(engine.expiries, (order.expires_at_ns, order.order_id))
    return engine


def text_of(state: list[Any]) -> bytes:
    """A dumped state as it is stored and hashed."""
    return json.dumps(state, separators=(",", ":")).encode("ascii")


def state_hash(engine: Engine) -> str:
    """SHA-256 of the whole state, hex. Costs time in proportion to the state."""
    return hashlib.sha256(text_of(dump(engine))).hexdigest()


def _dump_market(market: Market) -> list[Any]:
    open_by_user = [
        [user_id, [order.order_id for order in owner.orders()]] for user_id, owner in sorted(market.open.items())
    ]
    return [
        _dump_symbol(market.symbol), market.trades, market.last_price, market.seen_price,
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
        order.level.quantity += shown - order.shown
        order.shown, order.waiting = shown, is_waiting
    for plain in waiting:
        order = engine.orders[plain] if isinstance(plain, str) else _load_order(engine, plain)
        stop_price = order.stop_price
        market.stops.add(order, 0)
        order.stop_price = stop_price
    market.triggered = deque([_load_order(engine, plain) for plain in triggered])
    for _, order_ids in open_by_user:
        for order_id in order_ids:
            market.remember_open(engine.orders[order_id])
    return market


def _dump_order(order: Order) -> list[Any]:
    """All of it but its places in the book, which the lists' order tells."""
    plain = [
        order.price, order.quantity, order.held, order.reserved_total, order.stop_price, order.stop_limit_price, order.trail,
        order.trail_bps, order.display, order.expires_at_ns, order.session, order.any_price, order.waiting, order.peak,
        order.remaining, order.shown, order.filled, order.notional, order.version, order.updated_ns,
    ]  # fmt: skip
    choices = [
        order.type.value, order.time_in_force.value, order.post_only.value, order.self_trade.value, order.status.value,
        order.reason.value,
    ]  # fmt: skip
    fills = [_dump_trade(trade) for trade in order.entry_fills]
    return [
        order.order_id, order.user_id, order.symbol, order.side.value, plain, choices, list(order.releases), fills
    ]  # fmt: skip


def _load_order(engine: Engine, stored: list[Any]) -> Order:
    order_id, user_id, symbol, side, plain, choices, releases, fills = stored
    kind, time_in_force, post_only, self_trade, status, reason = choices
    order = Order(NewOrder(order_id, user_id, symbol, SIDES[side], TYPES[kind], TIMES[time_in_force], 0, 0, 0), symbol)
    (
        order.price, order.quantity, order.held, order.reserved_total, order.stop_price, order.stop_limit_price, order.trail,
        order.trail_bps, order.display, order.expires_at_ns, order.session, order.any_price, order.waiting, order.peak,
        order.remaining, order.shown, order.filled, order.notional, order.version, order.updated_ns,
    ) = plain  # fmt: skip
    order.post_only, order.self_trade = POST_ONLY[post_only], SELF_TRADES[self_trade]
    order.status, order.reason = _STATUSES[status], _REASONS[reason]
    order.releases = tuple(releases)
    order.entry_fills = tuple([_load_trade(fill) for fill in fills])
    engine.orders[order_id] = order
    return order


def _dump_trade(trade: Trade) -> list[Any]:
    return [
        trade.trade_id, trade.sequence, _dump_symbol(trade.symbol), trade.price, trade.quantity, trade.buyer_user_id,
        trade.buyer_order_id, trade.seller_user_id, trade.seller_order_id, trade.maker_side.value, trade.buyer_fee,
        trade.seller_fee, trade.at_ns,
    ]  # fmt: skip


def _load_trade(stored: list[Any]) -> Trade:
    (
        trade_id, sequence, symbol, price, quantity, buyer_user_id, buyer_order_id, seller_user_id, seller_order_id,
        maker_side, buyer_fee, seller_fee, at_ns,
    ) = stored  # fmt: skip
    return Trade(
        trade_id, sequence, _load_symbol(symbol), price, quantity, buyer_user_id, buyer_order_id, seller_user_id,
        seller_order_id, SIDES[maker_side], buyer_fee, seller_fee, at_ns,
    )  # fmt: skip


def _dump_symbol(symbol: Symbol) -> list[Any]:
    return [
        symbol.name, symbol.base_asset, symbol.quote_asset, symbol.tick, symbol.lot, symbol.min_quantity,
        symbol.max_quantity, symbol.min_notional, symbol.maker_fee_bps, symbol.taker_fee_bps, symbol.market_band_bps,
        symbol.price_band_bps, symbol.max_open_orders, symbol.status.value,
    ]  # fmt: skip


def _load_symbol(stored: list[Any]) -> Symbol:
    (
        name, base_asset, quote_asset, tick, lot, min_quantity, max_quantity, min_notional, maker_fee_bps, taker_fee_bps,
        market_band_bps, price_band_bps, max_open_orders, status,
    ) = stored  # fmt: skip
    return Symbol(
        name, base_asset, quote_asset, tick, lot, min_quantity, max_quantity, min_notional, maker_fee_bps, taker_fee_bps,
        market_band_bps, price_band_bps, max_open_orders, SymbolStatus(status),
    )  # fmt: skip
