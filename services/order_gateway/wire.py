"""Between protobuf and the core: requests checked field by field, orders and events put in words."""

from collections.abc import Sequence

from exchange.common.v1 import order_pb2, symbol_pb2
from exchange.events.v1 import order_pb2 as order_events_pb2
from exchange.gateway.v1 import order_requests_pb2
from exchange.matcher.v1 import command_pb2
from exchange.wallet.v1 import operation_pb2

from libs.ids import parse_id, parse_text
from libs.money import format_units, own_units, parse_optional, parse_positive, parse_units
from libs.orders import OrderType, PostOnly, SelfTrade, Side, Status, TimeInForce, symbol_name
from libs.reasons import Reason, Refused, RefusedError
from libs.times import parse_time_ns, put_time, time_at
from services.order_gateway.core.admission import PLAIN, Filters, OrderRequest, Terms
from services.order_gateway.core.records import Amendment, Intent, OrderRow
from services.order_gateway.store import StateChange

_SIDES = {1: Side.BUY, 2: Side.SELL}
_TYPES = {item.value: item for item in OrderType}
_TIMES = {item.value: item for item in TimeInForce}
_POST_ONLY = {item.value: item for item in PostOnly}
_STATUSES = {item.value: item for item in Status}
_REASONS = {item.value: item for item in Reason}
_SELF_TRADE = {0: SelfTrade.CANCEL_NEWEST, **{item.value: item for item in SelfTrade}}


def order_request(message: order_requests_pb2.PlaceOrderRequest) -> tuple[str, OrderRequest]:
    """Client order id and request. Raises RefusedError for the first field that is not what it must be."""
    client_order_id = parse_text(message.client_order_id, field="client_order_id")
    if not message.symbol:
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="symbol"))
    if message.side not in _SIDES:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="side", rule="SIDE_BUY or SIDE_SELL"))
    if message.type not in _TYPES:
        rule = "one of ORDER_TYPE_..."
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="type", rule=rule))
    kind = _TYPES[message.type]
    time_in_force = message.time_in_force or (2 if kind is OrderType.MARKET else 1)
    if time_in_force not in _TIMES:
        rule = "one of TIME_IN_FORCE_..."
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="time_in_force", rule=rule))
    return client_order_id, OrderRequest(
        symbol=symbol_name(message.symbol),
        side=_SIDES[message.side],
        type=kind,
        time_in_force=_TIMES[time_in_force],
        price=parse_positive(message.price, field="price") if message.price else 0,
        quantity=parse_positive(message.quantity, field="quantity") if message.quantity else 0,
        quote_amount=parse_positive(message.quote_amount, field="quote_amount") if message.quote_amount else 0,
        terms=_terms(message),
    )


def _terms(message: order_requests_pb2.PlaceOrderRequest) -> Terms:
    """What only some kinds of order have."""
    if not (
        message.stop_price or message.stop_limit_price or message.trail or message.trail_bps or message.display_quantity
        or message.post_only or message.self_trade or message.HasField("expires_at")
    ):  # fmt: skip
        return PLAIN
    if message.post_only not in _POST_ONLY:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="post_only", rule="one of POST_ONLY_..."))
    if message.self_trade not in _SELF_TRADE:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="self_trade", rule="one of SELF_TRADE_..."))
    amounts = {
        field: parse_positive(getattr(message, field), field=field)
        for field in ("stop_price", "stop_limit_price", "trail", "display_quantity")
        if getattr(message, field)
    }
    terms = Terms(
        **amounts,
        trail_bps=message.trail_bps,
        post_only=_POST_ONLY[message.post_only],
        self_trade=_SELF_TRADE[message.self_trade],
        expires_at_ns=(parse_time_ns(message.expires_at, field="expires_at") if message.HasField("expires_at") else 0),
    )
    return PLAIN if terms == PLAIN else terms


def order_named(
    message: order_requests_pb2.CancelOrderRequest
    | order_requests_pb2.ReduceOrderRequest
    | order_requests_pb2.AmendOrderRequest,
) -> tuple[str, str]:
    """(order id, client order id), exactly one of them given. Raises RefusedError."""
    if message.order_id:
        if message.client_order_id:
            rule = "either order_id or client_order_id"
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="client_order_id", rule=rule))
        return parse_id(message.order_id, field="order_id"), ""
    if not message.client_order_id:
        rule = "order_id or client_order_id"
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="order_id", rule=rule))
    return "", parse_text(message.client_order_id, field="client_order_id")


def amendment_from(message: order_requests_pb2.AmendOrderRequest) -> Amendment:
    """What is to change. Raises RefusedError; FIELD_REQUIRED where nothing is named."""
    if not (message.price or message.quantity or message.stop_price):
        rule = "price, quantity or stop_price"
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="price", rule=rule))
    return Amendment(
        parse_positive(message.price, field="price") if message.price else 0,
        parse_units(message.quantity, field="quantity") if message.quantity else None,
        parse_positive(message.stop_price, field="stop_price") if message.stop_price else 0,
    )


def amend_command(
    order: OrderRow, amendment: Amendment, *, reserved_total: int = 0, only_less: bool = False
) -> command_pb2.Command:
    """A change as the matcher wants it."""
    return command_pb2.Command(
        amend=command_pb2.AmendOrder(
            order_id=order.order_id,
            user_id=order.user_id,
            symbol=order.request.symbol,
            price=format_units(amendment.price) if amendment.price else "",
            quantity="" if amendment.quantity is None else format_units(amendment.quantity),
            stop_price=format_units(amendment.stop_price) if amendment.stop_price else "",
            reserved_total=format_units(reserved_total) if reserved_total else "",
            only_less=only_less,
        )
    )


def increase_request(order: OrderRow, intent: Intent) -> operation_pb2.IncreaseReservationRequest:
    """What the wallet must hold more."""
    return operation_pb2.IncreaseReservationRequest(
        user_id=order.user_id,
        asset=order.reservation.asset,
        amount=format_units(intent.increase),
        order_id=order.order_id,
        key=f"{order.order_id}/increase/{intent.number}",
    )


def filters_from(symbol: symbol_pb2.Symbol) -> Filters:
    """A symbol's filters, as the matcher tells them."""
    return Filters(
        symbol=symbol.symbol,
        base_asset=symbol.base_asset,
        quote_asset=symbol.quote_asset,
        tick=parse_positive(symbol.tick_size, field="tick_size"),
        lot=parse_positive(symbol.lot_size, field="lot_size"),
        min_quantity=parse_positive(symbol.min_quantity, field="min_quantity"),
        max_quantity=parse_positive(symbol.max_quantity, field="max_quantity"),
        min_notional=parse_units(symbol.min_notional, field="min_notional"),
        market_band_bps=symbol.market_band_bps,
    )


def new_order_command(order: OrderRow) -> command_pb2.Command:
    """An order as the matcher wants it."""
    request = order.request
    command = command_pb2.Command()
    new_order = command.new_order
    new_order.order_id = order.order_id
    new_order.user_id = order.user_id
    new_order.symbol = request.symbol
    new_order.side = request.side  # type: ignore[assignment]  # twins, kept equal by a test
    new_order.type = request.type  # type: ignore[assignment]  # twins, kept equal by a test
    new_order.time_in_force = request.time_in_force  # type: ignore[assignment]  # twins, kept equal by a test
    if request.price:
        new_order.price = format_units(request.price)
    if request.quantity:
        new_order.quantity = format_units(request.quantity)
    new_order.reserved = format_units(order.reservation.amount)
    if order.session:
        new_order.session = order.session
    if request.terms is not PLAIN:
        _put_terms(new_order, request.terms)
        new_order.expires_at_ns = request.terms.expires_at_ns
    return command


def _put_terms(message: command_pb2.NewOrder | order_pb2.Order, terms: Terms) -> None:
    for field in ("stop_price", "stop_limit_price", "trail", "display_quantity"):
        if getattr(terms, field):
            setattr(message, field, format_units(getattr(terms, field)))
    message.trail_bps = terms.trail_bps
    message.post_only = terms.post_only  # type: ignore[assignment]  # twins, kept equal by a test
    message.self_trade = terms.self_trade  # type: ignore[assignment]  # twins, kept equal by a test


def reserve_request(order: OrderRow) -> operation_pb2.ReserveRequest:
    """What the wallet must hold for an order."""
    return operation_pb2.ReserveRequest(
        user_id=order.user_id,
        asset=order.reservation.asset,
        amount=format_units(order.reservation.amount),
        order_id=order.order_id,
        reason="order",
    )


def release_requests(
    update: order_events_pb2.OrderUpdate, *, already_released: int
) -> list[operation_pb2.ReleaseRequest]:
    """The releases of an update that the wallet has not seen yet, as far as the caller knows."""
    return [
        operation_pb2.ReleaseRequest(
            user_id=update.user_id,
            asset=release.asset,
            amount=release.amount,
            order_id=update.order_id,
            reason="freed by the matcher",
            key=release.key,
        )
        for release in update.releases[already_released:]
    ]


def close_request(order: OrderRow) -> operation_pb2.ReleaseRequest:
    """Free all that an order still holds, because the matcher never had it; also keeps a late Reserve out."""
    return operation_pb2.ReleaseRequest(
        user_id=order.user_id,
        asset=order.reservation.asset,
        order_id=order.order_id,
        reason="given up",
        key=f"{order.order_id}/close",
    )


def change_from(update: order_events_pb2.OrderUpdate, *, released: int) -> StateChange:
    """What an update changes in the record, with so many releases of the order being with the wallet.

    Raises RefusedError, KeyError or ValueError for one that is none of the matcher's.
    """
    return StateChange(
        order_id=update.order_id,
        status=_STATUSES[update.status],
        reason=_REASONS[update.reason],
        open_quantity=parse_optional(update.quantity, field="quantity"),
        filled_quantity=parse_units(update.filled_quantity, field="filled_quantity"),
        filled_notional=own_units(update.filled_notional),
        version=update.version,
        released=min(released, len(update.releases)),
        updated_at=time_at(update.updated_at_ns),
        open_price=parse_optional(update.price, field="price"),
        waiting=update.waiting,
        open_stop_price=parse_optional(update.stop_price, field="stop_price"),
        releases=len(update.releases),
    )


def apply_update(order: OrderRow, update: order_events_pb2.OrderUpdate | None) -> order_pb2.Order:
    """The order as its owner sees it, with an update that is newer than the record (None: as recorded)."""
    request = order.request
    message = order_pb2.Order(
        order_id=order.order_id,
        user_id=order.user_id,
        client_order_id=order.client_order_id,
        symbol=request.symbol,
        side=request.side,  # type: ignore[arg-type]  # twins, kept equal by a test
        type=request.type,  # type: ignore[arg-type]  # twins, kept equal by a test
        time_in_force=request.time_in_force,  # type: ignore[arg-type]  # twins, kept equal by a test
        quote_amount=format_units(request.quote_amount) if request.quote_amount else "",
    )
    if request.terms is not PLAIN:
        _put_terms(message, request.terms)
        if request.terms.expires_at_ns:
            message.expires_at.FromNanoseconds(request.terms.expires_at_ns)
    put_time(message.created_at, order.created_at)
    if update is None or update.version <= order.version:
        message.price = format_units(order.open_price) if order.open_price else ""
        message.waiting = order.waiting
        if order.open_stop_price:
            message.stop_price = format_units(order.open_stop_price)
        message.quantity = format_units(order.open_quantity) if request.quantity else ""
        message.filled_quantity = format_units(order.filled_quantity)
        message.filled_notional = format_units(order.filled_notional)
        message.status = order.status  # type: ignore[assignment]  # twins, kept equal by a test
        message.reason = order.reason  # type: ignore[assignment]  # twins, kept equal by a test
        message.version = order.version
        put_time(message.updated_at, order.updated_at)
        return message
    message.price = update.price
    message.waiting = update.waiting
    if update.stop_price:
        message.stop_price = update.stop_price
    message.quantity = update.quantity or (format_units(order.open_quantity) if request.quantity else "")
    message.filled_quantity = update.filled_quantity
    message.filled_notional = update.filled_notional
    message.status = update.status
    message.reason = update.reason
    message.version = update.version
    message.updated_at.FromMicroseconds(update.updated_at_ns // 1000)
    return message


def order_closed(order: OrderRow) -> Refused:
    """What is said of an order that is final."""
    return Refused(
        Reason.ORDER_CLOSED, field="order_id", detail={"order_id": order.order_id, "status": order.status.name}
    )


def refusal_in(result: command_pb2.CommandResult) -> Refused | None:
    """Why the matcher refused a command, if it did."""
    if not result.refusal:
        return None
    detail = {"order_id": result.order.order_id} if result.HasField("order") else {}
    if detail:
        detail["status"] = order_pb2.OrderStatus.Name(result.order.status).removeprefix("ORDER_STATUS_")
    return Refused(Reason(result.refusal), field=result.refused_field, detail=detail)


def orders_message(orders: Sequence[OrderRow]) -> list[order_pb2.Order]:
    """Orders as recorded."""
    return [apply_update(order, None) for order in orders]
