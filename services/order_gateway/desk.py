"""The desk where orders are taken: what a caller asks for, checked, as an item of the intake's queue."""

from datetime import UTC, datetime

from exchange.gateway.v1 import order_requests_pb2

from libs.ids import new_id
from libs.money import parse_units
from libs.orders import Status
from libs.reasons import Reason, RefusedError
from libs.rpc.server import current_caller
from services.order_gateway.clients import MatcherClient
from services.order_gateway.core.admission import Reservation, admit, needs_reference_price
from services.order_gateway.core.records import Amendment, OrderRow
from services.order_gateway.items import Change, Place
from services.order_gateway.rates import OrderRate
from services.order_gateway.store import OrderStore
from services.order_gateway.wire import amendment_from, order_named, order_request

# What an order is refused for now that was accepted before: time has gone by, an operator has changed the market.
_LATER = frozenset({
    Reason.PRICE_OFF_TICK, Reason.QUANTITY_OFF_LOT, Reason.QUANTITY_TOO_SMALL, Reason.QUANTITY_TOO_LARGE,
    Reason.NOTIONAL_TOO_SMALL, Reason.AMOUNT_OUT_OF_RANGE, Reason.REFERENCE_PRICE_MISSING,
})  # fmt: skip


class Desk:
    """For the caller of the RPC that is running. All raise RefusedError; then nothing was recorded."""

    def __init__(self, *, matcher: MatcherClient, rate: OrderRate, store: OrderStore) -> None:
        self._matcher = matcher
        self._rate = rate
        self._store = store

    async def admit_rate(self, orders: int = 1) -> None:
        """Cancels are never limited: who is in trouble must get out."""
        caller = current_caller()
        if not caller.is_service:
            await self._rate.admit(caller.user_id, orders)

    async def place(self, message: order_requests_pb2.PlaceOrderRequest) -> Place:
        """The order that is asked for, admitted. Raises RefusedError; then nothing was recorded.

        A repeat is let through to be answered as such, whatever would be said of a new order now.
        """
        user_id = current_caller().acting_for(message.user_id)
        client_order_id, request = order_request(message)
        filters = await self._matcher.filters(request.symbol)
        reference = await self._matcher.reference_price(request.symbol) if needs_reference_price(request) else 0
        now = datetime.now(UTC)
        reservation = admit(request, filters, reference, int(now.timestamp() * 1_000_000_000))
        if not isinstance(reservation, Reservation):
            key = (user_id, client_order_id)
            if reservation.reason not in _LATER or not await self._store.by_client_ids([key]):
                raise RefusedError(reservation)
            reservation = Reservation(filters.base_asset, request.quantity or request.quote_amount)  # never recorded
        return Place(
            OrderRow(
                order_id=new_id(),
                user_id=user_id,
                client_order_id=client_order_id,
                request=request,
                reservation=reservation,
                status=Status.PENDING,
                reason=Reason.NONE,
                open_quantity=request.quantity,
                filled_quantity=0,
                filled_notional=0,
                version=0,
                released=0,
                created_at=now,
                updated_at=now,
                open_price=request.price,
            )
        )


def cancel(message: order_requests_pb2.CancelOrderRequest) -> Change:
    """A cancel. Raises RefusedError."""
    user_id = current_caller().acting_for(message.user_id)
    order_id, client_order_id = order_named(message)
    return Change(user_id, order_id, client_order_id, None)


def amend(message: order_requests_pb2.AmendOrderRequest) -> Change:
    """An amend. Raises RefusedError."""
    order_id, client_order_id = order_named(message)
    user_id = current_caller().acting_for(message.user_id)
    return Change(user_id, order_id, client_order_id, amendment_from(message))


def reduce(message: order_requests_pb2.ReduceOrderRequest) -> Change:
    """An amend that may only lower the quantity. Raises RefusedError."""
    user_id = current_caller().acting_for(message.user_id)
    order_id, client_order_id = order_named(message)
    amendment = Amendment(quantity=parse_units(message.quantity, field="quantity"))
    return Change(user_id, order_id, client_order_id, amendment, only_less=True)
