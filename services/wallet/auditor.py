"""The audit in the background: every so often, by one of the wallets that run side by side, told to the metrics."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from libs.db.pool import DatabaseAway, Pool, transaction
from services.wallet.audit import CheckResult, audit

# One wallet audits at a time. A lock of the transaction's, so that it works through PgBouncer, too.
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(7226, 1)"

log = structlog.get_logger()
VIOLATIONS = Gauge("ledger_audit_violations", "Rows the last audit found wrong", ["check"])
IMBALANCE = Gauge("ledger_imbalance", "1 where the last audit found anything wrong")
SECONDS = Gauge("ledger_audit_duration_seconds", "How long the last audit took")
FINISHED_AT = Gauge("ledger_audit_last_finished_timestamp_seconds", "When the last audit was finished")


class Auditor:
    """Audits the ledger now and then. `every_s` of 0 means never."""

    def __init__(self, *, pool: Pool, every_s: float) -> None:
        self._pool = pool
        self._every_s = every_s

    async def run(self) -> None:
        """Audit until cancelled, first one interval from now."""
        while self._every_s:
            await asyncio.sleep(self._every_s)
            try:
                await self.audit_once()
            except DatabaseAway as error:
                log.warning("no audit: database away", error=str(error))

    async def audit_once(self) -> bool | None:
        """Whether the books are right; None where another wallet audits just now."""
        async with transaction(self._pool) as connection:
            if not await connection.fetchval(TRY_LOCK):
                return None
            started = time.monotonic()
            results: dict[str, CheckResult] = {}
            async for result in audit(self._pool):
                results[result.check] = result
        for result in results.values():
            VIOLATIONS.labels(result.check).set(result.wrong)
            if result.wrong:
                log.error("the books are wrong", check=result.check, wrong=result.wrong, examples=result.examples)
        clean = not any(result.wrong for result in results.values())
        IMBALANCE.set(not clean)
        SECONDS.set(time.monotonic() - started)
        FINISHED_AT.set_to_current_time()
        log.info("audited", clean=clean, seconds=round(time.monotonic() - started, 1))
        return clean
