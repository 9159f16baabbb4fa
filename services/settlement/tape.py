"""The tape as it is read: trades of a symbol, fills of a user, numbers for reconciling.

Its partitions follow time, so that questions say how far back they go, and pages end at a time.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.db.pool import Pool
from libs.ids import FIRST_ID

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
START_OF_TIME = datetime.min.replace(tzinfo=UTC)
RESOLUTION = timedelta(microseconds=1)
_REACHES = (timedelta(days=2), timedelta(days=60))

_TRADE = "trade_id::text, sequence, symbol, price, quantity, maker_side, executed_at"
SELECT_TRADES = f"""
SELECT {_TRADE} FROM settlement.trades
WHERE symbol = $1 AND executed_at >= $2 AND executed_at < $3 AND (executed_at, sequence) < ($4, $5)
ORDER BY executed_at DESC, sequence DESC LIMIT $6
"""
SELECT_AFTER = f"""
SELECT {_TRADE} FROM settlement.trades
WHERE symbol = $1 AND executed_at >= $2 AND sequence > $3
ORDER BY executed_at, sequence LIMIT $4
"""
SELECT_NEWEST = """
SELECT sequence, executed_at FROM settlement.trades WHERE symbol = $1 AND executed_at >= $2
ORDER BY executed_at DESC, sequence DESC LIMIT 1
"""
SELECT_FIRST_BETWEEN = """
SELECT sequence, executed_at FROM settlement.trades WHERE symbol = $1 AND executed_at >= $2 AND executed_at < $3
ORDER BY executed_at, sequence LIMIT 1
"""


# One question looks at so many of a user's fills of each side and no more, whatever it picks among them.
LOOKED_AT_MAX = 5000


def _side(number: int, party: str, received: str) -> str:
    return f"""
    (SELECT trade_id::text AS trade_id, sequence, symbol, {party}_order_id::text AS order_id, {number} AS side,
            maker_side = {number} AS maker, price, quantity, {party}_fee AS fee, {received}_asset AS fee_asset,
            executed_at, settled_at
     FROM settlement.trades
     WHERE {party}_user_id = $1 AND ($2 = '' OR symbol = $2) AND ($3::uuid IS NULL OR {party}_order_id = $3)
       AND executed_at >= $4 AND executed_at < $5 AND (executed_at, trade_id) < ($6, $7::uuid)
       AND (executed_at, trade_id) >= ($9, $10::uuid)
     ORDER BY executed_at DESC, trade_id DESC LIMIT $8)"""


def _last_looked_at(party: str) -> str:
    return f"""
    (SELECT executed_at, trade_id FROM settlement.trades
     WHERE {party}_user_id = $1 AND executed_at >= $2 AND executed_at < $3 AND (executed_at, trade_id) < ($4, $5::uuid)
     ORDER BY executed_at DESC, trade_id DESC OFFSET $6 - 1 LIMIT 1)"""


SELECT_FILLS = f"""
SELECT * FROM ({_side(1, "buyer", "base")} UNION ALL {_side(2, "seller", "quote")}) AS fills
ORDER BY executed_at DESC, trade_id DESC LIMIT $8
"""
SELECT_LAST_LOOKED_AT = f"""
SELECT executed_at, trade_id::text FROM ({_last_looked_at("buyer")} UNION ALL {_last_looked_at("seller")}) AS ends
ORDER BY executed_at DESC, ends.trade_id DESC LIMIT 1
"""
SELECT_WHOLE = """
SELECT whole_until, whole_time, settled, kept_from, whole_time >= kept_from AS whole_is_kept, isfinite(kept_from) AS is_cut
FROM settlement.tapes, operations.kept_from('settlement.trades') AS kept_from WHERE symbol = $1
"""
UPDATE_WHOLE = """
UPDATE settlement.tapes SET whole_until = $2, whole_time = $3 WHERE symbol = $1 AND whole_until < $2
"""
SELECT_BY_ID = """
SELECT trade_id::text, symbol, sequence, price, quantity, buyer_user_id::text, buyer_order_id::text, seller_user_id::text,
       seller_order_id::text, maker_side, buyer_fee, seller_fee
FROM settlement.trades WHERE (trade_id, executed_at) IN (SELECT * FROM unnest($1::uuid[], $2::timestamptz[]))
"""


class Tape:
    """Reads settlement.trades, a bounded number of rows at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def trades(
        self, symbol: str, *, since: datetime, until: datetime, before: tuple[datetime, int], limit: int
    ) -> list[Any]:
        """Trades of a symbol between two times, newest first, from before a (time, number)."""
        until = _end(until, before[0])
        rows: list[Any] = []
        for start in _starts(since, until):
            rows = await self._pool.fetch(SELECT_TRADES, symbol, start, until, *before, limit)
            if len(rows) == limit:
                break
        return rows

    async def fills(
        self, user_id: str, *, symbol: str, order_id: str, since: datetime, until: datetime,
        before: tuple[datetime, str], limit: int,
    ) -> tuple[list[Any], tuple[datetime, str] | None]:  # fmt: skip
        """Both sides of a user, newest first, before a (time, trade id); and where the next page begins; None: nowhere.

        Empty symbol or order means all. With one of them, a page may have fewer than there are: then it has looked at
        LOOKED_AT_MAX fills of a side.
        """
        until = _end(until, before[0])
        rows: list[Any] = []
        for start in _starts(since, until):
            end = None
            if symbol or order_id:
                end = await self._pool.fetchrow(SELECT_LAST_LOOKED_AT, user_id, start, until, *before, LOOKED_AT_MAX)
            looked_until: tuple[datetime, str] = tuple(end) if end else (start, FIRST_ID)
            rows = await self._pool.fetch(
                SELECT_FILLS, user_id, symbol, order_id or None, looked_until[0], until, *before, limit, *looked_until
            )
            if len(rows) == limit:
                return rows, (rows[-1]["executed_at"], rows[-1]["trade_id"])
            if end:
                return rows, looked_until
        return rows, None

    async def after(self, symbol: str, place: tuple[datetime, int], limit: int) -> list[Any]:
        """Trades of a symbol from after a (time, number), oldest first; with holes where some are not settled yet."""
        return list(await self._pool.fetch(SELECT_AFTER, symbol, *place, limit))

    async def newest(self, symbol: str) -> tuple[datetime, int]:
        """The (time, number) of the newest settled trade."""
        for start in _starts(START_OF_TIME, END_OF_TIME):
            row = await self._pool.fetchrow(SELECT_NEWEST, symbol, start)
            if row is not None:
                return row["executed_at"], row["sequence"]
        return START_OF_TIME, 0

    async def place_of(self, symbol: str, sequence: int) -> tuple[datetime, int]:
        """A (time, number) from which on every trade after this number is found.

        By halving the time: about fifty keyed reads, each of half as many days as the one before.
        """
        low, (high, newest) = START_OF_TIME, await self.newest(symbol)
        if sequence >= newest:
            return high, sequence
        first = await self._pool.fetchrow(SELECT_FIRST_BETWEEN, symbol, low, high)
        if first is None or first["sequence"] > sequence:
            return low, sequence
        low = first["executed_at"]
        while high - low > RESOLUTION:
            middle = low + (high - low) / 2
            row = await self._pool.fetchrow(SELECT_FIRST_BETWEEN, symbol, middle, high)
            if row is not None and row["sequence"] <= sequence:
                low = row["executed_at"]
            else:
                high = middle
        return low, sequence

    async def whole(self, symbol: str) -> tuple[datetime, int]:
        """The (time, number) of the trade up to which none was missing when it was last looked, or is kept any more."""
        row = await self._pool.fetchrow(SELECT_WHOLE, symbol)
        if row is None:
            return START_OF_TIME, 0
        if row["whole_is_kept"]:
            return row["whole_time"], row["whole_until"]
        return row["kept_from"], await self._before(symbol, row["kept_from"], row["settled"])

    async def first_kept(self, symbol: str) -> int:
        """The number of the first trade that is not in a detached partition."""
        row = await self._pool.fetchrow(SELECT_WHOLE, symbol)
        if row is None or not row["is_cut"]:
            return 1
        return 1 + await self._before(symbol, row["kept_from"], row["settled"])

    async def _before(self, symbol: str, time: datetime, otherwise: int) -> int:
        """The number before that of the first trade at or after a time."""
        row = await self._pool.fetchrow(SELECT_FIRST_BETWEEN, symbol, time, END_OF_TIME)
        return otherwise if row is None else int(row["sequence"]) - 1

    async def remember_whole(self, symbol: str, place: tuple[datetime, int]) -> None:
        """Remember it."""
        await self._pool.execute(UPDATE_WHOLE, symbol, place[1], place[0])

    async def by_id(self, trades: Sequence[tuple[str, datetime]]) -> dict[str, Any]:
        """These trades, as far as they are on the tape."""
        ids, times = [trade_id for trade_id, _ in trades], [time for _, time in trades]
        return {row["trade_id"]: row for row in await self._pool.fetch(SELECT_BY_ID, ids, times)}


def _starts(since: datetime, until: datetime) -> Iterator[datetime]:
    """From when on to look: a page is mostly full of the last days, and every day is a partition to look into."""
    newest = min(until, datetime.now(UTC))
    for reach in _REACHES:
        if newest - since > reach:  # the other way round it would be before the year 1
            yield newest - reach
    yield since


def _end(until: datetime, before: datetime) -> datetime:
    """The earlier end, exclusive: a plain bound on the time is what spares the partitions after it."""
    return until if before >= END_OF_TIME else min(until, before + RESOLUTION)
