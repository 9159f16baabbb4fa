"""What a trading session tells between its answers: how its user's orders change otherwise."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import trading_session_pb2

from libs.ids import new_id
from tests.support.engine import Engine, order_from

Request = trading_session_pb2.TradingSessionRequest
Options = trading_session_pb2.SessionOptions
Response = trading_session_pb2.TradingSessionResponse
ORDERS = 50
OPEN, PARTLY, FILLED = (
    order_pb2.ORDER_STATUS_OPEN,
    order_pb2.ORDER_STATUS_PARTIALLY_FILLED,
    order_pb2.ORDER_STATUS_FILLED,
)


@pytest.fixture(scope="module")
def engine(own_engine: Engine) -> Engine:
    """Whose books no other tests have left orders in."""
    return own_engine


class Session:
    """A client's side of one call: everything it was told, in order."""

    def __init__(self, call, user: str) -> None:
        self.user = user
        self.told: list[Response] = []
        self._call = call
        self._number = 0

    async def send(self, **request) -> int:
        self._number += 1
        await self._call.write(Request(request_id=self._number, **request))
        return self._number

    async def place(self, text: str, symbol: str = "XRP/USDT") -> order_pb2.Order:
        request = order_from(text, user_id=self.user, symbol=symbol, client_order_id=new_id())
        number = await self.send(place=request)
        return (await self.until(lambda told: told.request_id == number)).order

    async def until(self, wanted) -> Response:
        async with asyncio.timeout(20):
            while True:
                told = await self._call.read()
                assert told is not grpc.aio.EOF
                self.told.append(told)
                if wanted(told):
                    return told

    async def update_of(self, order: order_pb2.Order, status: int) -> order_pb2.Order:
        return (
            await self.until(lambda told: told.update.order_id == order.order_id and told.update.status == status)
        ).update

    def updates(self) -> list[Response]:
        return [told for told in self.told if told.HasField("update") or told.updates_lost]


@asynccontextmanager
async def session(engine: Engine, user: str, metadata=None) -> AsyncIterator[Session]:
    call = engine.gateway.TradingSession(metadata=metadata or engine.as_caller(user))
    yield Session(call, user)
    call.cancel()


async def test_fills_by_others_are_told_after_the_answer_and_once(engine: Engine) -> None:
    maker, taker = await engine.user(XRP="100"), await engine.user(USDT="1000")
    async with session(engine, maker) as mine:
        order = await mine.place("SELL 3 @ 20")
        assert order.status == OPEN
        await engine.place(taker, "BUY 1 @ 20", symbol="XRP/USDT")
        assert (await mine.update_of(order, PARTLY)).filled_quantity == "1"
        await engine.place(taker, "BUY 2 @ 20", symbol="XRP/USDT")
        assert (await mine.update_of(order, FILLED)).filled_quantity == "3"
        versions = [told.update.version for told in mine.updates()]
        assert versions == sorted(set(versions)), "nothing twice, nothing older after newer"
        assert versions[0] > order.version, "what was answered is not told again"
        assert {told.request_id for told in mine.updates()} == {0}


async def test_orders_from_elsewhere_are_told_and_other_users_orders_are_not(engine: Engine) -> None:
    user, other = await engine.user(USDT="1000"), await engine.user(USDT="1000")
    async with session(engine, user) as mine:
        await mine.place("BUY 1 @ 10 IOC")
        foreign = (await engine.place(other, "BUY 1 @ 10", symbol="XRP/USDT")).order
        apart = (await engine.place(user, "BUY 1 @ 10", symbol="XRP/USDT")).order
        assert (await mine.update_of(apart, OPEN)).client_order_id == apart.client_order_id
        assert foreign.order_id not in {told.update.order_id for told in mine.updates()}
        for order in (apart, foreign):
            await engine.cancel(order)


async def test_no_update_comes_before_the_answer_that_made_its_order(engine: Engine) -> None:
    maker, taker = await engine.user(XRP="1000"), await engine.user(USDT="10000")

    async def take() -> None:
        for _ in range(ORDERS):
            await engine.place(taker, "BUY 1 @ 30", symbol="XRP/USDT")

    async with session(engine, maker) as mine:
        taking = asyncio.create_task(take())
        for _ in range(ORDERS):
            request = order_from("SELL 1 @ 30", user_id=maker, symbol="XRP/USDT", client_order_id=new_id())
            await mine.send(place=request)
        answered, filled = set(), set()
        while len(filled) < ORDERS:
            told = await mine.until(lambda _: True)
            assert not told.HasField("error")
            if told.HasField("update"):
                assert told.update.order_id in answered
            answered.add(told.order.order_id)
            filled |= {order.order_id for order in (told.order, told.update) if order.status == FILLED}
        await taking
        assert mine.updates(), "some were filled after their answers"


@pytest.mark.parametrize("who", ["may only trade", "wants answers only", "a service that names nobody"])
async def test_who_hears_no_updates(engine: Engine, who: str) -> None:
    user = await engine.user(USDT="1000")
    metadata = {"may only trade": engine.as_caller(user, "trade"), "a service that names nobody": engine.service}.get(
        who
    )
    async with session(engine, user, metadata) as mine:
        if who == "wants answers only":
            await mine.send(options=Options(answers_only=True))
        await mine.place("BUY 1 @ 10 IOC")
        async with session(engine, user) as beside:
            await beside.place("BUY 1 @ 10 IOC")
            apart = (await engine.place(user, "BUY 1 @ 10", symbol="XRP/USDT")).order
            await beside.update_of(apart, OPEN)
        await engine.cancel(apart)
        await mine.place("BUY 1 @ 10 IOC")
        assert not mine.updates()


async def test_a_service_hears_of_the_user_its_options_name(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    async with session(engine, user, engine.service) as mine:
        await mine.send(options=Options(user_id=user))
        await mine.until(lambda told: told.request_id == 1)
        apart = (await engine.place(user, "BUY 1 @ 10", symbol="XRP/USDT")).order
        await mine.update_of(apart, OPEN)
        await engine.cancel(apart)
