"""Trading sessions whose orders end with them: cancel on disconnect.

A session is on disk before its first order, and its gateway keeps saying that it is alive; so that when a gateway dies,
another one ends its sessions. That one goes by what it sees, not by the server's clock alone: a gateway that could not say
so (the database was away, a clock has jumped) has time to. Ending is cancelling all orders of the session at the matcher,
which may be done any number of times.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
from prometheus_client import Gauge

from libs.db.pool import DatabaseAway, Pool
from libs.ids import new_id
from libs.reasons import RefusedError
from services.order_gateway.intake import Intake

ALIVE_S = 10.0
KEPT_EVERY_S = 2.0
# How long another gateway's session must be silent after its time, before our eyes.
SILENT_S = 5.0
# What a session sent last is answered before its orders are cancelled, so that none slips through.
LAST_ANSWERS_S = 60.0
WATCHED_MAX = 1000

OPEN = (
    "INSERT INTO orders.sessions (session_id, user_id, alive_until) VALUES ($1, $2, now() + $3 * interval '1 second')"
)
# Also those that another gateway has ended meanwhile (we were paused): what they place from now on ends with them, too.
KEEP = """
INSERT INTO orders.sessions (session_id, user_id, alive_until)
SELECT session_id, user_id, now() + $3 * interval '1 second' FROM unnest($1::uuid[], $2::uuid[]) AS s (session_id, user_id)
ON CONFLICT (session_id) DO UPDATE SET alive_until = excluded.alive_until
"""
EXPIRED = """
SELECT session_id::text, user_id::text, alive_until FROM orders.sessions WHERE alive_until < now()
ORDER BY alive_until LIMIT $1
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
        # Sessions of others that are over their time: until when they were alive, and since when we look at that.
        self._silent: dict[str, tuple[datetime, float]] = {}
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
            group.create_task(self._again_and_again(self._keep))
            group.create_task(self._again_and_again(self.end_silent))
            while True:
                await self._wake.wait()
                self._wake.clear()
                left, self._left = self._left, []
                for session_id, unanswered in left:
                    group.create_task(self._end_after(session_id, unanswered))

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(KEPT_EVERY_S)
            try:
                await work()
            except (RefusedError, *DatabaseAway) as error:
                log.warning("sessions wait", error=f"{type(error).__name__}: {error}")

    async def _keep(self) -> None:
        if self._alive:
            await self._pool.execute(KEEP, list(self._alive), list(self._alive.values()), ALIVE_S)

    async def end_silent(self) -> None:
        """End sessions of others that have been silent for long enough; those that begin to be are remembered."""
        known, self._silent = self._silent, {}
        now = time.monotonic()
        for session_id, user_id, alive_until in await self._pool.fetch(EXPIRED, WATCHED_MAX):
            if session_id in self._alive:
                continue
            until, since = known.get(session_id, (alive_until, now))
            self._silent[session_id] = alive_until, since if until == alive_until else now
            if now - self._silent[session_id][1] >= SILENT_S:
                log.info("ending a session that nobody keeps alive", session=session_id)
                await self._end(session_id, user_id)

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
