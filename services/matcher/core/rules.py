"""What the engine refuses, in the order in which it looks. Everything else a gateway has told its user already.

An order that breaks a rule is REJECTED with the reason; the answer to a repeat is the same.
"""

from typing import Final

from libs.money import BPS, notional_units
from libs.orders import PostOnly
from libs.reasons import Reason
from services.matcher.core.choices import ACTIVE, GTD, LIMIT, NO_REASON, OCO, SELL, TRAILING_STOP, lives
from services.matcher.core.commands import AmendOrder, NewOrder, Symbol
from services.matcher.core.market import Market
from services.matcher.core.orders import Order
from services.matcher.core.stops import TRAILING_MAX

ORDERS_PER_BOOK_MAX: Final = 2_000_000


def broken_by_order(  # noqa: C901 - a list of rules
    command: NewOrder, market: Market, *, horizon_ms: int, at_ns: int
) -> Reason:
    """The first rule that a new order breaks; NONE where it breaks none."""
    symbol = market.symbol
    if horizon_ms and id_ms(command.order_id) <= horizon_ms:
        return Reason.TOO_LATE
    if symbol.status is not ACTIVE:
        return Reason.SYMBOL_NOT_TRADING
    if command.time_in_force is GTD and command.expires_at_ns <= at_ns:
        return Reason.TIME_OVER
    tick = symbol.tick
    if command.price % tick or command.stop_price % tick or command.stop_limit_price % tick:
        return Reason.PRICE_OFF_TICK
    if command.quantity % symbol.lot or command.display_quantity % symbol.lot:
        return Reason.QUANTITY_OFF_LOT
    if market.book.orders + market.stops.count >= ORDERS_PER_BOOK_MAX:
        return Reason.BOOK_FULL
    if command.type is TRAILING_STOP and len(market.stops.trailing) >= TRAILING_MAX:
        return Reason.BOOK_FULL
    if symbol.max_open_orders:
        owner = market.open.get(command.user_id)
        if owner is not None and owner.count >= symbol.max_open_orders:
            return Reason.TOO_MANY_OPEN_ORDERS
    if (command.type is LIMIT or command.type is OCO) and is_outside_band(command.price, market.last_price, symbol):
        return Reason.PRICE_OUTSIDE_BAND
    return Reason.RESERVATION_EXHAUSTED if command.reserved < _least_reserved(command) else NO_REASON


def broken_by_amend(  # noqa: C901 - a list of rules
    order: Order, command: AmendOrder, market: Market, extra: int
) -> tuple[Reason, str]:
    """The first rule that an amend breaks, in this order, and the field it is about."""
    symbol, price = market.symbol, command.price
    if not lives(order.status) or order in market.triggered:
        return Reason.ORDER_CLOSED, "order_id"
    if symbol.status is not ACTIVE:
        return Reason.SYMBOL_NOT_TRADING, "symbol"
    if price and not order.price:
        return Reason.FIELD_NOT_ALLOWED, "price"
    if command.stop_price and (not order.waiting or order.type is TRAILING_STOP):
        return Reason.FIELD_NOT_ALLOWED, "stop_price"
    if price % symbol.tick:
        return Reason.PRICE_OFF_TICK, "price"
    if command.stop_price % symbol.tick:
        return Reason.PRICE_OFF_TICK, "stop_price"
    quantity = order.quantity if command.quantity is None else command.quantity
    if command.only_less and quantity > order.quantity:
        return Reason.AMEND_NOT_REDUCING, "quantity"
    if quantity % symbol.lot:
        return Reason.QUANTITY_OFF_LOT, "quantity"
    if price and is_outside_band(price, market.last_price, symbol):
        return Reason.PRICE_OUTSIDE_BAND, "price"
    if quantity > order.filled and order.held + extra < _needs_after(order, command, quantity - order.filled):
        return Reason.RESERVATION_EXHAUSTED, "quantity" if quantity > order.quantity else "price"
    if price and order.post_only is PostOnly.REJECT and not order.waiting and _crosses(order, price, market):
        return Reason.POST_ONLY_WOULD_TRADE, "price"
    return NO_REASON, ""


def is_outside_band(price: int, last_price: int, symbol: Symbol) -> bool:
    """Whether a limit price is too far from the last trade; the edges of the band are inside."""
    band = symbol.price_band_bps
    return bool(band and last_price) and abs(price - last_price) * BPS > last_price * band


def _least_reserved(command: NewOrder) -> int:
    if command.side is SELL:
        return command.quantity
    if command.type is LIMIT:
        return notional_units(command.price, command.quantity)
    price = max(command.price, command.stop_limit_price)
    if command.type is OCO and not command.stop_limit_price:
        price = max(price, command.stop_price)  # then it goes on at any price, which is near this
    return notional_units(price, command.quantity) if price else 1


def id_ms(order_id: str) -> int:
    """The time in a UUIDv7, milliseconds since 1970 (RFC 9562, section 5.7)."""
    return int(order_id[:8] + order_id[9:13], 16)


def _crosses(order: Order, price: int, market: Market) -> bool:
    before, order.price = order.price, price
    crosses = market.would_trade(order)
    order.price = before
    return crosses


def _needs_after(order: Order, command: AmendOrder, remaining: int) -> int:
    """What must be held for an order after an amend: by the rule for new orders."""
    if order.side is SELL:
        return remaining
    price = command.price or order.price
    if order.type is OCO and order.waiting:
        price = max(price, order.stop_limit_price or command.stop_price or order.stop_price)
    return notional_units(price, remaining)
