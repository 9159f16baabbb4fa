"""The newest book and ticker of each market in Redis, for whoever would rather read a key than call a service.

`trade-engine:book:BTC/USDT` and `trade-engine:ticker:BTC/USDT` hold what `GET /api/v1/books/{symbol}` and
`/api/v1/tickers/{symbol}` answer, at most a fifth of a second old. Nothing here is needed for trading: without Redis the
keys grow old and go.
"""

import asyncio
from collections.abc import Callable

import redis.asyncio
import structlog
from google.protobuf import json_format
from google.protobuf.message import Message
from prometheus_client import Counter
from redis.exceptions import RedisError

KEYS = "trade-engine"
LEVELS = 100
WRITE_EVERY_S = 0.2
LIFE_S = 86_400

AWAY = Counter("market_data_cache_unavailable_total", "Times the newest books and tickers could not be put into Redis")
log = structlog.get_logger()


class MarketCache:
    """Writes what has changed, now and then, all in one round trip."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.asyncio.from_url(redis_url, decode_responses=True)
        self._changed: set[str] = set()

    def changed(self, symbol: str) -> None:
        """A market's book or ticker is another."""
        self._changed.add(symbol)

    async def run(self, book_of: Callable[[str], Message | None], ticker_of: Callable[[str], Message | None]) -> None:
        """Write until cancelled. The functions tell a market's book and ticker, where there is one."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            symbols, self._changed = self._changed, set()
            if not symbols:
                continue
            kinds = {"book": book_of, "ticker": ticker_of}
            texts = {
                f"{KEYS}:{kind}:{symbol}": _json(message)
                for symbol in symbols
                for kind, tell in kinds.items()
                if (message := tell(symbol)) is not None
            }
            try:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for key, text in texts.items():
                        pipeline.set(key, text, ex=LIFE_S)
                    await pipeline.execute()
            except (RedisError, OSError) as error:
                AWAY.inc()
                self._changed |= symbols
                log.warning("newest books are not in Redis", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(1)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _json(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=True)
