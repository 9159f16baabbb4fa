"""Own updates for those who listen: order events, sorted by owner, into bounded queues."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

import structlog
from exchange.common.v1 import order_pb2
from exchange.events.v1 import order_pb2 as order_events_pb2
from prometheus_client import Gauge

from libs.bounded import put_bounded
from libs.bus.consuming import MESSAGES_MAX
from libs.bus.interface import BusAwayError, Consumer, Message
from libs.db.pool import DatabaseAway
from libs.reasons import Reason, Refused, RefusedError
from libs.seats import Audience
from services.order_gateway.core.records import OrderRow
from services.order_gateway.memory import KNOWN_MAX, OrderMemory
from services.order_gateway.store import OrderStore
from services.order_gateway.updates import newest_updates
from services.order_gateway.wire import apply_update

UPDATES_WAITING_MAX = 1000
SNAPSHOT_MAX = 1000
# Events are told at once, and recorded a little later: who comes in between finds in the record what was before.
HEARD_S = 60.0
HEARD_BYTES_MAX = 4 * 1024 * 1024

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


class LatelyHeard:
    """The events of the last minute, as many as there is room for: of a user, for who begins to listen."""

    def __init__(self) -> None:
        self._messages: deque[tuple[float, Message]] = deque()
        self._bytes = 0

    def add(self, messages: Iterable[Message]) -> None:
        """Keep these, and forget the oldest."""
        now = time.monotonic()
        for message in messages:
            self._messages.append((now, message))
            self._bytes += len(message.body)
        while self._messages and (self._messages[0][0] < now - HEARD_S or self._bytes > HEARD_BYTES_MAX):
            self._bytes -= len(self._messages.popleft()[1].body)

    def of(self, user_id: str) -> dict[str, order_events_pb2.OrderUpdate]:
        """The newest update of each of a user's orders."""
        owner = user_id.encode()
        updates = newest_updates([message for _, message in self._messages if owner in message.body])
        return {order_id: update for order_id, update in updates.items() if update.user_id == user_id}


class OrderStreams:
    """Subscribers by user."""

    def __init__(self, *, listener: Consumer, store: OrderStore, memory: OrderMemory, subscribers_max: int) -> None:
        self._listener = listener
        self._store = store
        self._memory = memory
        self._audience: Audience[Subscriber] = Audience(subscribers_max, SUBSCRIBERS)
        self._heard = LatelyHeard()
        self._told: dict[str, int] = {}

    async def run(self) -> None:
        """Distribute until cancelled."""
        async with contextlib.aclosing(self._listener.batches(MESSAGES_MAX)) as batches:
            async for batch in batches:
                if batch.messages:
                    self._heard.add(batch.messages)
                    await self._distribute(batch.messages)
                else:  # what came before is lost to us: who listens is told so
                    self._lose_all()
                with contextlib.suppress(BusAwayError):  # then it begins anew, and says so
                    await batch.acknowledge()

    async def _distribute(self, messages: Sequence[Message]) -> None:
        updates = newest_updates(messages) if self._audience.by_user else {}
        wanted = {
            order_id: update
            for order_id, update in updates.items()
            if update.user_id in self._audience.by_user and update.version > self._told.get(order_id, 0)
        }
        if not wanted:
            return
        try:
            orders = await self._orders(wanted)
        except DatabaseAway as error:
            log.warning("updates are lost: database away", error=str(error))
            self._lose_all()
            return
        for order in orders:
            message = apply_update(order, wanted[order.order_id])
            put_bounded(self._told, order.order_id, message.version, limit=KNOWN_MAX)
            for subscriber in self._audience.by_user.get(order.user_id, ()):
                subscriber.tell(message)

    async def _orders(self, order_ids: Iterable[str]) -> list[OrderRow]:
        """The orders as they are remembered, or, those of other gateways and earlier times, recorded."""
        remembered = {order_id: self._memory.by_id(order_id) for order_id in order_ids}
        missing = [order_id for order_id, order in remembered.items() if order is None]
        recorded = await self._store.by_ids(missing) if missing else {}
        for order in recorded.values():
            self._memory.remember(order)
        return [order for order in (remembered | recorded).values() if order is not None]

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
            heard = self._heard.of(user_id)
            for order in orders:
                if order.order_id not in told:
                    told[order.order_id] = order.version
                    yield apply_update(order, None), True
            yield None, True
            for order in orders:
                update = heard.pop(order.order_id, None)
                if update is not None and update.version > order.version:
                    told[order.order_id] = update.version
                    yield apply_update(order, update), False
            del orders, heard  # a stream may last for days
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
