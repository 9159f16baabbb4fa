"""The order gateway's gRPC face."""

from collections.abc import AsyncIterator
from typing import Any

from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc, order_requests_pb2, trading_session_pb2
from exchange.settlement.v1 import settlement_pb2

from libs.batching import Batcher
from libs.ids import LAST_ID, parse_id, parse_text
from libs.orders import symbol_name
from libs.paging import page_size
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import status_of
from libs.times import parse_time
from services.order_gateway import desk
from services.order_gateway.amending import Amender
from services.order_gateway.clients import MatcherClient, SettlementClient
from services.order_gateway.conversation import Conversations
from services.order_gateway.desk import Desk
from services.order_gateway.intake import Intake
from services.order_gateway.items import Answer, Change, Done, Item, Place
from services.order_gateway.lanes import Changes
from services.order_gateway.store import OrderStore
from services.order_gateway.streams import OrderStreams
from services.order_gateway.wire import apply_update, orders_message

PAGE_DEFAULT = 100
PAGE_MAX = 500


class OrderGatewayService(order_gateway_pb2_grpc.OrderGatewayServiceServicer):
    """Speaks gRPC; decides nothing."""

    def __init__(
        self,
        *,
        flow: Intake,
        intake: Batcher[Item, Answer],
        changes: Changes,
        store: OrderStore,
        matcher: MatcherClient,
        streams: OrderStreams,
        amender: Amender,
        settlement: SettlementClient,
        taking: Desk,
        conversations: Conversations,
        orders_max: int,
    ) -> None:
        self._orders_max = orders_max
        self._desk = taking
        self._conversations = conversations
        self._settlement = settlement
        self._amender = amender
        self._flow = flow
        self._intake = intake
        self._changes = changes
        self._store = store
        self._matcher = matcher
        self._streams = streams

    async def PlaceOrder(
        self, request: order_requests_pb2.PlaceOrderRequest, context: Any
    ) -> order_requests_pb2.PlaceOrderResponse:
        """See the proto."""
        del context
        await self._desk.admit_rate()
        done = _done(await self._intake.submit_one(await self._desk.place(request)))
        return order_requests_pb2.PlaceOrderResponse(order=done.order, fills=done.fills, more_fills=done.more_fills)

    async def PlaceOrders(
        self, request: order_requests_pb2.PlaceOrdersRequest, context: Any
    ) -> order_requests_pb2.PlaceOrdersResponse:
        """See the proto."""
        del context
        if not request.orders:
            raise RefusedError(Refused(Reason.BATCH_EMPTY, field="orders"))
        if len(request.orders) > self._orders_max:
            rule = f"at most {self._orders_max}"
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="orders", rule=rule))
        await self._desk.admit_rate(len(request.orders))
        items: list[Place] = []
        answers: list[Answer | None] = []
        for order in request.orders:
            try:
                items.append(await self._desk.place(order))
                answers.append(None)
            except RefusedError as error:
                answers.append(error.refused)
        placed = iter(await self._intake.submit(items) if items else ())
        response = order_requests_pb2.PlaceOrdersResponse()
        for answer in answers:
            _put_result(response.results.add(), next(placed) if answer is None else answer)
        return response

    async def CancelOrder(
        self, request: order_requests_pb2.CancelOrderRequest, context: Any
    ) -> order_requests_pb2.CancelOrderResponse:
        """See the proto."""
        del context
        done = _done(await self._changes.submit_one(desk.cancel(request)))
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
        if len(request.order_ids) > self._orders_max:
            rule = f"at most {self._orders_max}"
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="order_ids", rule=rule))
        ids = [parse_id(order_id, field="order_ids") for order_id in request.order_ids]
        answers = await self._changes.submit([Change(request.user_id, order_id, "", None) for order_id in ids])
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
        await self._desk.admit_rate()
        done = _done(await self._amender.amend(desk.amend(request)))
        return order_requests_pb2.AmendOrderResponse(order=done.order)

    async def ReduceOrder(
        self, request: order_requests_pb2.ReduceOrderRequest, context: Any
    ) -> order_requests_pb2.ReduceOrderResponse:
        """See the proto."""
        del context
        await self._desk.admit_rate()
        done = _done(await self._changes.submit_one(desk.reduce(request)))
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
        before = parse_id(request.page_token, field="page_token") if request.page_token else LAST_ID
        orders, next_page = await self._store.page(
            request.user_id,
            before=before,
            symbol=symbol_name(parse_text(request.symbol, field="symbol", required=False)),
            open_only=request.open_only,
            limit=size,
        )
        return order_gateway_pb2.ListOrdersResponse(orders=orders_message(orders), next_page_token=next_page)

    async def StreamOrders(
        self, request: order_gateway_pb2.StreamOrdersRequest, context: Any
    ) -> AsyncIterator[order_gateway_pb2.StreamOrdersResponse]:
        """See the proto."""
        del context
        since = parse_time(request.changed_since, field="changed_since") if request.HasField("changed_since") else None
        async for order, snapshot in self._streams.subscribe(request.user_id, since):
            if order is None:
                yield order_gateway_pb2.StreamOrdersResponse(snapshot_complete=True)
            else:
                yield order_gateway_pb2.StreamOrdersResponse(order=order, snapshot=snapshot)

    async def TradingSession(
        self, requests: AsyncIterator[trading_session_pb2.TradingSessionRequest], context: Any
    ) -> AsyncIterator[trading_session_pb2.TradingSessionResponse]:
        """See the proto."""
        del context
        async for response in self._conversations.hold(requests):
            yield response

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


def _done(answer: Answer) -> Done:
    if isinstance(answer, Refused):
        raise RefusedError(answer)
    return answer


def _put_result(result: order_requests_pb2.PlaceOrdersResponse.Result, answer: Answer) -> None:
    """Put one answer into an empty result: made apart, it would be copied twice."""
    if isinstance(answer, Refused):
        result.error.CopyFrom(status_of(answer))
        return
    result.response.order.CopyFrom(answer.order)
    if answer.fills:
        result.response.fills.extend(answer.fills)
        result.response.more_fills = answer.more_fills
