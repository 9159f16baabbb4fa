"""Trading sessions whose orders end with them: cancel on disconnect.

A session is on disk before its first order, and its gateway keeps saying that it is alive; so that when a gateway dies,
another one ends its sessions. Ending is cancelling all orders of the session at the matcher, which may be done any number of
times.
"""

import asyncio
from collections.abc import Awaitable, Sequence

import structlog
from prometheus_client import Gauge

from libs.db.pool import DatabaseAway, Pool
from libs.ids import new_id
from libs.reasons import RefusedError
from services.order_gateway.intake import Intake

ALIVE_S = 10.0
KEPT_EVERY_S = 2.0
# What a session sent last is answered before its orders are cancelled, so that none slips through.
LAST_ANSWERS_S = 60.0
ENDED_AT_ONCE_MAX = 100

OPEN = (
    "INSERT INTO orders.sessions (session_id, user_id, alive_until) VALUES ($1, $2, now() + $3 * interval '1 second')"
)
KEEP = "UPDATE orders.sessions SET alive_until = now() + $2 * interval '1 second' WHERE session_id = ANY ($1::uuid[])"
EXPIRED = """
SELECT session_id::text, user_id::text FROM orders.sessions WHERE alive_until < now() ORDER BY alive_until LIMIT $1
"""
CLOSE = "DELETE FROM orders.sessions WHERE session_id = $1"

log = structlog.get_logger()
OPEN_SESSIONS = Gauge("trading_sessions_cancelling", "Open trading sessions whose orders end with them")


class Sessions:
    """Those of this gateway, and the leftovers of others."""

    def __init__(self, *, pool: Pool, flow: Intake) -> None:
        self._pool = pool
        self._flow = flow
        self._alive: dict[str, str] = {}
        self._left: list[tuple[str, Sequence[Awaitable[object]]]] = []
        self._wake = asyncio.Event()

    async def open(self, user_id: str) -> str:
        """A new session's id. Raises what asyncpg raises where the database is away."""
        session_id = new_id()
        await self._pool.execute(OPEN, session_id, user_id, ALIVE_S)
        self._alive[session_id] = user_id
        OPEN_SESSIONS.set(len(self._alive))
        return session_id

    def leave(self, session_id: str, unanswered: Sequence[Awaitable[object]]) -> None:
        """The session's caller is gone; `unanswered` is what it still had under way."""
        self._left.append((session_id, unanswered))
        self._wake.set()

    async def run(self) -> None:
        """Keep sessions alive, and end those that are over, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    async with asyncio.timeout(KEPT_EVERY_S):
                        await self._wake.wait()
                except TimeoutError:
                    group.create_task(self._keep())
                self._wake.clear()
                left, self._left = self._left, []
                for session_id, unanswered in left:
                    group.create_task(self._end_after(session_id, unanswered))

    async def _keep(self) -> None:
        try:
            if self._alive:
                await self._pool.execute(KEEP, list(self._alive), ALIVE_S)
            for row in await self._pool.fetch(EXPIRED, ENDED_AT_ONCE_MAX):
                if row["session_id"] not in self._alive:
                    log.info("ending a session that nobody keeps alive", session=row["session_id"])
                    await self._end(row["session_id"], row["user_id"])
        except (RefusedError, *DatabaseAway) as error:
            log.warning("sessions wait", error=f"{type(error).__name__}: {error}")

    async def _end_after(self, session_id: str, unanswered: Sequence[Awaitable[object]]) -> None:
        if unanswered:
            waiting = [asyncio.ensure_future(answer) for answer in unanswered]
            await asyncio.wait(waiting, timeout=LAST_ANSWERS_S)
        user_id = self._alive.pop(session_id)
        OPEN_SESSIONS.set(len(self._alive))
        try:
            await self._end(session_id, user_id)
        except (RefusedError, *DatabaseAway) as error:  # nobody keeps it alive now: it is tried again when it expires
            log.warning("a session is ended later", session=session_id, error=f"{type(error).__name__}: {error}")

    async def _end(self, session_id: str, user_id: str) -> None:
        cancelled = await self._flow.cancel_all(user_id, "", session=session_id)
        await self._pool.execute(CLOSE, session_id)
        log.info("session ended", session=session_id, cancelled=len(cancelled))
