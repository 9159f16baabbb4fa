"""Proof from the tables alone that the books are right. Each check counts what it looked at and what is wrong."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.db.pool import Pool

EXAMPLES_MAX = 5

SUMS_TO_ZERO = """
SELECT count(*) AS looked_at,
       count(*) FILTER (WHERE total <> 0) AS wrong,
       (array_agg(asset || ' sums to ' || total) FILTER (WHERE total <> 0))[1:5] AS examples
FROM (SELECT asset, sum(available + reserved) AS total FROM wallet.balances GROUP BY asset) AS sums
"""
BALANCES_EQUAL_ENTRIES = """
SELECT count(*) AS looked_at,
       count(*) FILTER (WHERE differs) AS wrong,
       (array_agg(account_id || ' ' || asset) FILTER (WHERE differs))[1:5] AS examples
FROM (
    SELECT account_id, asset,
           (b.available, b.reserved, b.sequence) IS DISTINCT FROM (e.available, e.reserved, e.entries) AS differs
    FROM wallet.balances b
    FULL JOIN (
        SELECT account_id, asset, sum(available_delta) AS available, sum(reserved_delta) AS reserved,
               count(*) AS entries
        FROM wallet.entries GROUP BY account_id, asset
    ) AS e USING (account_id, asset)
) AS compared
"""
ENTRIES_FOLLOW_EACH_OTHER = """
SELECT count(*) AS looked_at,
       count(*) FILTER (WHERE differs) AS wrong,
       (array_agg(account_id || ' ' || asset || ' #' || sequence) FILTER (WHERE differs))[1:5] AS examples
FROM (
    SELECT account_id, asset, sequence,
           sequence <> row_number() OVER w
           OR available_after <> sum(available_delta) OVER w
           OR reserved_after <> sum(reserved_delta) OVER w AS differs
    FROM wallet.entries
    WINDOW w AS (PARTITION BY account_id, asset ORDER BY sequence)
) AS walked
"""
OPERATIONS_BALANCE = """
SELECT count(*) AS looked_at,
       count(*) FILTER (WHERE total <> 0) AS wrong,
       (array_agg(operation_id || ' ' || asset) FILTER (WHERE total <> 0))[1:5] AS examples
FROM (
    SELECT operation_id, asset, sum(available_delta + reserved_delta) AS total
    FROM wallet.entries GROUP BY operation_id, asset
) AS sums
"""
RESERVED_EQUALS_RESERVATIONS = """
SELECT count(*) AS looked_at,
       count(*) FILTER (WHERE differs) AS wrong,
       (array_agg(user_id || ' ' || asset) FILTER (WHERE differs))[1:5] AS examples
FROM (
    SELECT coalesce(b.account_id, r.user_id) AS user_id, coalesce(b.asset, r.asset) AS asset,
           coalesce(b.reserved, 0) <> coalesce(r.remaining, 0) AS differs
    FROM wallet.balances b
    FULL JOIN (
        SELECT user_id, asset, sum(remaining) AS remaining
        FROM wallet.reservations WHERE remaining > 0 GROUP BY user_id, asset
    ) AS r ON r.user_id = b.account_id AND r.asset = b.asset
) AS compared
"""

CHECKS = {
    "balances_sum_to_zero": SUMS_TO_ZERO,
    "balances_equal_entries": BALANCES_EQUAL_ENTRIES,
    "entries_follow_each_other": ENTRIES_FOLLOW_EACH_OTHER,
    "operations_sum_to_zero": OPERATIONS_BALANCE,
    "reserved_equals_reservations": RESERVED_EQUALS_RESERVATIONS,
}
# The services' connections avoid scans; an audit is made of them.
SCAN_FREELY = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on"
# A full audit reads every entry; it may take long on a large ledger.
AUDIT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: rows looked at, rows that are wrong, and the first few of those."""

    check: str
    looked_at: int
    wrong: int
    examples: tuple[str, ...]


async def audit(pool: Pool) -> AsyncIterator[CheckResult]:
    """Run every check on one snapshot of the tables, so that a busy ledger audits clean, too."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(SCAN_FREELY)
        for name, sql in CHECKS.items():
            row = await connection.fetchrow(sql, timeout=AUDIT_TIMEOUT_S)
            assert row is not None, "every check is one row of counts"
            yield CheckResult(name, row["looked_at"], row["wrong"], tuple(row["examples"] or ())[:EXAMPLES_MAX])
