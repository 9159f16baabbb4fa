"""May this order be placed, and what must be reserved for it? Amounts are units of 10^-8.

The rules are checked in the order in which they stand here; the first broken one is the answer. docs/reservations.md
says why each kind of order reserves what it does.
"""

from dataclasses import dataclass, replace

from libs.money import BPS, MAX_UNITS, format_units, notional_units
from libs.orders import OrderType, PostOnly, SelfTrade, Side, TimeInForce
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
class Terms:
    """What only some kinds of order have; 0 means not given, times are nanoseconds since 1970 UTC."""

    stop_price: int = 0
    stop_limit_price: int = 0
    trail: int = 0
    trail_bps: int = 0
    display_quantity: int = 0
    post_only: PostOnly = PostOnly.OFF
    self_trade: SelfTrade = SelfTrade.CANCEL_NEWEST
    expires_at_ns: int = 0


PLAIN = Terms()


@dataclass(slots=True)
class OrderRequest:
    """An order as it was asked for; 0 means not given. Two requests with one client id are the same if this is.

    Nobody changes one; but frozen, making it would take three times as long.
    """

    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    price: int
    quantity: int
    quote_amount: int
    terms: Terms = PLAIN


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the wallet must hold before the matcher sees the order."""

    asset: str
    amount: int


_RESTING = frozenset({TimeInForce.GTC, TimeInForce.DAY, TimeInForce.GTD})
_TIMES: dict[OrderType, frozenset[TimeInForce]] = {
    OrderType.LIMIT: frozenset(TimeInForce),
    OrderType.MARKET: frozenset({TimeInForce.IOC, TimeInForce.FOK}),
    OrderType.STOP: _RESTING,
    OrderType.STOP_LIMIT: frozenset(TimeInForce),
    OrderType.TRAILING_STOP: _RESTING,
    OrderType.OCO: _RESTING,
}
_PRICED = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT, OrderType.OCO})
_STOPPED = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.OCO})


def needs_reference_price(request: OrderRequest) -> bool:
    """Whether the reservation depends on where the market is: a buy by quantity at whatever price, or one that trails."""
    by_quantity = request.side is Side.BUY and request.quantity > 0
    return by_quantity and request.type in {OrderType.MARKET, OrderType.TRAILING_STOP}


def admit(request: OrderRequest, filters: Filters, reference_price: int, now_ns: int) -> Reservation | Refused:
    """What to reserve, or why not. `reference_price` matters only where `needs_reference_price`; 0 means none."""
    return (
        _check_fields(request)
        or _check_terms(request, now_ns)
        or _check_filters(request, filters)
        or _reserve(request, filters, reference_price)
    )


def admit_amend(
    changed: OrderRequest, before: OrderRequest, *, filled: int, filters: Filters, reference_price: int, now_ns: int
) -> int | Refused:
    """How much more a changed order must hold than it held before, or why it may not be. Both are as of now.

    What is left of each is reserved as a new order would be; what the matcher finds superfluous it frees at once. What stays
    as it is need not go with filters that are newer than it.
    """
    refused = _check_fields(changed) or _check_terms(changed, now_ns) or _check_filters(changed, filters, before)
    if refused is not None:
        return refused
    if changed.quantity <= filled:
        return 0
    after = _reserve(replace(changed, quantity=changed.quantity - filled), filters, reference_price)
    held = _reserve(replace(before, quantity=max(0, before.quantity - filled)), filters, reference_price)
    if isinstance(after, Refused) or isinstance(held, Refused):
        return after if isinstance(after, Refused) else 0
    return max(0, after.amount - held.amount)


def difference(asked: OrderRequest, before: OrderRequest) -> str:
    """The first field in which two requests differ; "" where they are the same."""
    for name in OrderRequest.__slots__[:-1]:
        if getattr(asked, name) != getattr(before, name):
            return str(name)
    for name in Terms.__slots__:
        if getattr(asked.terms, name) != getattr(before.terms, name):
            return str(name).removesuffix("_ns")
    return ""


def _check_fields(request: OrderRequest) -> Refused | None:
    kind = request.type.name
    if request.type in _PRICED:
        if not request.price:
            return Refused(Reason.FIELD_REQUIRED, field="price", rule=f"a {kind} order has a price")
    elif request.price:
        return Refused(Reason.FIELD_NOT_ALLOWED, field="price", rule=f"a {kind} order has no price")
    if request.time_in_force not in _TIMES[request.type]:
        names = ", ".join(time.name for time in TimeInForce if time in _TIMES[request.type])
        return Refused(Reason.FIELD_NOT_ALLOWED, field="time_in_force", rule=f"a {kind} order is one of {names}")
    if request.quote_amount:
        if request.type is not OrderType.MARKET or request.side is Side.SELL:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="quote_amount", rule="only for market buys")
        if request.quantity:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="quote_amount", rule="either quantity or quote_amount")
        if request.time_in_force is TimeInForce.FOK:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="quote_amount", rule="FOK goes by quantity")
    elif not request.quantity:
        return Refused(Reason.FIELD_REQUIRED, field="quantity")
    return None


def _check_terms(request: OrderRequest, now_ns: int) -> Refused | None:
    """Fields that only some kinds of order have."""
    terms, kind = request.terms, request.type
    if terms is PLAIN and kind in {OrderType.LIMIT, OrderType.MARKET} and request.time_in_force is not TimeInForce.GTD:
        return None
    return _check_stop(terms, request) or _check_resting(terms, request) or _check_end(terms, request, now_ns)


def _check_stop(terms: Terms, request: OrderRequest) -> Refused | None:
    kind = request.type
    if kind in _STOPPED and not terms.stop_price:
        return Refused(Reason.FIELD_REQUIRED, field="stop_price", rule=f"a {kind.name} order has a stop price")
    if kind not in _STOPPED and terms.stop_price:
        return Refused(Reason.FIELD_NOT_ALLOWED, field="stop_price", rule=f"a {kind.name} order has none")
    if terms.stop_limit_price and kind is not OrderType.OCO:
        return Refused(Reason.FIELD_NOT_ALLOWED, field="stop_limit_price", rule="only for OCO")
    if kind is OrderType.OCO and (request.price > terms.stop_price) is (request.side is Side.BUY):
        rule = "below the price of a sell, above that of a buy"
        return Refused(Reason.FIELD_NOT_ALLOWED, field="stop_price", rule=rule)
    if kind is not OrderType.TRAILING_STOP and (terms.trail or terms.trail_bps):
        return Refused(Reason.FIELD_NOT_ALLOWED, field="trail", rule="only for TRAILING_STOP")
    if kind is OrderType.TRAILING_STOP and bool(terms.trail) is bool(terms.trail_bps):
        return Refused(Reason.FIELD_REQUIRED, field="trail", rule="either trail or trail_bps")
    if not 0 <= terms.trail_bps < BPS:
        return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="trail_bps", rule=f"1 to {BPS - 1}")
    return None


def _check_resting(terms: Terms, request: OrderRequest) -> Refused | None:
    rests = request.time_in_force in _RESTING
    if terms.display_quantity:
        if request.type not in _PRICED or not rests:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="display_quantity", rule="only for orders that rest")
        if terms.display_quantity > request.quantity:
            return Refused(Reason.QUANTITY_TOO_LARGE, field="display_quantity", rule="at most the quantity")
    if terms.post_only is not PostOnly.OFF and not (rests and request.type in {OrderType.LIMIT, OrderType.OCO}):
        return Refused(Reason.FIELD_NOT_ALLOWED, field="post_only", rule="only for LIMIT and OCO orders that rest")
    return None


def _check_end(terms: Terms, request: OrderRequest, now_ns: int) -> Refused | None:
    if request.time_in_force is not TimeInForce.GTD:
        if terms.expires_at_ns:
            return Refused(Reason.FIELD_NOT_ALLOWED, field="expires_at", rule="only for GTD")
        return None
    if not terms.expires_at_ns:
        return Refused(Reason.FIELD_REQUIRED, field="expires_at", rule="a GTD order has an end")
    if terms.expires_at_ns <= now_ns:
        return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="expires_at", rule="in the future")
    return None


def _check_filters(request: OrderRequest, filters: Filters, before: OrderRequest | None = None) -> Refused | None:
    return _check_prices(request, filters, before) or _check_quantities(request, filters, before)


def _prices(request: OrderRequest) -> dict[str, int]:
    terms = request.terms
    return {"price": request.price, "stop_price": terms.stop_price, "stop_limit_price": terms.stop_limit_price}


def _check_prices(request: OrderRequest, filters: Filters, before: OrderRequest | None) -> Refused | None:
    for field, price in _prices(request).items():
        if price % filters.tick and (before is None or price != _prices(before)[field]):
            rule = f"a multiple of {format_units(filters.tick)}"
            return Refused(Reason.PRICE_OFF_TICK, field=field, rule=rule)
    return None


def _check_quantities(request: OrderRequest, filters: Filters, before: OrderRequest | None) -> Refused | None:
    if request.quote_amount:
        if request.quote_amount < filters.min_notional:
            rule = f"at least {format_units(filters.min_notional)}"
            return Refused(Reason.NOTIONAL_TOO_SMALL, field="quote_amount", rule=rule)
        return None
    if before is None or request.quantity != before.quantity:
        refused = _check_size(request, filters)
        if refused is not None:
            return refused
    return _check_notional(request, filters)


def _check_size(request: OrderRequest, filters: Filters) -> Refused | None:
    for field, quantity in (("quantity", request.quantity), ("display_quantity", request.terms.display_quantity)):
        if quantity % filters.lot:
            rule = f"a multiple of {format_units(filters.lot)}"
            return Refused(Reason.QUANTITY_OFF_LOT, field=field, rule=rule)
    if request.quantity < filters.min_quantity:
        rule = f"at least {format_units(filters.min_quantity)}"
        return Refused(Reason.QUANTITY_TOO_SMALL, field="quantity", rule=rule)
    if request.quantity > filters.max_quantity:
        rule = f"at most {format_units(filters.max_quantity)}"
        return Refused(Reason.QUANTITY_TOO_LARGE, field="quantity", rule=rule)
    return None


def _check_notional(request: OrderRequest, filters: Filters) -> Refused | None:
    terms = request.terms
    price = request.price or terms.stop_price
    if price:
        if notional_units(max(price, terms.stop_price, terms.stop_limit_price), request.quantity) > MAX_UNITS:
            return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule="price x quantity must stay below 10^12")
        if notional_units(price, request.quantity) < filters.min_notional:
            rule = f"price x quantity at least {format_units(filters.min_notional)}"
            return Refused(Reason.NOTIONAL_TOO_SMALL, field="quantity", rule=rule)
    return None


def _reserve(request: OrderRequest, filters: Filters, reference_price: int) -> Reservation | Refused:
    if request.side is Side.SELL:
        return Reservation(filters.base_asset, request.quantity)
    if request.quote_amount:
        return Reservation(filters.quote_asset, request.quote_amount)
    if needs_reference_price(request) and not reference_price:
        return Refused(Reason.REFERENCE_PRICE_MISSING, detail={"symbol": filters.symbol})
    amount = notional_units(_dearest_price(request, filters, reference_price), request.quantity)
    if amount > MAX_UNITS:
        return Refused(Reason.AMOUNT_OUT_OF_RANGE, field="quantity", rule="price x quantity must stay below 10^12")
    return Reservation(filters.quote_asset, amount)


def _dearest_price(request: OrderRequest, filters: Filters, reference_price: int) -> int:
    """The highest price at which a buy may trade."""
    terms = request.terms
    match request.type:
        case OrderType.LIMIT | OrderType.STOP_LIMIT:
            return request.price
        case OrderType.MARKET:
            return _end_of_band(reference_price, filters)
        case OrderType.STOP:
            return _end_of_band(terms.stop_price, filters)
        case OrderType.TRAILING_STOP:
            distance = terms.trail or reference_price * terms.trail_bps // BPS
            return _end_of_band(reference_price + distance, filters)
        case OrderType.OCO:
            return max(request.price, terms.stop_limit_price or _end_of_band(terms.stop_price, filters))


def _end_of_band(price: int, filters: Filters) -> int:
    """Where an order at any price stops, counted from this one; a whole number of ticks."""
    worst = -(-price * (BPS + filters.market_band_bps) // BPS)
    return worst + -worst % filters.tick
