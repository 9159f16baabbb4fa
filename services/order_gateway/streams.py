"""Own updates for those who listen: order events, sorted by owner, into bounded queues."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

import structlog
from exchange.common.v1 import order_pb2
from prometheus_client import Gauge

from libs.bus.consuming import MESSAGES_MAX
from libs.bus.interface import BusAwayError, Consumer, Message
from libs.db.pool import DatabaseAway
from libs.reasons import Reason, Refused, RefusedError
from libs.seats import Audience
from services.order_gateway.store import OrderStore
from services.order_gateway.updates import newest_updates
from services.order_gateway.wire import apply_update

UPDATES_WAITING_MAX = 1000
SNAPSHOT_MAX = 1000

log = structlog.get_logger()
SUBSCRIBERS = Gauge("order_stream_subscribers", "Open StreamOrders calls, and sessions with updates")


class Subscriber:
    """Who is told the changes of one user's orders."""

    def __init__(self) -> None:
        self._updates: asyncio.Queue[order_pb2.Order | None] = asyncio.Queue(UPDATES_WAITING_MAX)
        self._fell_behind = False

    async def next(self) -> order_pb2.Order | None:
        """The next change; None where some were lost, and then those after."""
        order = await self._updates.get()
        if not self._fell_behind:
            return order
        self._fell_behind = False
        self._updates = asyncio.Queue(UPDATES_WAITING_MAX)
        return None

    def lose(self) -> None:
        """Some are lost to it; None wakes it."""
        self._fell_behind = True
        with contextlib.suppress(asyncio.QueueFull):
            self._updates.put_nowait(None)

    def tell(self, order: order_pb2.Order) -> None:
        """Add a change to those that wait."""
        try:
            self._updates.put_nowait(order)
        except asyncio.QueueFull:
            self._fell_behind = True


class OrderStreams:
    """Subscribers by user."""

    def __init__(self, *, listener: Consumer, store: OrderStore, subscribers_max: int) -> None:
        self._listener = listener
        self._store = store
        self._audience: Audience[Subscriber] = Audience(subscribers_max, SUBSCRIBERS)

    async def run(self) -> None:
        """Distribute until cancelled."""
        async with contextlib.aclosing(self._listener.batches(MESSAGES_MAX)) as batches:
            async for batch in batches:
                if batch.messages:
                    await self._distribute(batch.messages)
                else:  # what came before is lost to us: who listens is told so
                    self._lose_all()
                with contextlib.suppress(BusAwayError):  # then it begins anew, and says so
                    await batch.acknowledge()

    async def _distribute(self, messages: Sequence[Message]) -> None:
        updates = newest_updates(messages) if self._audience.by_user else {}
        wanted = {order_id: update for order_id, update in updates.items() if update.user_id in self._audience.by_user}
        if not wanted:
            return
        try:
            recorded = await self._store.by_ids(wanted)
        except DatabaseAway as error:
            log.warning("updates are lost: database away", error=str(error))
            self._lose_all()
            return
        for order_id, order in recorded.items():
            message = apply_update(order, wanted[order_id])
            for subscriber in self._audience.by_user.get(order.user_id, ()):
                subscriber.tell(message)

    def listening(self, user_id: str) -> AbstractContextManager[Subscriber]:
        """Have a user's changes told as long as this lasts. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        return self._audience.joined(user_id, Subscriber())

    async def subscribe(
        self, user_id: str, changed_since: datetime | None
    ) -> AsyncIterator[tuple[order_pb2.Order | None, bool]]:
        """(order, is snapshot): the open orders, and those that changed since then; None; then every change.

        Raises RefusedError: TOO_MANY_SUBSCRIBERS, or OVERLOADED where the reader fell behind.
        """
        with self.listening(user_id) as subscriber:
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
                message = await subscriber.next()
                if message is None:
                    raise RefusedError(Refused(Reason.OVERLOADED, detail={"retry_after_s": "1", "queue": "updates"}))
                if message.version > told.get(message.order_id, -1):
                    told.pop(message.order_id, None)  # only the snapshot can overlap with what was queued meanwhile
                    yield message, False

    def _lose_all(self) -> None:
        for subscribers in self._audience.by_user.values():
            for subscriber in subscribers:
                subscriber.lose()
