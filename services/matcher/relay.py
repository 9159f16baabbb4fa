"""Carries the outbox to the bus: in order, advancing only after the bus has confirmed, forever patient."""

import asyncio
import time
from collections import deque

import structlog
from prometheus_client import Gauge

from libs.bus.interface import BusAwayError, Message, Publisher
from libs.db.pool import DatabaseAway
from services.matcher.journal import PRUNE_ROWS, Journal

BATCH_MAX = 200
# What waits is remembered up to here, and read from the outbox beyond.
REMEMBERED_MAX = 20_000
REMEMBERED_BYTES_MAX = 32 * 1024 * 1024
PRUNE_EVERY_S = 60.0
PRUNE_AGAIN_S = 0.5  # where one time is not enough
POSITION_KEPT_EVERY_S = 0.1
_RETRY_S = 0.5

log = structlog.get_logger()
LAG = Gauge("outbox_lag_messages", "Messages committed but not yet confirmed by the bus")
LAG_SECONDS = Gauge("outbox_lag_seconds", "Seconds since the bus last took messages, while some wait")


class Relay:
    """Publishes what commits hand over; what it does not remember it reads from the outbox.

    Rows are kept for `keep_s` once they are published, and where a reader of the embedded bus has not read them,
    for `unread_keep_s`.
    """

    def __init__(self, *, journal: Journal, publisher: Publisher, keep_s: int, unread_keep_s: int) -> None:
        self._journal = journal
        self._publisher = publisher
        self._keep_s = keep_s
        self._unread_keep_s = unread_keep_s
        self._waiting: deque[tuple[int, Message]] = deque()
        self._waiting_bytes = 0
        self._published = 0
        self._committed = 0
        self._behind_since: float | None = None
        self._wake = asyncio.Event()
        LAG_SECONDS.set_function(lambda: self.lag_s)

    @property
    def lag_s(self) -> float:
        """Seconds since the bus last took messages, while some wait; else 0."""
        return 0.0 if self._behind_since is None else time.monotonic() - self._behind_since

    @property
    def lag(self) -> int:
        """Messages committed but not confirmed."""
        return self._committed - self._published

    async def recover(self, last_position: int) -> None:
        """Begin where the bus last confirmed."""
        self._published = await self._journal.published()
        self._committed = last_position
        self._note()
        self._wake.set()

    def hand_over(self, position: int, messages: list[Message]) -> None:
        """Take what was just committed; `position` is the one before the first."""
        assert position == self._committed, "outbox positions have no gaps"
        self._committed += len(messages)
        size = sum(len(message.body) for message in messages)
        if len(self._waiting) + len(messages) <= REMEMBERED_MAX and self._waiting_bytes + size <= REMEMBERED_BYTES_MAX:
            self._waiting.extend(enumerate(messages, start=position + 1))
            self._waiting_bytes += size
        if messages:
            self._wake.set()
            self._note()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            if self._published >= self._committed:
                self._wake.clear()
                await self._wake.wait()
            try:
                batch = await self._next()
                await self._publisher.publish([message for _, message in batch])
            except (BusAwayError, *DatabaseAway) as error:
                log.warning("cannot publish", error=f"{type(error).__name__}: {error}", lag=self.lag)
                await asyncio.sleep(_RETRY_S)
                continue
            self._published = batch[-1][0]
            self._behind_since = time.monotonic()
            self._note()

    async def keep_position(self) -> None:
        """Remember how far the bus has confirmed, until cancelled.

        Behind publishing, so that this costs no message any time: after a crash a little is published again.
        """
        kept = self._published
        while True:
            await asyncio.sleep(POSITION_KEPT_EVERY_S)
            published = self._published
            if published == kept:
                continue
            try:
                await self._journal.set_published(published)
            except DatabaseAway as error:
                log.warning("cannot remember the position", error=str(error))
            else:
                kept = published

    async def prune(self) -> None:
        """Delete old confirmed rows, until cancelled; as fast as they come."""
        while True:
            deleted = 0
            try:
                deleted = await self._journal.prune_outbox(
                    self._published, keep_s=self._keep_s, unread_keep_s=self._unread_keep_s
                )
            except DatabaseAway as error:
                log.warning("cannot prune the outbox", error=str(error))
            if deleted:
                log.info("outbox pruned", rows=deleted)
            await asyncio.sleep(PRUNE_EVERY_S if deleted < PRUNE_ROWS else PRUNE_AGAIN_S)

    def _note(self) -> None:
        LAG.set(self.lag)
        if not self.lag:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = time.monotonic()

    async def _next(self) -> list[tuple[int, Message]]:
        waiting = self._waiting
        while waiting and waiting[0][0] <= self._published:
            _, message = waiting.popleft()
            self._waiting_bytes -= len(message.body)
        if waiting and waiting[0][0] == self._published + 1:
            batch: list[tuple[int, Message]] = []
            for position, message in waiting:
                if len(batch) == BATCH_MAX or position != self._published + 1 + len(batch):
                    break
                batch.append((position, message))
            return batch
        return await self._journal.outbox_after(self._published, BATCH_MAX)
