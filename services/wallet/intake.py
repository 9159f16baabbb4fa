"""An operation's way through the ledger: decided at once in memory, written with its contemporaries, then answered.

It is written together with all others that came while the last write was under way, and answered when that is durable.

So Python decides while PostgreSQL writes, and a lone operation waits for nobody. What memory cannot decide (a balance it
does not know, a repeated key) or must not (a refusal, which may rest on something out of date) is decided in a
transaction under row locks; until that is done nothing else is decided. A write that meets another writer's win changes
nothing, and all that rested on it is decided again under locks.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import prometheus_client
import structlog

from libs.db.pool import DatabaseAway
from libs.ids import new_id
from libs.reasons import Reason, Refused, RefusedError, away
from libs.telemetry import BATCH_ITEMS, QUEUE_ITEMS
from services.wallet.core.books import balances_needed, reservations_needed
from services.wallet.core.ledger import Ledger, NotInViewError, TornViewError
from services.wallet.core.operations import Applied, Operation, RequestWithdrawal, Reserve
from services.wallet.store import LOST_RACE, LedgerStore, take_columns

ATTEMPTS_MAX = 10
MEMORY_MAX = 200_000

log = structlog.get_logger()
OPERATIONS = prometheus_client.Counter("wallet_operations_total", "Operations decided", ["kind", "outcome"])
RACES = prometheus_client.Counter("wallet_lost_races_total", "Batches decided anew because another writer came first")
LOCKED = prometheus_client.Counter("wallet_locked_operations_total", "Operations decided under row locks")

Outcome = Applied | Refused


@dataclass(slots=True, eq=False)
class _Call:
    operations: Sequence[Operation]
    done: asyncio.Future[Sequence[Outcome]]
    outcomes: list[Outcome] = field(default_factory=list)  # of the first operations, as far as memory could decide
    answered: bool = False

    @property
    def is_decided(self) -> bool:
        return len(self.outcomes) == len(self.operations)


@dataclass(slots=True)
class _Batch:
    """Calls whose operations are written together."""

    calls: list[_Call] = field(default_factory=list)
    operations: int = 0


class Intake:
    """Takes operations, batches them, and answers. All or none of a batch's effects are in one transaction."""

    def __init__(
        self,
        *,
        store: LedgerStore,
        batch_max: int,
        queue_max: int,
        on_written: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._on_written = on_written  # told the accounts that have moved
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._memory = Ledger({}, {}, {})
        self._next = _Batch()
        self._waiting: deque[_Call] = deque()
        self._in_queue = 0
        self._only_locked = False  # while something is undecided, nothing is decided on memory
        self._wake = asyncio.Event()
        self._batch_items = BATCH_ITEMS.labels("wallet")
        self._queue_items = QUEUE_ITEMS.labels("wallet")

    async def submit(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """One outcome per operation, in order; a caller brings at most `batch_max` at once.

        Raises RefusedError: OVERLOADED where too many wait (nothing is done), DEPENDENCY_UNAVAILABLE where the database
        does not answer (nothing is known: ask again with the same keys).
        """
        assert 0 < len(operations) <= self._batch_max, "callers check their batch limit first"
        if self._in_queue + len(operations) > self._queue_max:
            raise RefusedError(Refused(Reason.OVERLOADED, detail={"queue": "wallet", "retry_after_s": "1"}))
        call = _Call(operations, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._in_queue += len(operations)
        self._decide_waiting()
        self._wake.set()
        return await call.done

    async def run(self) -> None:
        """Write until cancelled; whoever still waits then is cancelled too."""
        batch = _Batch()
        try:
            while True:
                await self._wake.wait()
                self._decide_waiting()
                batch, self._next = self._next, _Batch()
                if not batch.calls:
                    self._wake.clear()
                    continue
                self._batch_items.observe(batch.operations)
                await self._finish(batch)
                self._in_queue -= batch.operations
                self._queue_items.set(self._in_queue)
        finally:
            for call in (*batch.calls, *self._next.calls, *self._waiting):
                call.done.cancel()

    def _decide_waiting(self) -> None:
        """Move waiting calls into the next batch, as far as memory can decide."""
        while self._waiting and not self._only_locked:
            call = self._waiting[0]
            if self._next.calls and self._next.operations + len(call.operations) > self._batch_max:
                return
            self._waiting.popleft()
            if call.done.done():  # gave up while waiting: nothing of it has begun
                self._in_queue -= len(call.operations)
                continue
            self._next.calls.append(call)
            self._next.operations += len(call.operations)
            for operation in call.operations:
                outcome = _decide_on_memory(self._memory, operation)
                if outcome is None:
                    self._only_locked = True
                    break
                call.outcomes.append(outcome)

    async def _finish(self, batch: _Batch) -> None:
        """Write a batch and answer it."""
        try:
            if not await self._write_decided():
                RACES.inc()
                self._start_over(batch)
            _answer(batch.calls)
            undecided = [call for call in batch.calls if not call.is_decided]
            if undecided:
                await self._finish_under_locks(undecided)
                _answer(undecided)
        except Exception as error:  # noqa: BLE001 - it is the callers' answer
            self._start_over(batch)
            self._memory = Ledger({}, {}, {})
            _fail(batch.calls, error)
        # What is decided under locks replaces what is remembered: nothing may be decided on memory beside it.
        self._only_locked = not all(call.is_decided for call in self._next.calls)

    async def _write_decided(self) -> bool:
        """Write what memory decided, the next batch being decided meanwhile. False: another writer came first."""
        if not self._memory.changes.operations:
            return True
        accounts = {account_id for account_id, _ in self._memory.changes.balances}
        columns = take_columns(self._memory)
        self._forget_the_oldest()
        writing = asyncio.ensure_future(self._store.write(columns))
        await asyncio.sleep(0)  # it is on its way
        self._decide_waiting()
        try:
            await writing
        except LOST_RACE:
            return False
        self._on_written(accounts)
        return True

    async def _finish_under_locks(self, calls: Sequence[_Call]) -> None:
        """Decide what is undecided, in order, and write it."""
        todo = [operation for call in calls for operation in call.operations[len(call.outcomes) :]]
        LOCKED.inc(len(todo))
        decided = iter(await self._under_locks(todo))
        for call in calls:
            call.outcomes.extend(list(islice(decided, len(call.operations) - len(call.outcomes))))

    async def _under_locks(self, operations: Sequence[Operation]) -> list[Outcome]:
        balance_keys = [key for operation in operations for key in balances_needed(operation)]
        order_ids = [order for operation in operations for order in reservations_needed(operation)]
        order_ids += [operation.order_id for operation in operations if isinstance(operation, Reserve)]
        order_ids += [operation.withdrawal_id for operation in operations if isinstance(operation, RequestWithdrawal)]
        operation_keys = [(operation.kind, operation.key) for operation in operations]
        for attempt in range(ATTEMPTS_MAX):
            try:
                async with self._store.transaction() as connection:
                    ledger = await self._store.locked(connection, balance_keys, order_ids, operation_keys)
                    outcomes = [ledger.apply(operation, _new_operation_id()) for operation in operations]
                    if ledger.changes.operations:
                        await self._store.write(take_columns(ledger), connection)
            except LOST_RACE as error:
                log.info("decided anew", attempt=attempt, error=type(error).__name__, of=error.constraint_name)
                continue
            self._on_written({account_id for account_id, _ in balance_keys})
            self._memory.balances.update((key, balance) for key, balance in ledger.balances.items() if balance.sequence)
            self._memory.reservations.update((order, held) for order, held in ledger.reservations.items() if held)
            return outcomes
        raise RefusedError(Refused(Reason.OVERLOADED, detail={"retry_after_s": "1", "queue": "ledger"}))

    def _start_over(self, batch: _Batch) -> None:
        """Forget what this batch and the next were decided on; the next goes back to those who wait."""
        self._memory.take_changes()
        self._memory.take_changes()
        for call in (*batch.calls, *self._next.calls):
            for operation in call.operations:
                for key in balances_needed(operation):
                    self._memory.balances.pop(key, None)
                for order_id in reservations_needed(operation) or (operation.key,):
                    self._memory.reservations.pop(order_id, None)
            if not call.answered:
                call.outcomes = []
        self._only_locked = True
        self._waiting.extendleft(reversed(self._next.calls))
        self._next = _Batch()

    def _forget_the_oldest(self) -> None:
        """Bound the memory; only between two batches, for what was changed and is not written yet must stay."""
        remembered: tuple[dict[Any, Any], ...] = (self._memory.balances, self._memory.reservations)
        for things in remembered:
            if len(things) > MEMORY_MAX:
                for key in list(islice(things, MEMORY_MAX // 2)):
                    del things[key]


def _answer(calls: Sequence[_Call]) -> None:
    """Answer the calls that are decided to the end."""
    counts: Counter[tuple[str, str]] = Counter()
    for call in calls:
        if not call.is_decided or call.answered:
            continue
        call.answered = True
        for operation, outcome in zip(call.operations, call.outcomes, strict=True):
            counts[operation.kind, "done" if isinstance(outcome, Applied) else "refused"] += 1
        if not call.done.done():
            call.done.set_result(call.outcomes)
    for labels, count in counts.items():
        OPERATIONS.labels(*labels).inc(count)


def _fail(calls: Sequence[_Call], error: Exception) -> None:
    """Give the callers that have no answer an error."""
    if isinstance(error, DatabaseAway):
        log.warning("database away", error=f"{type(error).__name__}: {error}")
        refused = RefusedError(away("postgresql"))
        refused.__cause__ = error
        error = refused
    for call in calls:
        call.answered = True
        if not call.done.done():
            call.done.set_exception(error)


def _decide_on_memory(memory: Ledger, operation: Operation) -> Outcome | None:
    """None where memory does not suffice, or must not be relied on."""
    try:
        outcome = memory.apply(operation, _new_operation_id())
    except (NotInViewError, TornViewError):
        return None
    return outcome if isinstance(outcome, Applied) else None


def _new_operation_id() -> str:
    # Entry ids are made from the operation's id and a last digit 1-f, so operations end in 0.
    return new_id()[:-1] + "0"
