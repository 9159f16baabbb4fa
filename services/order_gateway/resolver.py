"""Orders that stayed PENDING (their gateway died, or every try timed out) are resolved by asking, never by guessing.

The matcher is told to tombstone the order: if it knows it, it answers with what became of it; if not, it will refuse it
for ever. Then all that is reserved for it is released, and a Reserve that is still under way is kept out. An order's age is
told by two clocks, which may differ, or jump: so it is looked at twice, and what is merely under way is gone by then.

Orders that are open, or that the wallet has not released all of, are swept through, a page at a time: the matcher is asked
what became of them, so that one whose events were lost for good (a broker's disk, a day without a gateway) does not stay
open in our record, nor its money held, for ever.

A change that was cut off between the wallet and the matcher is brought to its end.

Every step is idempotent, so that any number of gateways may do this side by side.
"""

import asyncio
from collections import Counter

import prometheus_client
import structlog
from exchange.matcher.v1 import command_pb2

from libs.config import CALL_MAX
from libs.db.pool import DatabaseAway
from libs.ids import FIRST_ID
from libs.reasons import PASSING, Reason, Refused, RefusedError
from services.order_gateway.amending import Amender
from services.order_gateway.clients import MatcherClient
from services.order_gateway.core.records import OrderRow
from services.order_gateway.intake import Intake
from services.order_gateway.store import OrderStore
from services.order_gateway.wire import close_request

BATCH_MAX = CALL_MAX
EVERY_S = 2.0
SWEEP_PAGE = 200

log = structlog.get_logger()
RESOLVED = prometheus_client.Counter("orders_resolved_total", "Orders that were stuck in PENDING", ["outcome"])
SWEPT = prometheus_client.Counter("orders_swept_total", "Open orders compared with the matcher's", ["outcome"])


class Resolver:
    """Looks for stuck orders now and then.

    Those that are PENDING for `after_s`, two looks in succession, are resolved; open ones that have not changed for
    `sweep_after_s` are compared.
    """

    def __init__(
        self, *, store: OrderStore, matcher: MatcherClient, intake: Intake, amender: Amender, after_s: float,
        sweep_after_s: float,
    ) -> None:  # fmt: skip
        self._store = store
        self._matcher = matcher
        self._intake = intake
        self._amender = amender
        self._after_s = after_s
        self._sweep_after_s = sweep_after_s
        self._swept_until = FIRST_ID
        self._seen: set[str] = set()  # PENDING the last time, at most BATCH_MAX

    async def run(self) -> None:
        """Resolve until cancelled."""
        while True:
            try:
                await self.resolve_pending()
                await self.resume_changes()
                await self.sweep()
            except (RefusedError, *DatabaseAway) as error:
                log.warning("resolving waits", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def resume_changes(self) -> None:
        """Bring changes that were cut off to their end. Raises RefusedError for a passing fault, or what asyncpg raises.

        One that is refused for good keeps nothing else waiting.
        """
        for order in await self._store.amending(self._after_s, BATCH_MAX):
            try:
                await self._amender.resume(order)
            except RefusedError as error:
                if error.refused.reason in PASSING:
                    raise
                log.error("cannot resolve a change", order_id=order.order_id, refused=str(error))  # noqa: TRY400 - says it all

    async def resolve_pending(self) -> None:
        """Resolve what is PENDING now and was the last time. Raises RefusedError, or what asyncpg raises."""
        pending = await self._store.pending(self._after_s, BATCH_MAX)
        stuck = [order for order in pending if order.order_id in self._seen]
        self._seen = {order.order_id for order in pending}
        if stuck:
            await self._resolve(stuck)

    async def _resolve(self, stuck: list[OrderRow]) -> None:
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
        waiting = Counter(str(result) for result in results if isinstance(result, Refused))
        for order, result in zip(stuck, results, strict=True):
            if isinstance(result, Refused):
                continue
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
        for refused, orders in waiting.items():
            log.warning("resolving waits", orders=orders, refused=refused)
        if updates:
            log.info("resolved stuck orders", orders=len(updates), given_up=len(given_up))

    async def sweep(self) -> None:
        """Compare the next page of what is not done with the matcher's. Raises RefusedError, or what asyncpg raises."""
        page = await self._store.live(after=self._swept_until, quiet_s=self._sweep_after_s, limit=SWEEP_PAGE)
        self._swept_until = page[-1].order_id if len(page) == SWEEP_PAGE else FIRST_ID
        if not page:
            return
        results = await self._matcher.submit([
            command_pb2.Command(
                ask=command_pb2.AskOrder(order_id=order.order_id, user_id=order.user_id, symbol=order.request.symbol)
            )
            for order in page
        ])  # fmt: skip
        behind = []
        for order, result in zip(page, results, strict=True):
            if isinstance(result, Refused):
                continue
            if not result.HasField("order"):
                log.error("an order that is not done is not the matcher's", order_id=order.order_id)
                SWEPT.labels("unknown").inc()
            elif order.release_due or result.order.version > order.version:
                log.warning(
                    "events of an order are late or lost", order_id=order.order_id, version=result.order.version
                )
                SWEPT.labels("behind").inc()
                behind.append(result.order)
            else:
                SWEPT.labels("equal").inc()
        await self._intake.record_updates(behind)
