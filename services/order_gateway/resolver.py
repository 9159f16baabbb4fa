"""Orders that stayed PENDING (their gateway died, or every try timed out) are resolved by asking, never by guessing.

The matcher is told to tombstone the order: if it knows it, it answers with what became of it; if not, it will refuse it
for ever. Then all that is reserved for it is released, and a Reserve that is still under way is kept out. Every step is
idempotent, so that any number of gateways may do this side by side.
"""

import asyncio

import structlog
from exchange.matcher.v1 import command_pb2
from prometheus_client import Counter

from libs.db.pool import DatabaseAway
from libs.reasons import Reason, RefusedError
from services.order_gateway.clients import MatcherClient
from services.order_gateway.core.records import OrderRow
from services.order_gateway.intake import Intake
from services.order_gateway.store import OrderStore
from services.order_gateway.wire import close_request

BATCH_MAX = 500
EVERY_S = 2.0

log = structlog.get_logger()
RESOLVED = Counter("orders_resolved_total", "Orders that were stuck in PENDING", ["outcome"])


class Resolver:
    """Looks for stuck orders now and then."""

    def __init__(self, *, store: OrderStore, matcher: MatcherClient, intake: Intake, after_s: float) -> None:
        self._store = store
        self._matcher = matcher
        self._intake = intake
        self._after_s = after_s

    async def run(self) -> None:
        """Resolve until cancelled."""
        while True:
            try:
                stuck = await self._store.pending(self._after_s, BATCH_MAX)
                if stuck:
                    await self.resolve(stuck)
            except (RefusedError, *DatabaseAway) as error:
                log.warning("resolving waits", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def resolve(self, stuck: list[OrderRow]) -> None:
        """Bring these orders to where they belong. Raises RefusedError; what is done stays done."""
        commands = [
            command_pb2.Command(
                tombstone=command_pb2.Tombstone(
                    order_id=order.order_id, user_id=order.user_id, symbol=order.request.symbol
                )
            )
            for order in stuck
        ]
        results = await self._matcher.submit(commands)
        given_up = []
        updates = []
        for order, result in zip(stuck, results, strict=True):
            if not result.HasField("order"):
                log.error("cannot resolve", order_id=order.order_id, refusal=Reason(result.refusal).name)
                continue
            updates.append(result.order)
            dead = Reason(result.order.reason) is Reason.GIVEN_UP
            if dead:
                given_up.append(close_request(order))
            RESOLVED.labels("given_up" if dead else "found").inc()
        if given_up:
            await self._intake.release(given_up)
        await self._intake.record_updates(updates)
        log.info("resolved stuck orders", orders=len(updates), given_up=len(given_up))
