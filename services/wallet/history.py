"""What was booked and what is held: a user's entries, newest first, by asset, time or reference; reservations by age.

A page of entries ends at a sequence per asset, which its token names, so that pages neither overlap nor leave gaps.
"""

import heapq
import json
import re
from datetime import UTC, datetime
from typing import NamedTuple

from libs.db.pool import Pool
from libs.ids import FIRST_ID, parse_id
from libs.paging import bad_token, parse_token, token_after
from libs.reasons import RefusedError
from services.wallet.core.operations import Kind

_COLUMNS = """e.entry_id::text, e.operation_id::text, e.kind::text, e.reference, e.asset, e.sequence, e.available_delta,
    e.reserved_delta, e.available_after, e.reserved_after, e.created_at"""
# A page of each asset: never more rows than assets x page.
SELECT_ENTRIES = f"""
SELECT {_COLUMNS}
FROM (SELECT asset FROM wallet.assets WHERE $2 = '' OR asset = $2) AS a
CROSS JOIN LATERAL (
    SELECT * FROM wallet.entries
    WHERE account_id = $1 AND asset = a.asset
      AND sequence >= CASE WHEN $4::timestamptz IS NULL THEN 1 ELSE wallet.first_sequence_at($1, a.asset, $4) END
      AND sequence < CASE WHEN $5::timestamptz IS NULL THEN 9223372036854775807
                          ELSE wallet.first_sequence_at($1, a.asset, $5) END
      AND sequence < coalesce(($6::jsonb ->> a.asset)::bigint, 9223372036854775807)
    ORDER BY sequence DESC LIMIT $3
) AS e
ORDER BY e.asset, e.sequence DESC
"""
# The record of an operation names the entries it made: at most four of users.
SELECT_ENTRIES_OF_REFERENCE = f"""
SELECT {_COLUMNS}
FROM wallet.operations o
CROSS JOIN LATERAL jsonb_array_elements(o.answer -> 'balances') AS b (at)
JOIN wallet.entries e
    ON e.account_id = $1 AND e.asset = b.at ->> 0 AND e.sequence = (b.at ->> 3)::bigint AND e.reference = $7
WHERE o.kind = ANY ($8::text[]::wallet.operation_kind[]) AND o.key = $7 AND ($2 = '' OR e.asset = $2)
  AND ($4::timestamptz IS NULL OR e.created_at >= $4) AND ($5::timestamptz IS NULL OR e.created_at < $5)
  AND e.sequence < coalesce(($6::jsonb ->> e.asset)::bigint, 9223372036854775807)
ORDER BY e.asset, e.sequence DESC LIMIT $3
"""
SELECT_OPEN_RESERVATIONS = """
SELECT order_id::text, reservation_id::text, user_id::text, asset, purpose::text, amount, remaining, created_at
FROM wallet.reservations
WHERE open AND created_at < $1 AND (created_at, order_id) > ($2, $3::uuid)
ORDER BY created_at, order_id LIMIT $4
"""
_TOKEN_PART = re.compile(r"([A-Z0-9]{2,12})\.([1-9][0-9]{0,17})", re.ASCII)
TOKEN_PARTS_MAX = 1000
_BEFORE_ALL = (datetime.min.replace(tzinfo=UTC), FIRST_ID)


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


class ReservationRow(NamedTuple):
    """One open reservation; amounts in units of 10^-8."""

    order_id: str
    reservation_id: str
    user_id: str
    asset: str
    purpose: str
    amount: int
    remaining: int
    created_at: datetime


class History:
    """Reads the books for their owners."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def entries(
        self,
        user_id: str,
        *,
        asset: str,
        reference: str,
        from_time: datetime | None,
        to_time: datetime | None,
        page_token: str,
        limit: int,
    ) -> tuple[list[EntryRow], str]:
        """A page of entries, newest first, and the token of the next; empty asset or reference means all.

        Raises RefusedError(PAGE_INVALID).
        """
        reached = _parse_entries_token(page_token)
        values: list[object] = [user_id, asset, limit, from_time, to_time, json.dumps(reached)]
        sql = SELECT_ENTRIES
        if reference:
            sql = SELECT_ENTRIES_OF_REFERENCE
            values += [reference, [kind.value for kind in Kind]]
        by_asset: dict[str, list[EntryRow]] = {}
        for row in await self._pool.fetch(sql, *values):
            by_asset.setdefault(row["asset"], []).append(EntryRow(*row))
        merged = heapq.merge(*by_asset.values(), key=lambda row: row.created_at, reverse=True)
        page = [row for row, _ in zip(merged, range(limit), strict=False)]
        if len(page) < limit:
            return page, ""
        reached |= {row.asset: row.sequence for row in page}
        return page, "-".join(f"{name}.{sequence}" for name, sequence in sorted(reached.items()))

    async def open_reservations(
        self, *, older_than: datetime, page_token: str, limit: int
    ) -> tuple[list[ReservationRow], str]:
        """A page of open reservations made before a time, oldest first, and the token of the next.

        Raises RefusedError(PAGE_INVALID).
        """
        time, order_id = parse_token(page_token, start=_BEFORE_ALL)
        after = time, parse_id(order_id, field="page_token")
        rows = await self._pool.fetch(SELECT_OPEN_RESERVATIONS, older_than, *after, limit)
        page = [ReservationRow(*row) for row in rows]
        if len(page) < limit:
            return page, ""
        return page, token_after(page[-1].created_at, page[-1].order_id)


def _parse_entries_token(token: str) -> dict[str, int]:
    parts = token.split("-") if token else []
    matches = [_TOKEN_PART.fullmatch(part) for part in parts[:TOKEN_PARTS_MAX]]
    if None in matches or len(parts) > TOKEN_PARTS_MAX:
        raise RefusedError(bad_token())
    return {match[1]: int(match[2]) for match in matches if match is not None}
