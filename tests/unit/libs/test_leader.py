"""A call to a shard's leader: who cancelled it makes the difference."""

import asyncio
from typing import Any

import pytest

from libs.clients.leader import ShardLeader
from libs.config import Tls


class Lease:
    """Where the leader is, as the database would tell."""

    async def fetchval(self, *_: object) -> str:
        return "127.0.0.1:1"


class Calls:
    """Calls that are given, one after the other; a real channel cancels those under way when it is closed."""

    def __init__(self, *calls: asyncio.Future[Any]) -> None:
        self._calls = list(calls)

    def begin(self, *_: object) -> asyncio.Future[Any]:
        return self._calls.pop(0)


def leader(*calls: asyncio.Future[Any]) -> ShardLeader:
    return ShardLeader(pool=Lease(), peer=Calls(*calls), shard=0, patience_s=60, tls=Tls())  # type: ignore[arg-type]


async def test_a_call_that_ends_with_its_channel_is_tried_again() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    calling = asyncio.create_task(leader(first, second).call("Submit", object()))
    await asyncio.sleep(0)
    loop.call_later(0.01, first.cancel)
    second.set_result("answer")
    assert await calling == "answer"


async def test_a_caller_that_is_cancelled_is_cancelled_and_so_is_its_call() -> None:
    under_way = asyncio.get_running_loop().create_future()
    calling = asyncio.create_task(leader(under_way).call("Submit", object()))
    await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert under_way.cancelled()
