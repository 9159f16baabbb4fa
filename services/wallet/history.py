"""What was booked: a user's entries, newest first, by asset, time or reference.

Entry ids are UUIDv7 and sort by time, so that a page, and a time, is a range of ids in the index.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from libs.db.pool import Pool
from services.wallet.core.operations import Kind

FIRST_ID = "00000000-0000-0000-0000-000000000000"
AFTER_THE_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

_COLUMNS = """e.entry_id::text, e.operation_id::text, e.kind::text, e.reference, e.asset, e.sequence, e.available_delta,
    e.reserved_delta, e.available_after, e.reserved_after, e.created_at"""
# A page of each asset, then the newest of all of them: never more rows than assets x page.
SELECT_ENTRIES = f"""
SELECT {_COLUMNS}
FROM (SELECT asset FROM wallet.assets WHERE $2 = '' OR asset = $2) AS a
CROSS JOIN LATERAL (
    SELECT * FROM wallet.entries
    WHERE account_id = $1 AND asset = a.asset AND entry_id >= $3 AND entry_id < $4
    ORDER BY entry_id DESC LIMIT $5
) AS e
ORDER BY e.entry_id DESC LIMIT $5
"""
# Entry ids of an operation are its own id with another last digit.
SELECT_ENTRIES_OF_REFERENCE = f"""
SELECT {_COLUMNS}
FROM (SELECT asset FROM wallet.assets WHERE $2 = '' OR asset = $2) AS a
CROSS JOIN LATERAL (
    SELECT x.* FROM (
        SELECT left(operation_id::text, 35) AS stem FROM wallet.operations
        WHERE kind = ANY ($6::text[]::wallet.operation_kind[]) AND key = $7
    ) AS o
    JOIN wallet.entries x ON x.account_id = $1 AND x.asset = a.asset
        AND x.entry_id >= (o.stem || '0')::uuid AND x.entry_id <= (o.stem || 'f')::uuid
    WHERE x.entry_id >= $3 AND x.entry_id < $4
    ORDER BY x.entry_id DESC LIMIT $5
) AS e
ORDER BY e.entry_id DESC LIMIT $5
"""


class EntryRow(NamedTuple):
    """One entry; amounts in units of 10^-8."""

    entry_id: str
    operation_id: str
    kind: str
    reference: str
    asset: str
    sequence: int
    available_delta: int
    reserved_delta: int
    available_after: int
    reserved_after: int
    created_at: datetime


class History:
    """Reads the books for their owners."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def entries(
        self, user_id: str, *, asset: str, reference: str, from_id: str, before_id: str, limit: int
    ) -> list[EntryRow]:
        """Entries with ids in [from_id, before_id), newest first; empty asset or reference means all."""
        values: list[object] = [user_id, asset, from_id, before_id, limit]
        sql = SELECT_ENTRIES
        if reference:
            sql = SELECT_ENTRIES_OF_REFERENCE
            values += [[kind.value for kind in Kind], reference]
        return [EntryRow(*row.values()) for row in await self._pool.fetch(sql, *values)]


def first_id_at(time: datetime) -> str:
    """The smallest UUIDv7 of a moment."""
    milliseconds = int((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
    text = f"{max(0, min(milliseconds, 2**48 - 1)):012x}"
    return f"{text[:8]}-{text[8:]}-0000-0000-000000000000"
