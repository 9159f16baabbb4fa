"""Order events from the matcher: what replies did not carry (a maker's fill) or could not finish (a crash) is done here.

Acknowledged only after the record is on disk, so that nothing is lost; done again without harm, so that nothing is done
twice.
"""

from collections.abc import Sequence

import structlog
from exchange.events.v1 import order_pb2
from google.protobuf.message import DecodeError

from libs.bus.consuming import consume
from libs.bus.interface import Batch, Consumer, Message
from libs.orders import NEXT, Status
from services.order_gateway.intake import Intake
from services.order_gateway.store import OrderStore
from services.order_gateway.wire import change_from, release_requests

_RELEASES_MAX = 1000

log = structlog.get_logger()


class UpdateConsumer:
    """One queue's way into the orders table."""

    def __init__(self, *, consumer: Consumer, store: OrderStore, intake: Intake, queue: str) -> None:
        self._consumer = consumer
        self._store = store
        self._intake = intake
        self._queue = queue

    async def run(self) -> None:
        """Consume until cancelled."""
        await consume(self._consumer, self._apply, queue=self._queue)

    async def _apply(self, batch: Batch) -> None:
        updates = newest_updates(batch.messages)
        # Our own replies are about to do the same; doing it twice would only cost.
        await self._intake.settled_down(set(updates))
        recorded = await self._store.flushed_progress(updates)
        releases = []
        behind = []
        for order_id, update in updates.items():
            progress = recorded.get(order_id)
            if progress is None:
                log.error("event about an order that is not recorded", order_id=order_id)
                continue
            status = Status(update.status)
            if progress.version < update.version and status not in NEXT[progress.status]:
                log.error("impossible life", order_id=order_id, was=progress.status.name, now=status.name)
            released = max(progress.released, self._intake.released(order_id))
            releases += release_requests(update, already_released=released)
            if progress.version < update.version or progress.released < len(update.releases):
                behind.append(update)
        for start in range(0, len(releases), _RELEASES_MAX):
            await self._intake.release(releases[start : start + _RELEASES_MAX])
        if behind:
            self._intake.note_released(behind)
            await self._store.update([change_from(update) for update in behind], flush=True)
        await batch.acknowledge()


def newest_updates(messages: Sequence[Message]) -> dict[str, order_pb2.OrderUpdate]:
    """The last state of each order that these messages tell of."""
    newest: dict[str, order_pb2.OrderUpdate] = {}
    for message in messages:
        try:
            events = order_pb2.OrderEvents.FromString(message.body)
        except DecodeError:
            log.exception("unreadable order event", message_id=message.message_id)
            continue
        for update in events.updates:
            known = newest.get(update.order_id)
            if known is None or known.version < update.version:
                newest[update.order_id] = update
    return newest
