"""Whose session is over, when its gateway says nothing: only one that stays silent while we look."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.ids import new_id
from services.order_gateway import sessions
from services.order_gateway.sessions import Sessions


class Flow:
    """Cancels nothing, and remembers whose."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def cancel_all(self, _user_id: str, _symbol: str, *, session: str) -> list[str]:
        self.ended.append(session)
        return []


class Gateway:
    def __init__(self, pool) -> None:
        self.pool, self.flow = pool, Flow()
        self.sessions = Sessions(pool=pool, flow=self.flow)  # type: ignore[arg-type]


@pytest.fixture
async def gateways(pool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Gateway, Gateway]]:
    monkeypatch.setattr(sessions, "SILENT_S", 0.2)
    await pool.execute("DELETE FROM orders.sessions")
    yield Gateway(pool), Gateway(pool)
    await pool.execute("DELETE FROM orders.sessions")


async def say_nothing_for(pool, hours: int = 1) -> None:
    await pool.execute("UPDATE orders.sessions SET alive_until = now() - $1 * interval '1 hour'", hours)


async def test_a_session_is_ended_once_it_was_silent_before_our_eyes(gateways: tuple[Gateway, Gateway]) -> None:
    dead, other = gateways
    session = await dead.sessions.open(new_id())
    await other.sessions.end_silent()
    await say_nothing_for(dead.pool)
    await other.sessions.end_silent()
    assert not other.flow.ended, "it may have been kept from saying that it lives"
    await asyncio.sleep(0.25)
    await other.sessions.end_silent()
    assert other.flow.ended == [session]
    assert await dead.pool.fetchval("SELECT count(*) FROM orders.sessions") == 0


async def test_a_gateway_that_could_not_say_so_keeps_its_sessions(gateways: tuple[Gateway, Gateway]) -> None:
    """As after a database that was away, or a clock that has jumped ahead."""
    mute, other = gateways
    await mute.sessions.open(new_id())
    for _ in range(3):
        await say_nothing_for(mute.pool)
        await other.sessions.end_silent()
        await mute.sessions._keep()
        await asyncio.sleep(0.25)
        await other.sessions.end_silent()
    await say_nothing_for(mute.pool, hours=1)
    await other.sessions.end_silent()
    await asyncio.sleep(0.25)
    await say_nothing_for(mute.pool, hours=2)
    await other.sessions.end_silent()
    assert not other.flow.ended, "silent for twice a moment is not silent for long"


async def test_a_session_that_another_ended_is_kept_again(gateways: tuple[Gateway, Gateway]) -> None:
    paused, _ = gateways
    session = await paused.sessions.open(new_id())
    await paused.pool.execute("DELETE FROM orders.sessions")
    await paused.sessions._keep()
    assert await paused.pool.fetchval("SELECT session_id::text FROM orders.sessions") == session
