"""Between protobuf and the core: requests checked field by field, orders and events put in words."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from exchange.common.v1 import order_pb2, symbol_pb2
from exchange.events.v1 import order_pb2 as order_events_pb2
from exchange.gateway.v1 import order_requests_pb2
from exchange.matcher.v1 import command_pb2
from exchange.wallet.v1 import operation_pb2

from libs.ids import parse_id, parse_text
from libs.money import format_units, parse_optional, parse_positive, parse_units
from libs.orders import OrderType, Side, Status, TimeInForce, symbol_name
from libs.reasons import Reason, Refused, RefusedError
from services.order_gateway.core.admission import Filters, OrderRequest
from services.order_gateway.core.records import OrderRow
from services.order_gateway.store import StateChange

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIDES = {1: Side.BUY, 2: Side.SELL}
_TYPES = {1: OrderType.LIMIT, 2: OrderType.MARKET}
_TIMES = {1: TimeInForce.GTC, 2: TimeInForce.IOC}


def order_request(message: order_requests_pb2.PlaceOrderRequest) -> tuple[str, OrderRequest]:
    """Client order id and request. Raises RefusedError for the first field that is not what it must be."""
    client_order_id = parse_text(message.client_order_id, field="client_order_id")
    if not message.symbol:
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="symbol"))
    if message.side not in _SIDES:
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="side", rule="SIDE_BUY or SIDE_SELL"))
    if message.type not in _TYPES:
        rule = "ORDER_TYPE_LIMIT or ORDER_TYPE_MARKET"
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="type", rule=rule))
    kind = _TYPES[message.type]
    time_in_force = message.time_in_force or (1 if kind is OrderType.LIMIT else 2)
    if time_in_force not in _TIMES:
        rule = "TIME_IN_FORCE_GTC or TIME_IN_FORCE_IOC"
        raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="time_in_force", rule=rule))
    return client_order_id, OrderRequest(
        symbol=symbol_name(message.symbol),
        side=_SIDES[message.side],
        type=kind,
        time_in_force=_TIMES[time_in_force],
        price=parse_positive(message.price, field="price") if message.price else 0,
        quantity=parse_positive(message.quantity, field="quantity") if message.quantity else 0,
        quote_amount=parse_positive(message.quote_amount, field="quote_amount") if message.quote_amount else 0,
    )


def order_named(
    message: order_requests_pb2.CancelOrderRequest | order_requests_pb2.ReduceOrderRequest,
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
    new_order = command_pb2.NewOrder(
        order_id=order.order_id,
        user_id=order.user_id,
        symbol=request.symbol,
        side=request.side.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        type=request.type.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        time_in_force=request.time_in_force.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        price=format_units(request.price) if request.price else "",
        quantity=format_units(request.quantity) if request.quantity else "",
        reserved=format_units(order.reservation.amount),
    )
    return command_pb2.Command(new_order=new_order)


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


def change_from(update: order_events_pb2.OrderUpdate) -> StateChange:
    """What an update changes in the record, once its releases are with the wallet."""
    return StateChange(
        order_id=update.order_id,
        status=Status(update.status),
        reason=Reason(update.reason),
        open_quantity=parse_optional(update.quantity, field="quantity"),
        filled_quantity=parse_units(update.filled_quantity, field="filled_quantity"),
        filled_notional=parse_units(update.filled_notional, field="filled_notional"),
        version=update.version,
        released=len(update.releases),
        updated_at=_EPOCH + timedelta(microseconds=update.updated_at_ns // 1000),
    )


def apply_update(order: OrderRow, update: order_events_pb2.OrderUpdate | None) -> order_pb2.Order:
    """The order as its owner sees it, with an update that is newer than the record (None: as recorded)."""
    request = order.request
    message = order_pb2.Order(
        order_id=order.order_id,
        user_id=order.user_id,
        client_order_id=order.client_order_id,
        symbol=request.symbol,
        side=request.side.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        type=request.type.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        time_in_force=request.time_in_force.value,  # type: ignore[arg-type]  # twins, kept equal by a test
        price=format_units(request.price) if request.price else "",
        quote_amount=format_units(request.quote_amount) if request.quote_amount else "",
    )
    message.created_at.FromDatetime(order.created_at)
    if update is None or update.version <= order.version:
        message.quantity = format_units(order.open_quantity) if request.quantity else ""
        message.filled_quantity = format_units(order.filled_quantity)
        message.filled_notional = format_units(order.filled_notional)
        message.status = order.status.value  # type: ignore[assignment]  # twins, kept equal by a test
        message.reason = order.reason.value  # type: ignore[assignment]  # twins, kept equal by a test
        message.version = order.version
        message.updated_at.FromDatetime(order.updated_at)
        return message
    message.quantity = update.quantity or (format_units(order.open_quantity) if request.quantity else "")
    message.filled_quantity = update.filled_quantity
    message.filled_notional = update.filled_notional
    message.status = update.status
    message.reason = update.reason
    message.version = update.version
    message.updated_at.FromDatetime(_EPOCH + timedelta(microseconds=update.updated_at_ns // 1000))
    return message


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
