"""The way of changes: with the orders, in the order in which all of it came; or past them while those wait for the wallet.

A change needs no money. So whoever is in trouble gets out, also when nobody gets in.
"""

from collections.abc import Sequence

from libs.batching import Batcher
from services.order_gateway.intake import Intake
from services.order_gateway.items import Answer, Change, Item


class Changes:
    """Takes cancels, and amends whose money is held; but for a session's cancels, which stay in its order."""

    def __init__(self, *, flow: Intake, intake: Batcher[Item, Answer], beside: Batcher[Item, Answer]) -> None:
        self._flow = flow
        self._intake = intake
        self._beside = beside

    async def submit(self, changes: Sequence[Change]) -> Sequence[Answer]:
        """One answer per change, in order. Raises RefusedError where the outcome is unknown."""
        lane = self._beside if self._flow.is_held_up else self._intake
        return await lane.submit(changes)

    async def submit_one(self, change: Change) -> Answer:
        """The answer to one change; raises as `submit`."""
        return (await self.submit((change,)))[0]
