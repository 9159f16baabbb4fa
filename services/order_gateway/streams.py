"""Own updates for those who listen: order events, sorted by owner, into bounded queues."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime

import structlog
from exchange.common.v1 import order_pb2
from prometheus_client import Gauge

from libs.bus.consuming import MESSAGES_MAX
from libs.bus.interface import BusAwayError, Consumer
from libs.db.pool import DatabaseAway
from libs.reasons import Reason, Refused, RefusedError
from libs.seats import Audience
from services.order_gateway.store import OrderStore
from services.order_gateway.updates import newest_updates
from services.order_gateway.wire import apply_update

UPDATES_WAITING_MAX = 1000
SNAPSHOT_MAX = 1000

log = structlog.get_logger()
SUBSCRIBERS = Gauge("order_stream_subscribers", "Open StreamOrders calls")


class _Subscriber:
    def __init__(self) -> None:
        self.updates: asyncio.Queue[order_pb2.Order | None] = asyncio.Queue(UPDATES_WAITING_MAX)
        self.fell_behind = False

    def end(self) -> None:
        """Make it begin again; None wakes it."""
        self.fell_behind = True
        with contextlib.suppress(asyncio.QueueFull):
            self.updates.put_nowait(None)

    def tell(self, order: order_pb2.Order) -> None:
        try:
            self.updates.put_nowait(order)
        except asyncio.QueueFull:
            self.fell_behind = True


class OrderStreams:
    """Subscribers by user."""

    def __init__(self, *, listener: Consumer, store: OrderStore, subscribers_max: int) -> None:
        self._listener = listener
        self._store = store
        self._audience: Audience[_Subscriber] = Audience(subscribers_max, SUBSCRIBERS)

    async def run(self) -> None:
        """Distribute until cancelled."""
        async for batch in self._listener.batches(MESSAGES_MAX):
            updates = newest_updates(batch.messages) if self._audience.by_user else {}
            wanted = {
                order_id: update for order_id, update in updates.items() if update.user_id in self._audience.by_user
            }
            if wanted:
                try:
                    recorded = await self._store.by_ids(wanted)
                except DatabaseAway as error:
                    log.warning("subscribers are ended: database away", error=str(error))
                    self._end_all()
                    recorded = {}
                for order_id, order in recorded.items():
                    message = apply_update(order, wanted[order_id])
                    for subscriber in self._audience.by_user.get(order.user_id, ()):
                        subscriber.tell(message)
            if not batch.messages:  # what came before is lost to us: who listens begins again, with a snapshot
                self._end_all()
            with contextlib.suppress(BusAwayError):  # then it begins anew, and says so
                await batch.acknowledge()

    async def subscribe(
        self, user_id: str, changed_since: datetime | None
    ) -> AsyncIterator[tuple[order_pb2.Order | None, bool]]:
        """(order, is snapshot): the open orders, and those that changed since then; None; then every change.

        Raises RefusedError: TOO_MANY_SUBSCRIBERS, or OVERLOADED where the reader fell behind.
        """
        with self._audience.joined(user_id, _Subscriber()) as subscriber:
            told: dict[str, int] = {}
            orders = await self._store.open_orders(user_id, SNAPSHOT_MAX)
            if changed_since is not None:
                orders += await self._store.changed_orders(user_id, changed_since, SNAPSHOT_MAX)
            for order in orders:
                if order.order_id not in told:
                    yield apply_update(order, None), True
                told[order.order_id] = order.version
            yield None, True
            while True:
                if subscriber.fell_behind:
                    raise RefusedError(Refused(Reason.OVERLOADED, detail={"retry_after_s": "1", "queue": "updates"}))
                message = await subscriber.updates.get()
                if message is not None and message.version > told.get(message.order_id, -1):
                    told.pop(message.order_id, None)  # only the snapshot can overlap with what was queued meanwhile
                    yield message, False

    def _end_all(self) -> None:
        for subscribers in self._audience.by_user.values():
            for subscriber in subscribers:
                subscriber.end()
