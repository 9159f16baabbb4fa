"""The order gateway's gRPC face."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc, order_requests_pb2, trading_session_pb2
from exchange.settlement.v1 import settlement_pb2

from libs.batching import Batcher
from libs.ids import new_id, parse_id, parse_text
from libs.money import parse_units
from libs.orders import Status, symbol_name
from libs.paging import page_size
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import status_of
from libs.rpc.server import current_caller
from services.order_gateway.amending import Amender
from services.order_gateway.clients import MatcherClient, SettlementClient
from services.order_gateway.core.admission import Reservation, admit, needs_reference_price
from services.order_gateway.core.records import Amendment, OrderRow
from services.order_gateway.intake import Answer, Change, Done, Intake, Item, Place
from services.order_gateway.rates import OrderRate
from services.order_gateway.sessions import Sessions
from services.order_gateway.store import OrderStore
from services.order_gateway.streams import OrderStreams
from services.order_gateway.wire import amendment_from, apply_update, order_named, order_request, orders_message

ORDERS_PER_CALL_MAX = 500
PAGE_DEFAULT = 100
PAGE_MAX = 500
SESSION_IN_FLIGHT_MAX = 1000
_LIMITED = frozenset({"place", "amend", "reduce"})
_AFTER_THE_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class OrderGatewayService(order_gateway_pb2_grpc.OrderGatewayServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(
        self,
        *,
        flow: Intake,
        intake: Batcher[Item, Answer],
        store: OrderStore,
        matcher: MatcherClient,
        streams: OrderStreams,
        amender: Amender,
        settlement: SettlementClient,
        sessions: Sessions,
        rate: OrderRate,
    ) -> None:
        self._rate = rate
        self._sessions = sessions
        self._settlement = settlement
        self._amender = amender
        self._flow = flow
        self._intake = intake
        self._store = store
        self._matcher = matcher
        self._streams = streams

    async def PlaceOrder(
        self, request: order_requests_pb2.PlaceOrderRequest, context: Any
    ) -> order_requests_pb2.PlaceOrderResponse:
        """See the proto."""
        del context
        await self._admit_rate()
        done = _done(await self._intake.submit_one(await self._place(request)))
        return order_requests_pb2.PlaceOrderResponse(order=done.order, fills=done.fills)

    async def PlaceOrders(
        self, request: order_requests_pb2.PlaceOrdersRequest, context: Any
    ) -> order_requests_pb2.PlaceOrdersResponse:
        """See the proto."""
        del context
        if not request.orders:
            raise RefusedError(Refused(Reason.BATCH_EMPTY, field="orders"))
        if len(request.orders) > ORDERS_PER_CALL_MAX:
            rule = f"at most {ORDERS_PER_CALL_MAX}"
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="orders", rule=rule))
        await self._admit_rate(len(request.orders))
        items: list[Place] = []
        answers: list[Answer | None] = []
        for order in request.orders:
            try:
                items.append(await self._place(order))
                answers.append(None)
            except RefusedError as error:
                answers.append(error.refused)
        placed = iter(await self._intake.submit(items) if items else ())
        return order_requests_pb2.PlaceOrdersResponse(
            results=[_place_result(next(placed) if answer is None else answer) for answer in answers]
        )

    async def CancelOrder(
        self, request: order_requests_pb2.CancelOrderRequest, context: Any
    ) -> order_requests_pb2.CancelOrderResponse:
        """See the proto."""
        del context
        done = _done(await self._intake.submit_one(_cancel(request)))
        return order_requests_pb2.CancelOrderResponse(order=done.order)

    async def CancelOrders(
        self, request: order_requests_pb2.CancelOrdersRequest, context: Any
    ) -> order_requests_pb2.CancelOrdersResponse:
        """See the proto."""
        del context
        result = order_requests_pb2.CancelOrdersResponse.Result
        if not request.order_ids:
            symbol = symbol_name(parse_text(request.symbol, field="symbol", required=False))
            cancelled = await self._flow.cancel_all(request.user_id, symbol)
            return order_requests_pb2.CancelOrdersResponse(results=[result(order=order) for order in cancelled])
        if request.symbol:
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="symbol", rule="either order_ids or symbol"))
        if len(request.order_ids) > ORDERS_PER_CALL_MAX:
            rule = f"at most {ORDERS_PER_CALL_MAX}"
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="order_ids", rule=rule))
        ids = [parse_id(order_id, field="order_ids") for order_id in request.order_ids]
        answers = await self._intake.submit([Change(request.user_id, order_id, "", None) for order_id in ids])
        return order_requests_pb2.CancelOrdersResponse(
            results=[
                result(order=answer.order) if isinstance(answer, Done) else result(error=status_of(answer))
                for answer in answers
            ]
        )

    async def AmendOrder(
        self, request: order_requests_pb2.AmendOrderRequest, context: Any
    ) -> order_requests_pb2.AmendOrderResponse:
        """See the proto."""
        del context
        await self._admit_rate()
        done = _done(await self._amender.amend(_amend(request)))
        return order_requests_pb2.AmendOrderResponse(order=done.order)

    async def ReduceOrder(
        self, request: order_requests_pb2.ReduceOrderRequest, context: Any
    ) -> order_requests_pb2.ReduceOrderResponse:
        """See the proto."""
        del context
        await self._admit_rate()
        done = _done(await self._intake.submit_one(_reduce(request)))
        return order_requests_pb2.ReduceOrderResponse(order=done.order)

    async def GetOrder(
        self, request: order_gateway_pb2.GetOrderRequest, context: Any
    ) -> order_gateway_pb2.GetOrderResponse:
        """See the proto."""
        del context
        if request.order_id:
            order_id = parse_id(request.order_id, field="order_id")
            order = (await self._store.by_ids([order_id])).get(order_id)
        else:
            key = (request.user_id, parse_text(request.client_order_id, field="client_order_id"))
            order = (await self._store.by_client_ids([key])).get(key)
        if order is None or order.user_id != request.user_id:
            raise RefusedError(Refused(Reason.ORDER_NOT_FOUND, field="order_id"))
        return order_gateway_pb2.GetOrderResponse(order=apply_update(order, None))

    async def ListOrders(
        self, request: order_gateway_pb2.ListOrdersRequest, context: Any
    ) -> order_gateway_pb2.ListOrdersResponse:
        """See the proto."""
        del context
        size = page_size(request.page_size, default=PAGE_DEFAULT, largest=PAGE_MAX)
        before = parse_id(request.page_token, field="page_token") if request.page_token else _AFTER_THE_LAST
        orders = await self._store.page(
            request.user_id,
            before=before,
            symbol=symbol_name(parse_text(request.symbol, field="symbol", required=False)),
            open_only=request.open_only,
            limit=size,
        )
        response = order_gateway_pb2.ListOrdersResponse(orders=orders_message(orders))
        if len(orders) == size:
            response.next_page_token = orders[-1].order_id
        return response

    async def StreamOrders(
        self, request: order_gateway_pb2.StreamOrdersRequest, context: Any
    ) -> AsyncIterator[order_gateway_pb2.StreamOrdersResponse]:
        """See the proto."""
        del context
        async for order, snapshot in self._streams.subscribe(request.user_id):
            yield order_gateway_pb2.StreamOrdersResponse(order=order, snapshot=snapshot)

    async def TradingSession(
        self, requests: AsyncIterator[trading_session_pb2.TradingSessionRequest], context: Any
    ) -> AsyncIterator[trading_session_pb2.TradingSessionResponse]:
        """See the proto."""
        del context
        session = _Session()

        async def read() -> None:
            try:
                async for request in requests:
                    answer = await self._take(request, session)
                    session.note(answer)
                    await session.under_way.put((request.request_id, answer))
            finally:
                await session.under_way.put(None)

        reading = asyncio.create_task(read())
        try:
            while (waiting := await session.under_way.get()) is not None:
                yield await _session_response(*waiting, session_id=session.session_id)
            await reading
        finally:
            reading.cancel()
            if session.session_id:
                self._sessions.leave(session.session_id, list(session.unanswered))

    async def ListSymbols(
        self, request: order_gateway_pb2.ListSymbolsRequest, context: Any
    ) -> order_gateway_pb2.ListSymbolsResponse:
        """See the proto."""
        del request, context
        return order_gateway_pb2.ListSymbolsResponse(symbols=await self._matcher.symbols())

    async def ListFills(
        self, request: order_gateway_pb2.ListFillsRequest, context: Any
    ) -> order_gateway_pb2.ListFillsResponse:
        """See the proto."""
        del context
        question = settlement_pb2.ListFillsRequest()
        question.CopyFrom(request.filter)
        question.user_id = request.user_id
        answer = await self._settlement.fills(question)
        return order_gateway_pb2.ListFillsResponse(fills=answer.fills, next_page_token=answer.next_page_token)

    async def GetFees(
        self, request: order_gateway_pb2.GetFeesRequest, context: Any
    ) -> order_gateway_pb2.GetFeesResponse:
        """See the proto."""
        del context
        wanted = symbol_name(parse_text(request.symbol, field="symbol", required=False))
        if wanted:
            await self._matcher.filters(wanted)  # refuses a symbol that there is not
        fee = order_gateway_pb2.GetFeesResponse.Fee
        return order_gateway_pb2.GetFeesResponse(
            fees=[
                fee(symbol=symbol.symbol, maker_bps=symbol.maker_fee_bps, taker_bps=symbol.taker_fee_bps)
                for symbol in await self._matcher.symbols()
                if wanted in {"", symbol.symbol}
            ]
        )

    async def _admit_rate(self, orders: int = 1) -> None:
        """Cancels are never limited: who is in trouble must get out."""
        caller = current_caller()
        if not caller.is_service:
            await self._rate.admit(caller.user_id, orders)

    async def _place(self, message: order_requests_pb2.PlaceOrderRequest) -> Place:
        """The order that is asked for, admitted. Raises RefusedError; then nothing was recorded."""
        user_id = current_caller().acting_for(message.user_id)
        client_order_id, request = order_request(message)
        filters = await self._matcher.filters(request.symbol)
        reference = await self._matcher.reference_price(request.symbol) if needs_reference_price(request) else 0
        now = datetime.now(UTC)
        reservation = admit(request, filters, reference, int(now.timestamp() * 1_000_000_000))
        if not isinstance(reservation, Reservation):
            raise RefusedError(reservation)
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

    async def _take(
        self, request: trading_session_pb2.TradingSessionRequest, session: "_Session"
    ) -> "asyncio.Future[Sequence[Answer]]":
        """Put one request of a session into the intake's queue; a bad one is answered in its place."""
        try:
            item: Item
            kind = request.WhichOneof("request")
            if kind in _LIMITED:
                await self._admit_rate()
            first, session.begun = not session.begun, True
            match kind:
                case "options":
                    return await self._begin(request.options, session, first=first)
                case "place":
                    item = await self._place(request.place)
                    if session.session_id and item.order.user_id == session.user_id:
                        item = Place(replace(item.order, session=session.session_id))
                case "cancel":
                    item = _cancel(request.cancel)
                case "reduce":
                    item = _reduce(request.reduce)
                case "amend":
                    return asyncio.ensure_future(self._amend_in_session(_amend(request.amend)))
                case _:
                    raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="request"))
            return self._intake.enqueue((item,))
        except RefusedError as error:
            refused: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
            refused.set_result((error.refused,))
            return refused

    async def _begin(
        self, options: trading_session_pb2.SessionOptions, session: "_Session", *, first: bool
    ) -> "asyncio.Future[Sequence[Answer]]":
        if not first:
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="options", rule="only as the first request"))
        user_id = current_caller().acting_for(options.user_id, field="options.user_id")
        if options.cancel_on_disconnect:
            session.user_id, session.session_id = user_id, await self._sessions.open(user_id)
        begun: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
        begun.set_result(())
        return begun

    async def _amend_in_session(self, item: Change) -> Sequence[Answer]:
        return (await self._amender.amend(item),)


_SessionAnswer = tuple[int, "asyncio.Future[Sequence[Answer]]"]


class _Session:
    """One TradingSession call: what is under way, and whose orders end with it."""

    def __init__(self) -> None:
        self.under_way: asyncio.Queue[_SessionAnswer | None] = asyncio.Queue(SESSION_IN_FLIGHT_MAX)
        self.unanswered: set[asyncio.Future[Sequence[Answer]]] = set()
        self.begun = False
        self.user_id = ""
        self.session_id = ""

    def note(self, answer: "asyncio.Future[Sequence[Answer]]") -> None:
        """Remember what was taken, until it is answered."""
        self.unanswered.add(answer)
        answer.add_done_callback(self.unanswered.discard)


async def _session_response(
    request_id: int, answers: "asyncio.Future[Sequence[Answer]]", *, session_id: str
) -> trading_session_pb2.TradingSessionResponse:
    try:
        # Shielded: a session that is cut off leaves what it has under way to its end.
        found = await asyncio.shield(answers)
    except RefusedError as error:
        found = (error.refused,)
    if not found:
        return trading_session_pb2.TradingSessionResponse(request_id=request_id, session_id=session_id)
    answer = found[0]
    if isinstance(answer, Refused):
        return trading_session_pb2.TradingSessionResponse(request_id=request_id, error=status_of(answer))
    return trading_session_pb2.TradingSessionResponse(request_id=request_id, order=answer.order, fills=answer.fills)


def _done(answer: Answer) -> Done:
    if isinstance(answer, Refused):
        raise RefusedError(answer)
    return answer


def _place_result(answer: Answer) -> order_requests_pb2.PlaceOrdersResponse.Result:
    if isinstance(answer, Refused):
        return order_requests_pb2.PlaceOrdersResponse.Result(error=status_of(answer))
    response = order_requests_pb2.PlaceOrderResponse(order=answer.order, fills=answer.fills)
    return order_requests_pb2.PlaceOrdersResponse.Result(response=response)


def _cancel(message: order_requests_pb2.CancelOrderRequest) -> Change:
    user_id = current_caller().acting_for(message.user_id)
    order_id, client_order_id = order_named(message)
    return Change(user_id, order_id, client_order_id, None)


def _amend(message: order_requests_pb2.AmendOrderRequest) -> Change:
    order_id, client_order_id = order_named(message)
    user_id = current_caller().acting_for(message.user_id)
    return Change(user_id, order_id, client_order_id, amendment_from(message))


def _reduce(message: order_requests_pb2.ReduceOrderRequest) -> Change:
    user_id = current_caller().acting_for(message.user_id)
    order_id, client_order_id = order_named(message)
    amendment = Amendment(quantity=parse_units(message.quantity, field="quantity"))
    return Change(user_id, order_id, client_order_id, amendment, only_less=True)
