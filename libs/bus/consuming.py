"""How every consumer of events works: a batch is handled until its effect is done, however long a passing fault lasts."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog

from libs.bus.interface import Batch, BusAwayError, Consumer
from libs.db.pool import DatabaseAway
from libs.reasons import PASSING, RefusedError
from libs.telemetry import BUS_RETRIES

MESSAGES_MAX = 100
_RETRY_S = 0.2
_RETRY_MAX_S = 3.0

log = structlog.get_logger()


async def consume(consumer: Consumer, handle: Callable[[Batch], Awaitable[None]], *, queue: str) -> None:
    """Hand every batch to `handle`, which acknowledges it after its effect; runs until cancelled.

    While a service (or the circuit to it) or the database is away, or a service refuses the call as a whole, the batch is
    kept and tried again, less and less often; meanwhile nothing more is taken than the prefetch. One whose acknowledgement
    is lost comes again by itself. Any other fault ends this: raises it.
    """
    async with aclosing(consumer.batches(MESSAGES_MAX)) as batches:
        async for batch in batches:
            await _until_done(handle, batch, queue)


async def _until_done(handle: Callable[[Batch], Awaitable[None]], batch: Batch, queue: str) -> None:
    wait_s = _RETRY_S
    while True:
        try:
            await handle(batch)
        except BusAwayError as error:
            log.warning("events will come again", queue=queue, error=str(error), messages=len(batch.messages))
        except (RefusedError, *DatabaseAway) as error:
            BUS_RETRIES.labels(queue).inc()
            passing = not isinstance(error, RefusedError) or error.refused.reason in PASSING
            (log.warning if passing else log.error)(
                "events wait", queue=queue, error=str(error), messages=len(batch.messages)
            )
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_MAX_S)
            continue
        return
