"""A batch's way through the ledger: decide on what is remembered, write; if that was out of date, decide under locks."""

from collections.abc import Sequence

import structlog
from prometheus_client import Counter

from libs.db.pool import DatabaseAway
from libs.ids import new_id
from libs.reasons import Reason, Refused, RefusedError
from services.wallet.core.ledger import Ledger, TornViewError, balances_needed, reservations_needed
from services.wallet.core.operations import Applied, Operation, Reserve
from services.wallet.store import LOST_RACE, LedgerStore, View

ATTEMPTS_MAX = 10

log = structlog.get_logger()
OPERATIONS = Counter("wallet_operations_total", "Operations decided", ["kind", "outcome"])
RACES = Counter("wallet_lost_races_total", "Batches decided anew because another writer came first")

Outcome = Applied | Refused


class Intake:
    """Applies batches, one at a time, all or none of a batch's effects in one transaction."""

    def __init__(self, *, store: LedgerStore) -> None:
        self._store = store

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """One outcome per operation, in order. Raises RefusedError(DEPENDENCY_UNAVAILABLE) with nothing known."""
        balance_keys = [key for operation in operations for key in balances_needed(operation)]
        order_ids = [order for operation in operations for order in reservations_needed(operation)]
        try:
            outcomes = await self._from_memory(operations, balance_keys, order_ids)
            if outcomes is None:
                RACES.inc()
                self._store.forget(balance_keys, order_ids)
                outcomes = await self._under_locks(operations, balance_keys, order_ids)
        except DatabaseAway as error:
            self._store.forget(balance_keys, order_ids)
            log.warning("database away", error=f"{type(error).__name__}: {error}")
            raise RefusedError(Refused(Reason.DEPENDENCY_UNAVAILABLE, detail={"dependency": "postgresql"})) from error
        for operation, outcome in zip(operations, outcomes, strict=True):
            OPERATIONS.labels(operation.kind.value, "done" if isinstance(outcome, Applied) else "refused").inc()
        return outcomes

    async def _from_memory(
        self, operations: Sequence[Operation], balance_keys: list[tuple[str, str]], order_ids: list[str]
    ) -> list[Outcome] | None:
        """The outcomes, or None where a refusal must not stand on memory alone, or another writer came first."""
        ledger = await self._store.remembered(balance_keys, order_ids)
        before = View.of(ledger)
        try:
            outcomes = _decide(ledger, operations)
        except TornViewError:
            return None
        if any(isinstance(outcome, Refused) for outcome in outcomes):
            return None
        try:
            await self._store.write(ledger, before)
        except LOST_RACE:
            return None
        self._store.remember(ledger)
        return outcomes

    async def _under_locks(
        self, operations: Sequence[Operation], balance_keys: list[tuple[str, str]], order_ids: list[str]
    ) -> list[Outcome]:
        operation_keys = [(operation.kind.value, operation.key) for operation in operations]
        made = [operation.order_id for operation in operations if isinstance(operation, Reserve)]
        for attempt in range(ATTEMPTS_MAX):
            try:
                async with self._store.transaction() as connection:
                    ledger = await self._store.locked(connection, balance_keys, order_ids + made, operation_keys)
                    before = View.of(ledger)
                    outcomes = _decide(ledger, operations)
                    if ledger.changes.operations:
                        await self._store.write(ledger, before, connection)
            except LOST_RACE as error:
                log.info("decided anew", attempt=attempt, error=type(error).__name__)
                continue
            self._store.remember(ledger)
            return outcomes
        raise RefusedError(Refused(Reason.OVERLOADED, detail={"retry_after_s": "1", "queue": "ledger"}))


def _decide(ledger: Ledger, operations: Sequence[Operation]) -> list[Outcome]:
    # Entry ids are made from the operation's id and a last digit 1-f, so operations end in 0.
    return [ledger.apply(operation, new_id()[:-1] + "0") for operation in operations]
