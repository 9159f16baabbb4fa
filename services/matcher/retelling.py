"""Trades of the past, made again from the journal, by a process of its own, so that matching never waits.

`python -m services.matcher.retelling SYMBOL FIRST LAST` writes them to its output: TradeEvents, each after its length.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import structlog
from exchange.events.v1 import trade_pb2

from libs.bus.topology import TRADE_EVENTS
from libs.config import Settings
from libs.db.pool import open_pool
from libs.reasons import Reason, Refused, RefusedError
from libs.runtime import SUPERVISOR_PID, run_service
from services.matcher.journal import Journal
from services.matcher.recovery import State

_LENGTH_BYTES = 4
_NICENESS = 10

log = structlog.get_logger()


class Reteller:
    """Runs that process, one at a time."""

    def __init__(self) -> None:
        self._busy = False

    async def trades(self, symbol: str, first: int, last: int) -> AsyncIterator[trade_pb2.TradeEvents]:
        """These trades, in order. Raises RefusedError: OVERLOADED while another replay runs, INTERNAL where it fails."""
        if self._busy:
            raise RefusedError(Refused(Reason.OVERLOADED, detail={"queue": "replays", "retry_after_s": "5"}))
        self._busy = True
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.matcher.retelling", symbol, str(first), str(last),
                env={**os.environ, SUPERVISOR_PID: str(os.getpid())}, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None, "it was asked for"
            async for body in bodies(process.stdout):
                yield trade_pb2.TradeEvents.FromString(body)
            if code := await process.wait():
                log.error("the replay failed", exit_code=code)
                raise RefusedError(Refused(Reason.INTERNAL))
        finally:
            self._busy = False
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


async def bodies(told: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What stands after its length each, up to the end or to where it breaks off. However a pipe cuts it up."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            yield await told.readexactly(int.from_bytes(await told.readexactly(_LENGTH_BYTES), "big"))


async def retell(journal: Journal, symbol: str, first: int, last: int) -> AsyncIterator[trade_pb2.TradeEvents]:
    """Replay from the newest snapshot before the first of these trades to the last of them.

    Raises JournalBrokenError where the replay gives other events than were recorded.
    """
    state = await _state_before(journal, symbol, first)
    async with aclosing(journal.replay(state.sequence)) as rows:
        async for row in rows:
            for message in state.retell(row):
                if message.exchange != TRADE_EVENTS:
                    continue
                events = trade_pb2.TradeEvents.FromString(message.body)
                wanted = [trade for trade in events.trades if first <= trade.sequence <= last]
                if events.symbol == symbol and wanted:
                    del events.trades[:]
                    events.trades.extend(wanted)
                    yield events
            market = state.engine.markets.get(symbol)
            if market is not None and market.trades >= last:
                return


async def _state_before(journal: Journal, symbol: str, first: int) -> State:
    until = None
    while (snapshot := await journal.newest_snapshot(until)) is not None:
        state = State.of_snapshot(journal.shard, snapshot)
        market = state.engine.markets.get(symbol)
        if market is None or market.trades < first:
            return state
        until = snapshot.sequence - 1
    return State(journal.shard)


async def main(settings: Settings) -> None:
    """Write the trades that the arguments name."""
    symbol, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.nice(_NICENESS)
    pool = await open_pool(settings.database, service="matcher")
    journal = Journal(pool, shard=settings.matcher.shard, owner="retelling", address="", lease_ms=1)
    async for events in retell(journal, symbol, first, last):
        body = events.SerializeToString()
        sys.stdout.buffer.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
        sys.stdout.buffer.flush()
    await pool.close()


if __name__ == "__main__":
    run_service("matcher-retelling", main)
