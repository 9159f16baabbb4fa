"""A session that is cut off leaves nothing behind: no task that waits, no fault that nobody has seen."""

import asyncio
import gc

from exchange.gateway.v1 import trading_session_pb2

from libs.reasons import RefusedError, away
from services.order_gateway.conversation import IN_FLIGHT_MAX, Conversations
from services.order_gateway.items import Change

Request = trading_session_pb2.TradingSessionRequest


class Intake:
    """Takes everything and answers nothing by itself."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future] = []

    def enqueue(self, _) -> asyncio.Future:
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


class Desk:
    async def admit_rate(self) -> None:
        pass

    async def place(self, _) -> Change:
        return Change("", "", "", None)


class NoStreams:
    pass


async def endless():
    while True:
        yield Request(place={})


def conversations(intake: Intake) -> Conversations:
    return Conversations(taking=Desk(), intake=intake, amender=None, sessions=None, streams=NoStreams())


async def cut_off(intake: Intake) -> None:
    """Hold a session until all its places are taken, and cut it off."""

    async def hold() -> None:
        async for _ in conversations(intake).hold(endless()):
            pass

    holding = asyncio.create_task(hold())
    async with asyncio.timeout(10):
        while len(intake.answers) < IN_FLIGHT_MAX:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    holding.cancel()
    await asyncio.wait([holding])


async def test_a_session_with_a_full_queue_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    await cut_off(Intake())
    for _ in range(10):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_what_fails_after_a_session_was_cut_off_is_no_unseen_fault() -> None:
    told: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    intake = Intake()
    await cut_off(intake)
    for answer in intake.answers:
        answer.set_exception(RefusedError(away("matcher")))
    await asyncio.sleep(0)
    intake.answers.clear()
    del answer
    gc.collect()
    assert told == []
