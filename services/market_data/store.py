"""Candles on disk. Written by whoever has seen more; read to go on after a start, and for everything that is over."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from libs.db.pool import Pool
from services.market_data.core.chart import DAY_MINUTES, Candle, Chart, Interval

NAMES = {Interval.MINUTE: "1m", Interval.FIVE_MINUTES: "5m", Interval.HOUR: "1h", Interval.DAY: "1d"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_CANDLE = "extract(epoch FROM opened_at)::bigint, open, high, low, close, volume, quote_volume, trades, last_sequence"
WRITE = """
WITH written AS (
    INSERT INTO market_data.candles AS c (symbol, interval, opened_at, open, high, low, close, volume, quote_volume, trades,
        last_sequence)
    SELECT $1, i::market_data.candle_interval, o, p1, p2, p3, p4, v1, v2, n, s
    FROM unnest($2::text[], $3::timestamptz[], $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[],
        $9::numeric[], $10::bigint[], $11::bigint[]) AS u (i, o, p1, p2, p3, p4, v1, v2, n, s)
    ORDER BY i, o
    ON CONFLICT (symbol, interval, opened_at) DO UPDATE SET
        open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close, volume = excluded.volume,
        quote_volume = excluded.quote_volume, trades = excluded.trades, last_sequence = excluded.last_sequence
    WHERE c.last_sequence < excluded.last_sequence
)
INSERT INTO market_data.charts AS c (symbol, last_sequence, last_price, last_at_ns) VALUES ($1, $12, $13, $14)
ON CONFLICT (symbol) DO UPDATE SET
    last_sequence = excluded.last_sequence, last_price = excluded.last_price, last_at_ns = excluded.last_at_ns
WHERE c.last_sequence < excluded.last_sequence
"""
# One snapshot: another process may be writing.
READ_CHART = f"""
SELECT c.last_sequence AS chart_sequence, c.last_price, c.last_at_ns, n.*
FROM market_data.charts c
LEFT JOIN LATERAL (
    (SELECT '1m' AS name, {_CANDLE} FROM market_data.candles
     WHERE symbol = c.symbol AND interval = '1m' ORDER BY opened_at DESC LIMIT {DAY_MINUTES})
    UNION ALL
    (SELECT '5m', {_CANDLE} FROM market_data.candles
     WHERE symbol = c.symbol AND interval = '5m' ORDER BY opened_at DESC LIMIT 1)
    UNION ALL
    (SELECT '1h', {_CANDLE} FROM market_data.candles
     WHERE symbol = c.symbol AND interval = '1h' ORDER BY opened_at DESC LIMIT 1)
    UNION ALL
    (SELECT '1d', {_CANDLE} FROM market_data.candles
     WHERE symbol = c.symbol AND interval = '1d' ORDER BY opened_at DESC LIMIT 1)
) AS n ON true
WHERE c.symbol = $1
"""
READ_CANDLES = f"""
SELECT {_CANDLE} FROM market_data.candles
WHERE symbol = $1 AND interval = $2::text::market_data.candle_interval AND opened_at >= $3 AND opened_at < $4
ORDER BY opened_at DESC LIMIT $5
"""


class CandleStore:
    """Reads and writes schema `market_data`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def write(self, symbol: str, chart: Chart, candles: Sequence[tuple[Interval, Candle]]) -> None:
        """Store candles and up to which trade they go, in one commit; what has seen more stays."""
        rows = [
            (
                NAMES[interval], _EPOCH + timedelta(seconds=candle.opened_s), candle.open, candle.high, candle.low,
                candle.close, candle.volume, candle.quote_volume, candle.trades, candle.last_sequence,
            )
            for interval, candle in candles
        ]  # fmt: skip
        columns = [list(column) for column in zip(*rows, strict=True)]
        await self._pool.execute(WRITE, symbol, *columns, chart.last_sequence, chart.last_price, chart.last_at_ns)

    async def chart(self, symbol: str) -> Chart:
        """A market as it was stored last; an empty one where it never was."""
        chart = Chart()
        intervals = {name: interval for interval, name in NAMES.items()}
        for row in reversed(await self._pool.fetch(READ_CHART, symbol)):
            chart.last_sequence, chart.last_price, chart.last_at_ns, name, *values = row.values()
            interval, candle = intervals[name], Candle(*values)
            if interval is Interval.MINUTE and Interval.MINUTE in chart.current:
                chart.minutes.append(chart.current[Interval.MINUTE])
            chart.current[interval] = candle
        return chart

    async def candles(
        self, symbol: str, interval: Interval, *, since: datetime, until: datetime, limit: int
    ) -> list[Candle]:
        """Stored candles that began between two times, newest first."""
        rows = await self._pool.fetch(READ_CANDLES, symbol, NAMES[interval], since, until, limit)
        return [Candle(*row.values()) for row in rows]
