"""May this order be placed, and what must be reserved for it? Amounts are units of 10^-8.

The rules are checked in the order in which they stand here; the first broken one is the answer. docs/reservations.md
says why each kind of order reserves what it does.
"""

from dataclasses import dataclass

from libs.money import BPS, MAX_UNITS, UNIT, format_units
from libs.orders import OrderType, Side, TimeInForce
from libs.reasons import Reason, Refused


@dataclass(frozen=True, slots=True)
class Filters:
    """A symbol's rules, as the matcher tells them."""

    symbol: str
    base_asset: str
    quote_asset: str
    tick: int
    lot: int
    min_quantity: int
    max_quantity: int
    min_notional: int
    market_band_bps: int


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order as it was asked for; 0 means not given. Two requests with one client id are the same if this is."""

    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    quote_amount: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the wallet must hold before the matcher sees the order."""

    asset: str
    amount: int


def needs_reference_price(request: OrderRequest) -> bool:
    """Whether the reservation depends on where the market is: a market buy by quantity."""
    return request.type is OrderType.MARKET and request.side is Side.BUY and request.quantity > 0


def admit(request: OrderRequest, filters: Filters, reference_price: int) -> Reservation | Refused:
    """What to reserve, or why not. `reference_price` matters only where `needs_reference_price`; 0 means none."""
    return _check_fields(request) or _check_filters(request, filters) or _reserve(request, filters, reference_price)


def difference(asked: OrderRequest, before: OrderRequest) -> str:
    """The first field in which two requests differ; "" where they are the same."""
    for name in OrderRequest.__slots__:
        if getattr(asked, name) != getattr(before, name):
            return str(name)
    return ""


def _check_fields(request: OrderRequest) -> Refused | None:
    if request.type is OrderType.LIMIT:
        if not request.price:
            return Refused(Reason.FIELD_REQUIRED, field="price", rule="a limit order has a price")
        if request.quote_amount:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="quote_amount", rule="only for market buys")
    else:
        if request.price:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="price", rule="a market order has no price")
        if request.time_in_force is not TimeInForce.IOC:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="time_in_force", rule="a market order is IOC")
        if request.quote_amount and request.side is Side.SELL:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="quote_amount", rule="only for market buys")
        if request.quote_amount and request.quantity:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="quote_amount", rule="either quantity or quote_amount")
    if not request.quantity and not request.quote_amount:
        return Refused(Reason.FIELD_REQUIRED, field="quantity")
    return None


def _check_filters(request: OrderRequest, filters: Filters) -> Refused | None:
    if request.price % filters.tick:
        rule = f"a multiple of {format_units(filters.tick)}"
        return Refused(Reason.PRICE_OFF_TICK, field="price", rule=rule)
    if request.quote_amount:
        if request.quote_amount < filters.min_notional:
            rule = f"at least {format_units(filters.min_notional)}"
            return Refused(Reason.NOTIONAL_TOO_SMALL, field="quote_amount", rule=rule)
        return None
    if request.quantity % filters.lot:
        rule = f"a multiple of {format_units(filters.lot)}"
        return Refused(Reason.QUANTITY_OFF_LOT, field="quantity", rule=rule)
    if request.quantity < filters.min_quantity:
        rule = f"at least {format_units(filters.min_quantity)}"
        return Refused(Reason.QUANTITY_TOO_SMALL, field="quantity", rule=rule)
    if request.quantity > filters.max_quantity:
        rule = f"at most {format_units(filters.max_quantity)}"
        return Refused(Reason.QUANTITY_TOO_LARGE, field="quantity", rule=rule)
    if request.price:
        notional = request.price * request.quantity // UNIT
        if notional > MAX_UNITS:
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule="price x quantity must stay below 10^12")
        if notional < filters.min_notional:
            rule = f"price x quantity at least {format_units(filters.min_notional)}"
            return Refused(Reason.NOTIONAL_TOO_SMALL, field="quantity", rule=rule)
    return None


def _reserve(request: OrderRequest, filters: Filters, reference_price: int) -> Reservation | Refused:
    if request.side is Side.SELL:
        return Reservation(filters.base_asset, request.quantity)
    if request.type is OrderType.LIMIT:
        return Reservation(filters.quote_asset, request.price * request.quantity // UNIT)
    if request.quote_amount:
        return Reservation(filters.quote_asset, request.quote_amount)
    if not reference_price:
        return Refused(Reason.REFERENCE_PRICE_MISSING, detail={"symbol": filters.symbol})
    worst = -(-reference_price * (BPS + filters.market_band_bps) // BPS)
    worst += -worst % filters.tick
    amount = worst * request.quantity // UNIT
    if amount > MAX_UNITS:
        return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule="price x quantity must stay below 10^12")
    return Reservation(filters.quote_asset, amount)
