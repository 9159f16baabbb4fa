"""Orders per second of a user, over all gateways.

Asking Redis costs more than placing an order. So a gateway takes a few orders' worth at a time and lets them pass by itself;
what it does not use within a second is forgotten.
"""

import time

from libs.limiter import SharedLimit
from libs.reasons import Reason, Refused, RefusedError

TAKEN_FOR_S = 1.0
SHARES = 10
KNOWN_MAX = 100_000


class OrderRate:
    """The limit of every user. Services are trusted to have limits of their own."""

    def __init__(self, limit: SharedLimit, *, per_s: int) -> None:
        self._limit = limit
        self._share = max(1, per_s // SHARES)
        self._taken: dict[str, tuple[int, float]] = {}  # what is left of what was taken, and until when

    async def admit(self, user_id: str, orders: int = 1) -> None:
        """Let so many orders pass. Raises RefusedError(RATE_LIMITED)."""
        left, until = self._taken.get(user_id, (0, 0.0))
        now = time.monotonic()
        if now >= until:
            left = 0
        if left < orders:
            wanted = max(orders, self._share)
            admitted, standing = await self._limit.hit(user_id, cost=wanted)
            if not admitted and wanted > orders and standing.remaining >= orders:
                wanted = orders
                admitted, _ = await self._limit.hit(user_id, cost=wanted)
            if not admitted:
                raise RefusedError(
                    Refused(Reason.RATE_LIMITED, rule=f"orders: {self._limit.item}", detail={"retry_after_s": "1"})
                )
            if len(self._taken) >= KNOWN_MAX:
                self._taken.clear()
            left, until = left + wanted, now + TAKEN_FOR_S
        self._taken[user_id] = left - orders, until
