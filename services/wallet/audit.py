"""Proof from the tables alone that the books are right. Each check counts what it looked at and what is wrong.

Checks that read every entry go from account to account in parts of about a million entries, so that PostgreSQL sorts one
part at a time and a caller sees progress; nothing but counts and a few examples comes here.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from libs.db.pool import Pool, transaction
from libs.ids import FIRST_ID, LAST_ID

EXAMPLES_MAX = 5
ENTRIES_PER_PART = 1_000_000

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
    FROM (SELECT * FROM wallet.balances WHERE account_id > '{after}' AND account_id <= '{until}') AS b
    FULL JOIN (
        SELECT account_id, asset, sum(available_delta) AS available, sum(reserved_delta) AS reserved,
               count(*) AS entries
        FROM wallet.entries WHERE account_id > '{after}' AND account_id <= '{until}' GROUP BY account_id, asset
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
    FROM wallet.entries WHERE account_id > '{after}' AND account_id <= '{until}'
    WINDOW w AS (PARTITION BY account_id, asset ORDER BY sequence ROWS UNBOUNDED PRECEDING)
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
        FROM wallet.reservations WHERE open GROUP BY user_id, asset
    ) AS r ON r.user_id = b.account_id AND r.asset = b.asset
) AS compared
"""
# The number of a balance's last entry is the number of its entries.
SELECT_PARTS = """
SELECT max(account_id::text) FROM (
    SELECT account_id, ceil(sum(sum(sequence)) OVER (ORDER BY account_id) / $1::bigint) AS part
    FROM wallet.balances GROUP BY account_id
) AS accounts
GROUP BY part ORDER BY 1
"""

_CHECKS = {
    "balances_sum_to_zero": SUMS_TO_ZERO,
    "balances_equal_entries": BALANCES_EQUAL_ENTRIES,
    "entries_follow_each_other": ENTRIES_FOLLOW_EACH_OTHER,
    "operations_sum_to_zero": OPERATIONS_BALANCE,
    "reserved_equals_reservations": RESERVED_EQUALS_RESERVATIONS,
}


def _part_of(sql: str, after: str, until: str) -> str:
    return sql.replace("{after}", after).replace("{until}", until)


# Each check as one statement over all accounts: each is above the first id and at or below the last.
CHECKS = {name: _part_of(sql, FIRST_ID, LAST_ID) for name, sql in _CHECKS.items()}

# The services' connections avoid scans; an audit is made of them. Sorting in memory what fits there is much faster.
SCAN_FREELY = """
SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on; SET LOCAL work_mem = '64MB'
"""
# A full audit reads every entry; it may take long on a large ledger.
AUDIT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check so far: rows looked at, rows that are wrong, the first few of those; the share that is done."""

    check: str
    looked_at: int
    wrong: int
    examples: tuple[str, ...]
    done: float


async def audit(pool: Pool, *, entries_per_part: int = ENTRIES_PER_PART) -> AsyncIterator[CheckResult]:
    """Run every check on one snapshot of the tables, so that a busy ledger audits clean, too.

    Yields a check's result after every part; the last one of each check has `done` 1.
    """
    async with transaction(pool, isolation="repeatable_read", readonly=True) as connection:
        await connection.execute(SCAN_FREELY)
        rows = await connection.fetch(SELECT_PARTS, entries_per_part, timeout=AUDIT_TIMEOUT_S)
        borders = [FIRST_ID, *(row[0] for row in rows[:-1]), LAST_ID]
        for name, sql in _CHECKS.items():
            parts = list(pairwise(borders)) if "{after}" in sql else [(FIRST_ID, LAST_ID)]
            async for result in _check(connection, name, sql, parts):
                yield result


async def _check(connection: Any, name: str, sql: str, parts: list[tuple[str, str]]) -> AsyncIterator[CheckResult]:
    looked_at = wrong = 0
    examples: list[str] = []
    for number, (after, until) in enumerate(parts, start=1):
        row = await connection.fetchrow(_part_of(sql, after, until), timeout=AUDIT_TIMEOUT_S)
        assert row is not None, "every check is one row of counts"
        looked_at += row["looked_at"]
        wrong += row["wrong"]
        examples += row["examples"] or ()
        yield CheckResult(name, looked_at, wrong, tuple(examples[:EXAMPLES_MAX]), number / len(parts))
