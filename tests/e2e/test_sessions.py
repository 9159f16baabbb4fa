"""Orders that end with their session, however it ends."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import grpc.aio
import pytest
from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_gateway_pb2_grpc, order_requests_pb2, trading_session_pb2

from cli.processes import free_port
from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.engine import Engine, order_from, start_beside
from tests.support.trading import until

ROOT = Path(__file__).resolve().parents[2]
Request = trading_session_pb2.TradingSessionRequest
CANCELLED, OPEN = order_pb2.ORDER_STATUS_CANCELLED, order_pb2.ORDER_STATUS_OPEN


class Session:
    """A client's side of one call."""

    def __init__(self, gateway, user: str, metadata) -> None:
        self.user = user
        self._call = gateway.TradingSession(metadata=metadata)
        self._number = 0

    async def ask(self, **request) -> trading_session_pb2.TradingSessionResponse:
        self._number += 1
        await self._call.write(Request(request_id=self._number, **request))
        answer = await self._call.read()
        assert answer.request_id == self._number
        return answer

    async def begin(self, *, cancel: bool = True) -> str:
        options = trading_session_pb2.SessionOptions(user_id=self.user, cancel_on_disconnect=cancel, answers_only=True)
        return (await self.ask(options=options)).session_id

    async def place(self, text: str, symbol: str = "BTC/USDT") -> order_pb2.Order:
        request = order_from(text, user_id=self.user, symbol=symbol, client_order_id=new_id())
        return (await self.ask(place=request)).order

    async def finish(self) -> None:
        await self._call.done_writing()
        assert await self._call.read() is grpc.aio.EOF

    def break_off(self) -> None:
        self._call.cancel()


def session(engine: Engine, user: str, gateway=None) -> Session:
    return Session(gateway or engine.gateway, user, engine.service)


async def until_cancelled(engine: Engine, *orders: order_pb2.Order) -> None:
    async def all_cancelled() -> bool:
        return {(await engine.order(order)).status for order in orders} == {CANCELLED}

    await until(all_cancelled, timeout_s=40)


@pytest.mark.parametrize("end", ["finish", "break_off"])
async def test_the_orders_of_a_session_end_with_it_and_no_others(engine: Engine, end: str) -> None:
    user = await engine.user(USDT="1000")
    apart = (await engine.place(user, "BUY 0.1 @ 100")).order
    mine = session(engine, user)
    assert await mine.begin()
    orders = [
        await mine.place(f"BUY 0.1 @ {price}", symbol) for price, symbol in ((101, "BTC/USDT"), (102, "BNB/USDT"))
    ]
    assert {order.status for order in orders} == {OPEN}
    outcome = getattr(mine, end)()
    if outcome is not None:
        await outcome
    await until_cancelled(engine, *orders)
    assert (await engine.order(apart)).status == OPEN
    assert (await engine.quiet()).clean
    assert (await engine.balances(user))["USDT"] == ("990", "10")
    rows = await engine.query("SELECT count(*) AS n FROM orders.sessions WHERE user_id = $1", user)
    assert rows[0]["n"] == 0
    await engine.cancel(apart)


BOT = """
import asyncio, sys
import grpc.aio
from exchange.gateway.v1 import order_gateway_pb2_grpc, trading_session_pb2

async def main(target, token):
    async with grpc.aio.insecure_channel(target) as channel:
        stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
        session = stub.TradingSession(metadata=(("authorization", "Bearer " + token),))
        request = trading_session_pb2.TradingSessionRequest
        await session.write(request(options={"cancel_on_disconnect": True, "answers_only": True}))
        await session.read()
        place = {"client_order_id": "1", "symbol": "BTC/USDT", "side": 1, "type": 1, "price": "100", "quantity": "0.1"}
        await session.write(request(place=place))
        print((await session.read()).order.order_id, flush=True)
        await session.read()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_caller_who_is_gone_without_a_word_is_missed(engine: Engine) -> None:
    """Its machine sleeps, or its cable is cut: nobody closes the connection."""
    user = await engine.user(USDT="1000")
    bot = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BOT,
        engine.settings.gateway.target(),
        engine.token(user),
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert bot.stdout is not None
        order = order_pb2.Order(order_id=(await bot.stdout.readline()).decode().strip(), user_id=user)
        assert (await engine.order(order)).status == OPEN
        bot.send_signal(signal.SIGSTOP)
        await until_cancelled(engine, order)
    finally:
        bot.kill()
        await bot.wait()


async def test_a_session_that_does_not_ask_for_it_leaves_its_orders(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    plain = session(engine, user)
    assert not await plain.begin(cancel=False)
    order = await plain.place("BUY 0.1 @ 100")
    await plain.finish()
    await asyncio.sleep(0.5)
    assert (await engine.order(order)).status == OPEN
    await engine.cancel(order)


async def test_options_come_first_and_are_for_nobody_else(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    late = session(engine, user)
    await late.place("BUY 0.1 @ 100 IOC")
    refused = await late.ask(options=trading_session_pb2.SessionOptions(user_id=user))
    assert "FIELD_NOT_ALLOWED field=options" in refused.error.message
    await late.finish()
    other = Session(engine.gateway, user, engine.as_caller(new_id()))
    refused = await other.ask(options=trading_session_pb2.SessionOptions(user_id=user, cancel_on_disconnect=True))
    assert "OTHER_USER" in refused.error.message
    await other.finish()


async def test_what_was_sent_last_does_not_slip_through(engine: Engine) -> None:
    user = await engine.user(USDT="100000")
    quick = session(engine, user)
    await quick.begin()
    for number in range(60):
        request = order_from(
            f"BUY 0.1 @ {100 + number}", user_id=user, symbol="BTC/USDT", client_order_id=f"last-{number}"
        )
        await quick._call.write(Request(request_id=number + 2, place=request))
    quick.break_off()

    async def nothing_is_open() -> bool:
        rows = await engine.query(
            "SELECT (SELECT count(*) FROM orders.sessions WHERE user_id = $1) + "
            "(SELECT count(*) FROM orders.orders WHERE user_id = $1 AND status IN (1, 2, 3)) AS n", user
        )  # fmt: skip
        return rows[0]["n"] == 0

    await until(nothing_is_open)
    assert (await engine.balances(user))["USDT"] == ("100000", "0")


async def test_requests_about_one_order_take_effect_as_they_came(engine: Engine) -> None:
    """Placed, raised twice, lowered and cancelled, no answer being waited for; a raise needs money first."""
    user = await engine.user(USDT="100000")
    call = engine.gateway.TradingSession(metadata=engine.service)
    numbers = range(20)
    wanted = []

    async def send(**request) -> None:
        await call.write(Request(request_id=len(wanted), **request))

    for number in numbers:
        named = {"user_id": user, "client_order_id": f"raised-{number}"}
        await send(place=order_from("BUY 0.1 @ 100", symbol="BTC/USDT", **named))
        wanted.append((OPEN, "0.1", "100"))
        for change in ({"quantity": "0.3"}, {"price": "150"}, {"quantity": "0.2"}):
            await send(amend=order_requests_pb2.AmendOrderRequest(**named, **change))
            wanted.append((OPEN, change.get("quantity", "0.3"), "100" if change == {"quantity": "0.3"} else "150"))
        await send(cancel=order_requests_pb2.CancelOrderRequest(**named))
        wanted.append((CANCELLED, "0.2", "150"))
    answers = [await call.read() for _ in wanted]
    call.cancel()
    assert [answer.request_id for answer in answers] == list(range(len(wanted)))
    assert not [answer.error.message for answer in answers if answer.HasField("error")]
    told = [(answer.order.status, answer.order.quantity, answer.order.price) for answer in answers]
    assert told == wanted
    assert (await engine.balances(user))["USDT"] == ("100000", "0")


async def test_when_a_gateway_dies_another_ends_its_sessions(engine: Engine, tmp_path: Path) -> None:
    port = free_port()
    over = {"TRADE_ENGINE_GATEWAY_PORT": str(port), "TRADE_ENGINE_GATEWAY_METRICS_PORT": "0"}
    doomed = start_beside(engine, "order_gateway", tmp_path / "doomed.log", **over)
    try:
        user = await engine.user(USDT="1000")
        async with open_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            theirs = session(engine, user, order_gateway_pb2_grpc.OrderGatewayServiceStub(channel))
            await theirs.begin()
            order = await theirs.place("BUY 0.1 @ 100")
            doomed.kill()
            doomed.wait()
            await until_cancelled(engine, order)
            theirs.break_off()
    finally:
        with contextlib.suppress(ProcessLookupError):
            doomed.kill()
    assert (await engine.balances(user))["USDT"] == ("1000", "0")
