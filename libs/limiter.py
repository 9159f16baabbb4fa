"""How often somebody may do something: counted in Redis, shared by all processes; by each alone while Redis is away."""

import asyncio
import math
import time
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import limits
import limits.aio
import structlog
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter

PATIENCE_S = 0.25
ALONE_FOR_S = 2.0
TAKEN_FOR_S = 1.0
KNOWN_MAX = 100_000
# How many ask Redis at the same moment; each has a connection for that long, of which its client opens 100.
ASKING_MAX = 50
# Who was refused so much is refused as much, or more, for a moment without asking.
REFUSED_FOR_S = 0.05
# A process takes this part of a second's worth at once: asking Redis costs more than placing an order.
SHARES = 5

AWAY = Counter("rate_limit_unavailable_total", "Limits that a process checked alone because Redis was away")

log = structlog.get_logger()


class Standing(NamedTuple):
    """Where somebody stands: what is left, and the seconds until some more is."""

    remaining: int
    reset_s: int


_NOTHING = (0, 0.0, Standing(0, 0))


class SharedLimit:
    """`per_s` in the long run; `burst` may come in `burst / per_s` seconds. Limits protect from load, not money.

    So nobody waits for a Redis that is away or hangs: after PATIENCE_S it is not asked again for ALONE_FOR_S.
    """

    def __init__(self, name: str, *, per_s: int, burst: int, redis_url: str) -> None:
        self.change(per_s=per_s, burst=burst)
        storage = limits.aio.storage.RedisStorage(f"async+{redis_url}", implementation="redispy", key_prefix=name)
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._alone = SlidingWindowCounterRateLimiter(limits.aio.storage.MemoryStorage())
        self._alone_until = 0.0
        self._asking = asyncio.Semaphore(ASKING_MAX)

    def change(self, *, per_s: int, burst: int) -> None:
        """Another limit from now on; who has used up the old one begins anew."""
        self.per_s = per_s
        window_s = max(1, math.ceil(burst / per_s))
        self.item = limits.RateLimitItemPerSecond(per_s * window_s, window_s)

    async def hit(self, who: str, *, cost: int = 1) -> tuple[bool, Standing]:
        """Whether it is within the limit, which then is used up by that much; and what is left of it."""
        async with self._asking:
            if time.monotonic() >= self._alone_until:
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        return await self._hit(self._shared, who, cost)
                except Exception as error:  # noqa: BLE001 - whatever the storage raises, trading goes on
                    self._alone_until = time.monotonic() + ALONE_FOR_S
                    log.warning("limits are checked without Redis", error=f"{type(error).__name__}: {error}")
        AWAY.inc()
        return await self._hit(self._alone, who, cost)

    async def _hit(self, limiter: SlidingWindowCounterRateLimiter, who: str, cost: int) -> tuple[bool, Standing]:
        admitted = await limiter.hit(self.item, who, cost=cost)
        if not admitted and await self._is_from_another_time(limiter.storage, who):
            await limiter.clear(self.item, who)
            admitted = await limiter.hit(self.item, who, cost=cost)
        stats = await limiter.get_window_stats(self.item, who)
        return admitted, Standing(stats.remaining, max(0, math.ceil(stats.reset_time - time.time())))

    async def _is_from_another_time(self, storage: Any, who: str) -> bool:
        """Whether what was counted stays for longer than two windows: the clock that keys expire by was set back."""
        window_s = self.item.get_expiry()
        _, previous_left_s, _, current_left_s = await storage.get_sliding_window(self.item.key_for(who), window_s)
        return bool(max(previous_left_s, current_left_s) > 2 * window_s + 1)


class SharedBudget:
    """A shared limit that is not asked every time: a process takes a few at once and lets them pass by itself.

    What is not used within a second is forgotten.
    """

    def __init__(self, limit: SharedLimit) -> None:
        self.limit = limit
        self._taken: dict[str, tuple[int, float, Standing]] = {}  # what is left of it, until when, and how it stood
        self._refused: dict[str, tuple[int, float, Standing]] = {}  # how much, until when, and how it stood
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of those who ask for more

    async def take(self, who: str, cost: int = 1) -> tuple[bool, Standing]:
        """As SharedLimit.hit."""
        if self._left(who) < cost:
            # One at a time: what each would take for all of them would be used up before the last had asked.
            turn = self._turns.setdefault(who, asyncio.Lock())
            async with turn:
                if self._left(who) < cost:
                    refused_cost, refused_until, standing = self._refused.get(who, _NOTHING)
                    if cost >= refused_cost and time.monotonic() < refused_until:
                        return False, standing
                    admitted, standing = await self._take_more(who, cost)
                    if not admitted:
                        return False, standing
        left, until, standing = self._taken[who]
        self._taken[who] = left - cost, until, standing
        return True, Standing(standing.remaining + left - cost, standing.reset_s)

    def _left(self, who: str) -> int:
        left, until, _ = self._taken.get(who, _NOTHING)
        return left if time.monotonic() < until else 0

    async def _take_more(self, who: str, cost: int) -> tuple[bool, Standing]:
        wanted = max(cost, self.limit.per_s // SHARES)
        admitted, standing = await self.limit.hit(who, cost=wanted)
        if not admitted and wanted > cost and standing.remaining >= cost:
            wanted = cost
            admitted, standing = await self.limit.hit(who, cost=wanted)
        if len(self._taken) >= KNOWN_MAX or len(self._refused) >= KNOWN_MAX:
            self._taken.clear()
            self._refused.clear()
        if admitted:
            self._taken[who] = self._left(who) + wanted, time.monotonic() + TAKEN_FOR_S, standing
        else:
            self._refused[who] = cost, time.monotonic() + REFUSED_FOR_S, standing
        return admitted, standing
