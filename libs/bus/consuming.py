"""How every consumer of events works: a batch is handled until its effect is done, however long a passing fault lasts."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from libs.bus.interface import Batch, Consumer
from libs.db.pool import DatabaseAway
from libs.reasons import PASSING, RefusedError
from libs.telemetry import BUS_RETRIES

MESSAGES_MAX = 100
_RETRY_S = 0.5

log = structlog.get_logger()


async def consume(consumer: Consumer, handle: Callable[[Batch], Awaitable[None]], *, queue: str) -> None:
    """Hand every batch to `handle`, which acknowledges it after its effect; runs until cancelled.

    While a service or the database is away the batch is kept and tried again. Any other fault ends this: raises it.
    """
    async for batch in consumer.batches(MESSAGES_MAX):
        while True:
            try:
                await handle(batch)
            except (RefusedError, *DatabaseAway) as error:
                if isinstance(error, RefusedError) and error.refused.reason not in PASSING:
                    raise
                BUS_RETRIES.labels(queue).inc()
                log.warning("events wait", queue=queue, error=str(error), messages=len(batch.messages))
                await asyncio.sleep(_RETRY_S)
            else:
                break
