"""New orders from the texts and numbers that they are sent and journaled as. Ids are looked at where they come in."""

from libs.money import BPS, parse_optional, parse_positive
from libs.reasons import Reason, Refused, RefusedError
from services.matcher.core.choices import (
    BUY,
    FOK,
    GTD,
    IOC,
    LIMIT,
    MARKET,
    NOT_POST_ONLY,
    OCO,
    POST_ONLY,
    SELF_TRADES,
    SIDES,
    STOP,
    STOP_LIMIT,
    TIMES,
    TRAILING_STOP,
    TYPES,
)
from services.matcher.core.commands import NewOrder


def new_order(  # noqa: PLR0917 - by position it is twice as fast, and called once for each order
    order_id: str, user_id: str, symbol: str, side: int, kind: int, time_in_force: int, price: str, quantity: str,
    reserved: str, stop_price: str, stop_limit_price: str, trail: str, trail_bps: int, display_quantity: str, post_only: int,
    self_trade: int, expires_at_ns: int, session: str,
) -> NewOrder:  # fmt: skip
    """An order as the core knows it. Raises RefusedError for the first field that is malformed or does not fit."""
    try:
        buys, type_, time = SIDES[side] is BUY, TYPES[kind], TIMES[time_in_force]
        posts, self_trades = POST_ONLY[post_only], SELF_TRADES[self_trade or 1]
    except KeyError as error:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="side, type or time_in_force")) from error
    priced = type_ is LIMIT or type_ is STOP_LIMIT or type_ is OCO
    stops = type_ is STOP or type_ is STOP_LIMIT or type_ is OCO
    by_amount = type_ is MARKET and buys and not quantity
    order = NewOrder(
        order_id,
        user_id,
        symbol,
        SIDES[side],
        type_,
        time,
        parse_positive(price, field="price") if priced else _none(price, field="price"),
        0 if by_amount else parse_positive(quantity, field="quantity"),
        parse_positive(reserved, field="reserved"),
        parse_positive(stop_price, field="stop_price") if stops else _none(stop_price, field="stop_price"),
        parse_optional(stop_limit_price, field="stop_limit_price"),
        parse_optional(trail, field="trail"),
        trail_bps,
        parse_optional(display_quantity, field="display_quantity"),
        posts,
        self_trades,
        expires_at_ns,
        session,
    )
    _check_shape(order)
    return order


def _check_shape(order: NewOrder) -> None:
    """Which fields go together; the first that does not is the answer."""
    rests = order.type is LIMIT or order.type is STOP_LIMIT or order.type is OCO
    at_once = order.time_in_force is IOC or order.time_in_force is FOK
    wrong = ""
    if order.stop_limit_price and order.type is not OCO:
        wrong = "stop_limit_price"
    elif (order.type is TRAILING_STOP) != bool(order.trail or order.trail_bps):
        wrong = "trail"
    elif not 0 <= order.trail_bps < BPS or (order.trail and order.trail_bps):
        wrong = "trail_bps"
    elif order.display_quantity and (at_once or not rests):
        wrong = "display_quantity"
    elif order.post_only is not NOT_POST_ONLY and (at_once or not (order.type is LIMIT or order.type is OCO)):
        wrong = "post_only"
    elif (at_once and order.type is OCO) or (order.time_in_force is FOK and order.quantity == 0):
        wrong = "time_in_force"
    elif bool(order.expires_at_ns) != (order.time_in_force is GTD) or order.expires_at_ns < 0:
        wrong = "expires_at_ns"
    if wrong:
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field=wrong, rule=f"not with {order.type.name}"))


def _none(text: str, *, field: str) -> int:
    if text:
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field=field, rule="not with this type"))
    return 0
