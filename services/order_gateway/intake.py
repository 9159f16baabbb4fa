"""An order's way: record, reserve, submit, release, answer; everything that waits in the next batch.

Two batches may be under way, in different steps: a step is entered in the order of the batches, by one at a time, so that
what was asked first is done first.

Each step is idempotent by the order's id, so that a step whose outcome is unknown is simply done again: here while the
caller waits, by the caller's own repeat, or in the end by the resolver.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import prometheus_client
import structlog
from exchange.common.v1 import order_pb2
from exchange.events.v1 import order_pb2 as order_events_pb2
from exchange.matcher.v1 import command_pb2
from exchange.wallet.v1 import operation_pb2

from libs.clients.wallet import WalletClient
from libs.config import CALL_MAX
from libs.db.pool import DatabaseAway, patiently
from libs.orders import FINAL, Status
from libs.reasons import Reason, Refused, RefusedError, away
from services.order_gateway.clients import MatcherClient
from services.order_gateway.core.admission import difference
from services.order_gateway.core.records import OrderRow
from services.order_gateway.items import Answer, Batch, Change, Done, Item, Place
from services.order_gateway.memory import OrderMemory
from services.order_gateway.steps import Step
from services.order_gateway.store import OrderStore, StateChange
from services.order_gateway.wire import (
    amend_command,
    apply_update,
    change_from,
    new_order_command,
    order_closed,
    refusal_in,
    release_requests,
    reserve_request,
)

RELEASES_MAX = 100
# A batch that waits for the wallet this long holds up what is behind it.
HELD_UP_S = 0.5
# What a change has freed is free before its answer, unless the wallet takes longer than this.
FREED_WITHIN_S = 5.0
BATCHES_IN_FLIGHT = 2
# The second begins when this much waits: smaller ones cost more than what the first one's waiting leaves free.
BESIDE_FROM_ITEMS = 100

log = structlog.get_logger()
RELEASES_REFUSED = prometheus_client.Counter(
    "releases_refused_total", "Releases that the wallet refused: always a fault of ours"
)
PLACED = prometheus_client.Counter("orders_placed_total", "Orders recorded", ["symbol", "type", "side"])


class Intake:
    """Takes batches of items through the steps."""

    def __init__(self, *, store: OrderStore, wallet: WalletClient, matcher: MatcherClient, patience_s: float) -> None:
        self.memory = OrderMemory()
        self._patience_s = patience_s
        self._store = store
        self._wallet = wallet
        self._matcher = matcher
        self._under_way: dict[Batch, set[str]] = {}  # the orders that are recorded
        self._finished = asyncio.Event()
        self._recording, self._reserving = Step("record"), Step("reserve")
        self._submitting, self._finishing = Step("submit"), Step("finish")

    def is_changed_out(self, order: OrderRow) -> bool:
        """Whether an order has freed so much so often that it may not be changed again: all that it freed is told each time.

        For a change whose money is reserved already it is too late to ask.
        """
        return max(order.released, self.memory.released(order.order_id)) >= RELEASES_MAX

    async def settled_down(self, order_ids: set[str]) -> None:
        """Wait until batches under way that touch these orders have been answered."""
        while not all(under_way.isdisjoint(order_ids) for under_way in self._under_way.values()):
            await self._finished.wait()

    @property
    def is_held_up(self) -> bool:
        """Whether orders wait for the wallet, and all that is behind them with them."""
        return self._reserving.under_way_s > HELD_UP_S

    async def process(self, items: Sequence[Item]) -> Sequence[Answer]:
        """One answer per item, in order. Raises RefusedError where the outcome of the whole batch is unknown."""

        async def steps(work: Batch) -> None:
            await self._recording.take(work, lambda: self._patiently(lambda: self._record(work)))
            self._under_way[work].update(work.order_ids())
            await self._reserving.take(work, lambda: self._reserve(work))
            updates = await self._submitting.take(work, lambda: self._submit(work))
            await self._finishing.take(work, lambda: self.record_updates(updates))
            work.trace()

        return await self._take(items, steps)

    async def change(self, changes: Sequence[Item]) -> Sequence[Answer]:
        """As `process`, of changes that go past orders which wait for the wallet."""

        async def steps(work: Batch) -> None:
            await self._patiently(lambda: self._look_up(work))
            self._under_way[work].update(work.order_ids())
            await self.record_updates(await self._submit(work))

        return await self._take(changes, steps)

    async def _take(self, items: Sequence[Item], steps: Callable[[Batch], Awaitable[None]]) -> Sequence[Answer]:
        work = Batch(items)
        self._under_way[work] = set()
        try:
            await steps(work)
        except DatabaseAway as error:
            log.warning("database away", error=f"{type(error).__name__}: {error}")
            raise RefusedError(away("postgresql")) from error
        finally:
            del self._under_way[work]
            self._finished.set()
            self._finished = asyncio.Event()
        for follower, leader in work.follows.items():
            work.answers[follower] = work.answers[leader]
        assert None not in work.answers, "every item is answered"
        return [answer for answer in work.answers if answer is not None]

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step again while the database is away, so that what waits behind this batch does not overtake it."""
        await patiently(step, patience_s=self._patience_s)

    async def _record(self, work: Batch) -> None:
        """Step 1: every new order becomes a row before anything else happens. A repeat finds the row of the first.

        Then the orders that cancels and amends name are looked for.
        """
        await self._insert(work)
        await self._look_up(work)

    async def _insert(self, work: Batch) -> None:
        leaders: dict[tuple[str, str], int] = {}
        for number in work.open(Place):
            order = work.placed(number)
            leader = leaders.setdefault((order.user_id, order.client_order_id), number)
            if leader != number:
                self._follow(work, number, leader)
        if not leaders:
            return
        wanted = [work.placed(number) for number in leaders.values()]
        inserted = await self._store.insert_pending(wanted)
        repeated = [key for key, number in leaders.items() if work.placed(number).order_id not in inserted]
        before = await self._store.by_client_ids(repeated) if repeated else {}
        for key, number in leaders.items():
            order = work.placed(number)
            if order.order_id in inserted:
                work.orders[number] = order
            elif key in before:
                work.answers[number] = self._repeat(order, before[key])
                work.orders[number] = replace(before[key], session=order.session)
            else:  # taken by an order so old that it is in the archive
                work.answers[number] = _key_reused("client_order_id")
                continue
            self.memory.remember(before.get(key, order))
        requests = [order.request for order in wanted if order.order_id in inserted]
        counts = Counter((request.symbol, request.type, request.side) for request in requests)
        for (symbol, kind, side), count in counts.items():
            PLACED.labels(symbol, kind.name, side.name).inc(count)

    def _follow(self, work: Batch, number: int, leader: int) -> None:
        field = difference(work.placed(number).request, work.placed(leader).request)
        if field:
            work.answers[number] = _key_reused(field)
        else:
            work.follows[number] = leader

    def _repeat(self, asked: OrderRow, before: OrderRow) -> Answer | None:
        """The answer to a repeat; None where the first try got stuck, and this one takes it up."""
        field = difference(asked.request, before.request)
        if field:
            return _key_reused(field)
        if before.status is Status.PENDING:
            return None
        if before.status is Status.REJECTED and before.reason is Reason.INSUFFICIENT_BALANCE:
            return Refused(before.reason, field="quantity", detail={"order_id": before.order_id})
        return Done(apply_update(before, None))

    async def _look_up(self, work: Batch) -> None:
        """Find the orders that cancels and amends name."""
        changes = {number: work.change(number) for number in work.open(Change)}
        orders = {number: self._remembered(item) for number, item in changes.items()}
        missing = [changes[number] for number, order in orders.items() if order is None]
        keys = {(item.user_id, item.client_order_id) for item in missing if item.client_order_id}
        ids = {item.order_id for item in missing if not item.client_order_id}
        by_key = await self._store.by_client_ids(keys) if keys else {}
        by_id = await self._store.by_ids(ids) if ids else {}
        for number, item in changes.items():
            order = orders[number] or by_key.get((item.user_id, item.client_order_id)) or by_id.get(item.order_id)
            if order is None or order.user_id != item.user_id:
                field = "order_id" if item.order_id else "client_order_id"
                work.answers[number] = Refused(Reason.ORDER_NOT_FOUND, field=field)
            elif item.amendment is not None and not item.reserved_total and self.is_changed_out(order):
                work.answers[number] = Refused(Reason.TOO_MANY_CHANGES, detail={"order_id": order.order_id})
            else:
                work.orders[number] = order

    def _remembered(self, item: Change) -> OrderRow | None:
        if item.client_order_id:
            return self.memory.by_client_id(item.user_id, item.client_order_id)
        return self.memory.by_id(item.order_id)

    async def _reserve(self, work: Batch) -> None:
        """Step 2: hold the money. An order whose money is not there is REJECTED, and its caller told why.

        Without the wallet orders are refused, with the outcome unknown; changes go on.
        """
        numbers = work.open(Place)
        repeats = [number for number in numbers if work.found(number) is not work.placed(number)]
        if repeats:
            await self._patiently(lambda: self._look_again(work, repeats))
            numbers = work.open(Place)
        if not numbers:
            return
        orders = [work.found(number) for number in numbers]
        try:
            results = await self._wallet.reserve([reserve_request(order) for order in orders])
        except RefusedError as error:
            for number in numbers:
                work.answers[number] = error.refused
            return
        rejected: list[StateChange] = []
        for number, order, result in zip(numbers, orders, results, strict=True):
            if isinstance(result, Refused):
                reason = Reason.GIVEN_UP if result.reason is Reason.RESERVATION_CLOSED else result.reason
                rejected.append(_rejected(order, reason))
                detail = {**result.detail, "order_id": order.order_id}
                work.answers[number] = Refused(reason, field="quantity", rule=result.rule, detail=detail)
        if rejected:
            await self._patiently(lambda: self._store.update(rejected))

    async def _look_again(self, work: Batch, repeats: Sequence[int]) -> None:
        """See what the batch before has made of an order that is placed again here: a rejected one must get no money."""
        recorded = await self._store.by_ids([work.found(number).order_id for number in repeats])
        for number in repeats:
            work.answers[number] = self._repeat(work.placed(number), recorded[work.found(number).order_id])

    async def _submit(self, work: Batch) -> list[order_events_pb2.OrderUpdate]:
        """Step 3: the matcher decides. Returns the newest state of each order, to be recorded before the answer."""
        numbers = sorted(work.open(Place) + work.open(Change))
        if not numbers:
            return []
        commands = [_command(work.items[number], work.found(number)) for number in numbers]
        results = await self._matcher.submit(commands)
        updates: dict[str, order_events_pb2.OrderUpdate] = {}
        for number, result in zip(numbers, results, strict=True):
            order = work.found(number)
            if isinstance(result, Refused):
                work.answers[number] = result
                continue
            refused = refusal_in(result)
            if result.HasField("order"):
                newest = updates.get(order.order_id)
                if newest is None or newest.version <= result.order.version:
                    updates[order.order_id] = result.order
            work.answers[number] = refused or Done(apply_update(order, result.order), result.fills, result.more_fills)
        forgotten = [number for number in numbers if _is_forgotten(work, number)]
        if forgotten:
            recorded = await self._store.by_ids({work.found(number).order_id for number in forgotten})
            for number in forgotten:
                work.answers[number] = _long_closed(work.change(number), recorded.get(work.found(number).order_id))
        return list(updates.values())

    async def record_updates(self, updates: Sequence[order_events_pb2.OrderUpdate]) -> None:
        """Step 4: carry what the matcher freed to the wallet, and its states to the record.

        Both are also done, by their keys once, by the consumer of order events. So where the wallet does not take a release,
        the record says that it is due; but what is answered can be read. Raises what asyncpg raises when patience is over.
        """
        if not updates:
            return
        await self._free(updates)
        changes = [change_from(update, released=self.memory.released(update.order_id)) for update in updates]
        await self._patiently(lambda: self._store.update(changes))

    async def _free(self, updates: Sequence[order_events_pb2.OrderUpdate]) -> None:
        """Release what these updates free; where the wallet takes too long, that is left to others."""
        releases = [
            release
            for update in updates
            for release in release_requests(update, already_released=self.memory.released(update.order_id))
        ]
        try:
            if releases:
                async with asyncio.timeout(FREED_WITHIN_S):
                    await self.release(releases)
        except (RefusedError, TimeoutError) as error:
            log.warning("releases are left to the order events", error=str(error), releases=len(releases))
        else:
            self.memory.note_released(updates)

    async def cancel_all(self, user_id: str, symbol: str, *, session: str = "") -> list[order_pb2.Order]:
        """Cancel a user's open orders, in one market or ("") everywhere, of one session or ("") any.

        Raises RefusedError; then some may be left.
        """
        command = command_pb2.CancelAll(user_id=user_id, symbol=symbol, session=session)
        updates: list[order_events_pb2.OrderUpdate] = []
        left = True
        while left:
            left = False
            for result in await self._matcher.cancel_all(command):
                if isinstance(result, Refused):
                    raise RefusedError(result)
                refused = refusal_in(result)
                if refused is not None:
                    raise RefusedError(refused)
                await self.record_updates(result.cancelled)
                updates += result.cancelled
                left |= bool(result.left)
        recorded = await self._store.by_ids([update.order_id for update in updates]) if updates else {}
        return [apply_update(recorded[update.order_id], update) for update in updates if update.order_id in recorded]

    async def release(self, releases: Sequence[operation_pb2.ReleaseRequest]) -> None:
        """Free amounts. Raises RefusedError where the whole call failed.

        One that the wallet refuses is a fault of ours that trying again would not mend: it is logged and counted, and
        the audit shows the reservation.
        """
        for start in range(0, len(releases), CALL_MAX):
            some = releases[start : start + CALL_MAX]
            for release, result in zip(some, await self._wallet.release(some), strict=True):
                if isinstance(result, Refused):
                    RELEASES_REFUSED.inc()
                    log.error("release refused", order_id=release.order_id, key=release.key, refused=str(result))


def _is_forgotten(work: Batch, number: int) -> bool:
    """Whether the matcher does not know an order that was to be changed; one for which money was held is the amender's."""
    answer, item = work.answers[number], work.items[number]
    unknown = isinstance(answer, Refused) and answer.reason is Reason.ORDER_NOT_FOUND
    return unknown and isinstance(item, Change) and not item.reserved_total


def _long_closed(item: Change, recorded: OrderRow | None) -> Answer:
    """What is said of an order that the matcher does not know: it remembers closed ones for a day at most."""
    if recorded is not None and recorded.status is Status.PENDING:  # it may yet come to the matcher
        return Refused(Reason.OUTCOME_UNKNOWN, detail={"order_id": recorded.order_id})
    if recorded is None or recorded.status not in FINAL:
        return Refused(Reason.ORDER_NOT_FOUND, field="order_id")
    if recorded.status is Status.CANCELLED and item.amendment is None:
        return Done(apply_update(recorded, None))
    return order_closed(recorded)


def _key_reused(field: str) -> Refused:
    return Refused(Reason.KEY_REUSED, field=field, detail={"key": "client_order_id"})


def _rejected(order: OrderRow, reason: Reason) -> StateChange:
    return StateChange(
        order.order_id, Status.REJECTED, reason, order.open_quantity, 0, 0, version=1, released=0,
        updated_at=order.created_at, open_price=order.open_price, waiting=False,
        open_stop_price=order.open_stop_price, releases=0,
    )  # fmt: skip


def _command(item: Item, order: OrderRow) -> command_pb2.Command:
    if isinstance(item, Place):
        return new_order_command(order)
    if item.amendment is None:
        cancel = command_pb2.CancelOrder(order_id=order.order_id, user_id=order.user_id, symbol=order.request.symbol)
        return command_pb2.Command(cancel=cancel)
    return amend_command(order, item.amendment, reserved_total=item.reserved_total, only_less=item.only_less)
