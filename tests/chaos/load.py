"""Steady load: traders who place, cancel, ask again with the same key until they are answered, and remember the answers.

Of every ten orders three are of the kinds that few use: at any price, stopped, trailing, one cancels the other, hidden in
part, for makers only, until a time.
"""

import asyncio
import random
import time
from dataclasses import dataclass

import grpc.aio
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2, order_requests_pb2

from libs.ids import new_id
from libs.reasons import PASSING
from libs.rpc.breaker import is_passing
from libs.rpc.errors import refused_from_call, refused_of
from tests.support.engine import Engine, order_from

SYMBOLS = ("BTC/USDT", "ETH/USDT")
LIVE = (order_pb2.ORDER_STATUS_OPEN, order_pb2.ORDER_STATUS_PARTIALLY_FILLED)
TRADERS = 8
THINK_S = 0.02
CALL_TIMEOUT_S = 8.0
PATIENCE_S = 300.0
OPEN_KEPT = 10
# What a trader may well be told, and asking again would not change.
NO = frozenset({
    "ORDER_CLOSED", "OVERLOADED", "RESERVATION_EXHAUSTED", "FIELD_NOT_ALLOWED", "PRICE_OUTSIDE_BAND", "NOTIONAL_TOO_SMALL",
    "POST_ONLY_WOULD_TRADE", "AMEND_UNDER_WAY", "TOO_MANY_CHANGES", "REFERENCE_PRICE_MISSING", "GIVEN_UP",
})  # fmt: skip


@dataclass(slots=True)
class Acknowledged:
    """What an order's owner was told last."""

    order_id: str
    status: int
    filled: str


class Load:
    """All traders. They stop between rounds with every question answered."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._random = random.Random(seed)
        self._running = asyncio.Event()
        self._idle = asyncio.Event()
        self._busy = 0
        self.acknowledged: dict[str, Acknowledged] = {}
        self.doubled = 0
        self.stale: list[str] = []  # orders that were read older than what their owner had been told
        self.asked_again = 0

    async def run(self) -> None:
        """Trade whenever it is let, until cancelled."""
        assets = {asset: "10000000" for symbol in SYMBOLS for asset in symbol.split("/")}
        users = [await self._engine.user(**assets) for _ in range(TRADERS)]
        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(users):
                group.create_task(self._trade(user, random.Random(self._random.random() + number)))

    def go(self) -> None:
        self._running.set()

    async def halt(self) -> None:
        """Let everybody finish what they are at."""
        self._running.clear()
        while self._busy:
            await asyncio.sleep(0.02)

    async def _trade(self, user: str, rng: random.Random) -> None:
        resting: list[order_pb2.Order] = []
        while True:
            await self._running.wait()
            self._busy += 1
            try:
                await self._do_something(user, resting, rng)
            finally:
                self._busy -= 1
            await asyncio.sleep(rng.expovariate(1 / THINK_S))

    async def _do_something(self, user: str, resting: list[order_pb2.Order], rng: random.Random) -> None:
        if rng.random() < 0.01:
            await self._cancel_all(user)
            resting.clear()
        elif len(resting) > OPEN_KEPT or (resting and rng.random() < 0.25):
            await self._cancel(resting.pop(rng.randrange(len(resting))), rng)
        elif resting and rng.random() < 0.2:
            await self._amend(rng.choice(resting), rng)
        elif rng.random() < 0.1:
            resting += [order for order in await self._place_some(user, rng) if order.status in LIVE]
        else:
            order = await self._place(user, rng)
            if order is not None and order.status in LIVE:
                resting.append(order)

    async def _place_some(self, user: str, rng: random.Random) -> list[order_pb2.Order]:
        orders = [_order(user, rng) for _ in range(rng.randrange(2, 10))]
        request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
        placed = []
        left = {order.client_order_id for order in orders}
        async with asyncio.timeout(PATIENCE_S):
            while left:
                answer = await self._until_answered(self._engine.gateway.PlaceOrders, request)
                for order, result in zip(orders, answer.results if answer is not None else (), strict=True):
                    if result.HasField("response"):
                        self._note(order.client_order_id, result.response.order)
                        placed.append(result.response.order)
                    if result.HasField("response") or refused_of(result.error).reason not in PASSING:
                        left.discard(order.client_order_id)
        return placed

    async def _cancel_all(self, user: str) -> None:
        request = order_requests_pb2.CancelOrdersRequest(user_id=user)
        answer = await self._until_answered(self._engine.gateway.CancelOrders, request)
        for result in answer.results if answer is not None else ():
            self._note(result.order.client_order_id, result.order)

    async def _place(self, user: str, rng: random.Random) -> order_pb2.Order | None:
        request = _order(user, rng)
        key = request.client_order_id
        answer = await self._until_answered(self._engine.gateway.PlaceOrder, request)
        if answer is None:
            return None
        self._note(key, answer.order)
        await self._read_back(answer.order, rng)
        if rng.random() < 0.05:  # one that was answered, asked again: the same order
            again = await self._until_answered(self._engine.gateway.PlaceOrder, request)
            if again is not None:
                self._note(key, again.order)
        return answer.order

    async def _cancel(self, order: order_pb2.Order, rng: random.Random) -> None:
        request = order_requests_pb2.CancelOrderRequest(user_id=order.user_id, order_id=order.order_id)
        answer = await self._until_answered(self._engine.gateway.CancelOrder, request)
        if answer is not None:
            self._note(order.client_order_id, answer.order)
            await self._read_back(answer.order, rng)

    async def _amend(self, order: order_pb2.Order, rng: random.Random) -> None:
        request = order_requests_pb2.AmendOrderRequest(user_id=order.user_id, order_id=order.order_id)
        if rng.random() < 0.7:
            request.price = _price(rng)
        if not request.price or rng.random() < 0.5:
            request.quantity = f"{rng.randrange(1, 30) / 10:.1f}"
        answer = await self._until_answered(self._engine.gateway.AmendOrder, request)
        if answer is not None:
            self._note(order.client_order_id, answer.order)
            await self._read_back(answer.order, rng)

    async def _read_back(self, told: order_pb2.Order, rng: random.Random) -> None:
        """What one was told one can read, at once."""
        if rng.random() < 0.7:
            return
        request = order_gateway_pb2.GetOrderRequest(user_id=told.user_id, order_id=told.order_id)
        answer = await self._until_answered(self._engine.gateway.GetOrder, request)
        if answer is None or answer.order.version < told.version:
            self.stale.append(f"{told.order_id}: told {told.version}, read {answer}")

    def _note(self, key: str, order: order_pb2.Order) -> None:
        known = self.acknowledged.get(key)
        if known is not None and known.order_id != order.order_id:
            self.doubled += 1
        self.acknowledged[key] = Acknowledged(order.order_id, order.status, order.filled_quantity)

    async def _until_answered(self, method, request):
        """The answer, or None for a refusal that asking again would not change. Passing faults are asked again."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    return await method(request, metadata=self._engine.service, timeout=CALL_TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    if is_passing(error):
                        self.asked_again += 1
                        await asyncio.sleep(0.1)
                        continue
                    refused = refused_from_call(error, dependency="gateway").refused
                    if refused.reason.name in NO or refused.field == "expires_at":  # its time was over before it came
                        return None
                    raise


def _order(user: str, rng: random.Random) -> order_requests_pb2.PlaceOrderRequest:
    side = rng.choice(("BUY", "SELL"))
    text = f"{side} 0.{rng.randrange(1, 9)} @ {_price(rng)}" + (" IOC" if rng.random() < 0.15 else "")
    order = order_from(text, user_id=user, symbol=rng.choice(SYMBOLS), client_order_id=new_id())
    order.self_trade = rng.randrange(5)  # type: ignore[assignment]  # any of them
    if rng.random() < 0.3:
        order.time_in_force = order_pb2.TIME_IN_FORCE_UNSPECIFIED
        rng.choice(KINDS)(order, rng)
    return order


def _market(order: order_requests_pb2.PlaceOrderRequest, rng: random.Random) -> None:
    order.type, order.price = order_pb2.ORDER_TYPE_MARKET, ""
    if order.side == order_pb2.SIDE_BUY and rng.random() < 0.5:
        order.quantity, order.quote_amount = "", str(rng.randrange(10, 200))


def _stop(order: order_requests_pb2.PlaceOrderRequest, rng: random.Random) -> None:
    order.type, order.stop_price = order_pb2.ORDER_TYPE_STOP, order.price
    if rng.random() < 0.5:
        order.type, order.price = order_pb2.ORDER_TYPE_STOP_LIMIT, _price(rng)
    else:
        order.price = ""


def _trailing(order: order_requests_pb2.PlaceOrderRequest, rng: random.Random) -> None:
    order.type, order.price = order_pb2.ORDER_TYPE_TRAILING_STOP, ""
    if rng.random() < 0.5:
        order.trail = "0.5"
    else:
        order.trail_bps = 50


def _oco(order: order_requests_pb2.PlaceOrderRequest, rng: random.Random) -> None:
    order.type = order_pb2.ORDER_TYPE_OCO
    order.price, order.stop_price = ("98", "102") if order.side == order_pb2.SIDE_BUY else ("102", "98")
    if rng.random() < 0.5:
        order.stop_limit_price = order.stop_price


def _iceberg(order: order_requests_pb2.PlaceOrderRequest, _: random.Random) -> None:
    order.quantity, order.display_quantity = "2", "0.3"


def _post_only(order: order_requests_pb2.PlaceOrderRequest, rng: random.Random) -> None:
    order.post_only = rng.choice((order_pb2.POST_ONLY_REJECT, order_pb2.POST_ONLY_REPRICE))


def _until(order: order_requests_pb2.PlaceOrderRequest, rng: random.Random) -> None:
    order.time_in_force = order_pb2.TIME_IN_FORCE_GTD
    order.expires_at.FromNanoseconds(time.time_ns() + int(rng.uniform(0.5, 4) * 1e9))


KINDS = (_market, _stop, _trailing, _oco, _iceberg, _post_only, _until)


def _price(rng: random.Random) -> str:
    return f"{100 + rng.randrange(-20, 21) / 10:.2f}"
