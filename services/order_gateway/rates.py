"""Orders per second of a user, over all gateways."""

from libs.limiter import SharedBudget, SharedLimit
from libs.reasons import Reason, Refused, RefusedError


class OrderRate:
    """The limit of every user. Services are trusted to have limits of their own."""

    def __init__(self, limit: SharedLimit) -> None:
        self._budget = SharedBudget(limit)

    async def admit(self, user_id: str, orders: int = 1) -> None:
        """Let so many orders pass. Raises RefusedError: RATE_LIMITED, or BATCH_TOO_LARGE where waiting would not help."""
        most = self._budget.limit.item.amount
        if orders > most:
            rule = f"at most {most} of a user at once"
            raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="orders", rule=rule))
        admitted, _ = await self._budget.take(user_id, orders)
        if not admitted:
            rule = f"orders: {self._budget.limit.item}"
            raise RefusedError(Refused(Reason.RATE_LIMITED, rule=rule, detail={"retry_after_s": "1"}))
