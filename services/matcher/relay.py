"""Carries the outbox to the bus: in order, advancing only after the bus has confirmed, forever patient."""

import asyncio
from collections import deque

import structlog
from prometheus_client import Gauge

from libs.bus.interface import BusAwayError, Message, Publisher
from libs.db.pool import DatabaseAway
from services.matcher.journal import Journal

BATCH_MAX = 200
REMEMBERED_MAX = 20_000
PRUNE_EVERY_S = 60.0
_RETRY_S = 0.5

log = structlog.get_logger()
LAG = Gauge("outbox_lag_messages", "Messages committed but not yet confirmed by the bus")


class Relay:
    """Publishes what commits hand over; what it does not remember it reads from the outbox."""

    def __init__(self, *, journal: Journal, publisher: Publisher, keep_s: int) -> None:
        self._journal = journal
        self._publisher = publisher
        self._keep_s = keep_s
        self._waiting: deque[tuple[int, Message]] = deque()
        self._published = 0
        self._committed = 0
        self._wake = asyncio.Event()

    @property
    def lag(self) -> int:
        """Messages committed but not confirmed."""
        return self._committed - self._published

    async def recover(self, last_position: int) -> None:
        """Begin where the bus last confirmed."""
        self._published = await self._journal.published()
        self._committed = last_position
        self._wake.set()

    def hand_over(self, position: int, messages: list[Message]) -> None:
        """Take what was just committed; `position` is the one before the first."""
        assert position == self._committed, "outbox positions have no gaps"
        self._committed += len(messages)
        if len(self._waiting) + len(messages) <= REMEMBERED_MAX:
            self._waiting.extend(enumerate(messages, start=position + 1))
        if messages:
            self._wake.set()
            LAG.set(self.lag)

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            if self._published >= self._committed:
                self._wake.clear()
                await self._wake.wait()
            try:
                batch = await self._next()
                await self._publisher.publish([message for _, message in batch])
                await self._journal.set_published(batch[-1][0])
            except (BusAwayError, *DatabaseAway) as error:
                log.warning("cannot publish", error=f"{type(error).__name__}: {error}", lag=self.lag)
                await asyncio.sleep(_RETRY_S)
                continue
            self._published = batch[-1][0]
            LAG.set(self.lag)

    async def prune(self) -> None:
        """Delete old confirmed rows, until cancelled."""
        while True:
            await asyncio.sleep(PRUNE_EVERY_S)
            try:
                deleted = await self._journal.prune_outbox(self._published, self._keep_s)
            except DatabaseAway as error:
                log.warning("cannot prune the outbox", error=str(error))
                continue
            if deleted:
                log.info("outbox pruned", rows=deleted)

    async def _next(self) -> list[tuple[int, Message]]:
        waiting = self._waiting
        while waiting and waiting[0][0] <= self._published:
            waiting.popleft()
        if waiting and waiting[0][0] == self._published + 1:
            batch: list[tuple[int, Message]] = []
            for position, message in waiting:
                if len(batch) == BATCH_MAX or position != self._published + 1 + len(batch):
                    break
                batch.append((position, message))
            return batch
        return await self._journal.outbox_after(self._published, BATCH_MAX)
