"""Snapshots: made by a process of their own, which replays the journal as a recovery would, so that matching never waits.

`python -m services.matcher.snapshots` makes one; the leader starts it every so many commands.
"""

import asyncio
import os
import sys
from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from libs.config import Settings
from libs.db.pool import DatabaseAway, open_pool
from libs.runtime import SUPERVISOR_PID, run_service
from services.matcher.journal import Journal
from services.matcher.recovery import recover

KEPT = 3
_LOOK_EVERY_S = 5.0

log = structlog.get_logger()
SNAPSHOT_SEQUENCE = Gauge("matcher_snapshot_sequence", "Last command in the newest snapshot")


async def keep_snapshots(journal: Journal, *, every: int, sequence: Callable[[], int]) -> None:
    """Have a snapshot made whenever the newest is `every` commands old; runs until cancelled."""
    while True:
        try:
            newest, _ = await journal.newest_state_hash()
        except DatabaseAway as error:
            log.warning("no snapshot: database away", error=str(error))
        else:
            SNAPSHOT_SEQUENCE.set(newest)
            if sequence() - newest >= every:
                await _make_one()
        await asyncio.sleep(_LOOK_EVERY_S)


async def _make_one() -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.matcher.snapshots", env={**os.environ, SUPERVISOR_PID: str(os.getpid())}
        )
    except OSError as error:  # no memory or no room for another process: no reason to stop matching
        log.error("no snapshot was made", error=f"{type(error).__name__}: {error}")  # noqa: TRY400 - says it all
        return
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
    if code:
        log.error("no snapshot was made", exit_code=code)


async def main(settings: Settings) -> None:
    """Make one snapshot of the shard of these settings, and forget all but the newest."""
    os.nice(10)
    pool = await open_pool(settings.database, service="matcher")
    journal = Journal(pool, shard=settings.matcher.shard, owner="snapshots", address="", lease_ms=1)
    state = await recover(journal)
    if state.sequence:
        await journal.store_snapshot(state.snapshot(), kept=KEPT)
        log.info("snapshot made", shard=journal.shard, sequence=state.sequence)
    await pool.close()


if __name__ == "__main__":
    run_service("matcher-snapshots", main)
