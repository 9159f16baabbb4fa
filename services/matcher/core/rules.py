"""What the engine refuses, in the order in which it looks. Everything else a gateway has told its user already.

An order that breaks a rule is REJECTED with the reason; the answer to a repeat is the same.
"""

from libs.money import BPS, notional_units
from libs.orders import OrderType, Side, SymbolStatus, TimeInForce
from libs.reasons import Reason
from services.matcher.core.commands import NewOrder, Symbol
from services.matcher.core.market import Market
from services.matcher.core.stops import TRAILING_MAX

ORDERS_PER_BOOK_MAX = 2_000_000
_AT_ONCE_IN_BOOK = frozenset({OrderType.LIMIT, OrderType.OCO})


def broken_by_order(command: NewOrder, market: Market, *, horizon_ms: int, at_ns: int) -> Reason:
    """The first rule that a new order breaks; NONE where it breaks none."""
    symbol = market.symbol
    if horizon_ms and id_ms(command.order_id) <= horizon_ms:
        return Reason.TOO_LATE
    if symbol.status is not SymbolStatus.ACTIVE:
        return Reason.SYMBOL_NOT_TRADING
    if command.time_in_force is TimeInForce.GTD and command.expires_at_ns <= at_ns:
        return Reason.TIME_OVER
    tick = symbol.tick
    if command.price % tick or command.stop_price % tick or command.stop_limit_price % tick:
        return Reason.PRICE_OFF_TICK
    if command.quantity % symbol.lot or command.display_quantity % symbol.lot:
        return Reason.QUANTITY_OFF_LOT
    if market.book.orders + market.stops.count >= ORDERS_PER_BOOK_MAX:
        return Reason.BOOK_FULL
    if command.type is OrderType.TRAILING_STOP and len(market.stops.trailing) >= TRAILING_MAX:
        return Reason.BOOK_FULL
    if symbol.max_open_orders and len(market.open.get(command.user_id, ())) >= symbol.max_open_orders:
        return Reason.TOO_MANY_OPEN_ORDERS
    if command.type in _AT_ONCE_IN_BOOK and is_outside_band(command.price, market.last_price, symbol):
        return Reason.PRICE_OUTSIDE_BAND
    return Reason.RESERVATION_EXHAUSTED if command.reserved < _least_reserved(command) else Reason.NONE


def is_outside_band(price: int, last_price: int, symbol: Symbol) -> bool:
    """Whether a limit price is too far from the last trade; the edges of the band are inside."""
    band = symbol.price_band_bps
    return bool(band and last_price) and abs(price - last_price) * BPS > last_price * band


def _least_reserved(command: NewOrder) -> int:
    if command.side is Side.SELL:
        return command.quantity
    if command.type is OrderType.LIMIT:
        return notional_units(command.price, command.quantity)
    price = max(command.price, command.stop_limit_price)
    if command.type is OrderType.OCO and not command.stop_limit_price:
        price = max(price, command.stop_price)  # then it goes on at any price, which is near this
    return notional_units(price, command.quantity) if price else 1


def id_ms(order_id: str) -> int:
    """The time in a UUIDv7, milliseconds since 1970 (RFC 9562, section 5.7)."""
    return int(order_id[:8] + order_id[9:13], 16)
