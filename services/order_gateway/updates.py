"""Order events from the matcher: what replies did not carry (a maker's fill) or could not finish (a crash) is done here.

Acknowledged only after the record is on disk, so that nothing is lost; done again without harm, so that nothing is done
twice.
"""

from collections.abc import Sequence

import structlog
from exchange.events.v1 import order_pb2
from exchange.wallet.v1 import operation_pb2
from google.protobuf.message import DecodeError

from libs.bus.consuming import consume
from libs.bus.interface import Batch, Consumer, Message
from libs.ids import parse_id
from libs.orders import NEXT
from libs.reasons import RefusedError
from libs.times import NANOSECONDS_END
from services.order_gateway.intake import Intake
from services.order_gateway.store import OrderStore, StateChange
from services.order_gateway.wire import change_from, release_requests

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
        recorded = await self._store.progress(updates)
        releases: list[operation_pb2.ReleaseRequest] = []
        behind: list[order_pb2.OrderUpdate] = []
        changes: list[StateChange] = []
        for order_id, update in updates.items():
            progress = recorded.get(order_id)
            if progress is None:
                log.error("event about an order that is not recorded", order_id=order_id)
                continue
            if progress.version >= update.version and progress.released >= len(update.releases):
                continue
            try:
                change = change_from(update, released=len(update.releases))
            except (RefusedError, KeyError, ValueError):
                log.exception("order event that nobody can read", order_id=order_id)
                continue
            if progress.version < update.version and change.status not in NEXT[progress.status]:
                log.error("impossible life", order_id=order_id, was=progress.status.name, now=change.status.name)
            released = max(progress.released, self._intake.memory.released(order_id))
            releases += release_requests(update, already_released=released)
            behind.append(update)
            changes.append(change)
        await self._intake.release(releases)
        if behind:
            self._intake.memory.note_released(behind)
            await self._store.update(changes)
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
            if not _has_a_place(update):
                log.error("order event that nobody can read", message_id=message.message_id, order_id=update.order_id)
                continue
            known = newest.get(update.order_id)
            if known is None or known.version < update.version:
                newest[update.order_id] = update
    return newest


def _has_a_place(update: order_pb2.OrderUpdate) -> bool:
    """Whether there could be such an order, and such a time. Bytes of another kind may well parse as an update."""
    try:
        parse_id(update.order_id, field="order_id")
    except RefusedError:
        return False
    return 0 < update.updated_at_ns < NANOSECONDS_END
