"""One look for all who ask within a moment."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Seen = TypeVar("Seen")


class Lately(Generic[Seen]):
    """What was seen within the last `for_s` seconds, so that anybody may ask for it, as often as they like."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, Seen]], *, for_s: float) -> None:
        self._look = look
        self._for_s = for_s
        self._looking: asyncio.Task[Seen] | None = None
        self._until = 0.0

    async def see(self) -> Seen:
        """Look, or tell what was seen; who asks while somebody looks waits for that. Raises what looking raises."""
        if self._looking is None or (self._looking.done() and time.monotonic() > self._until):
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._has_seen)
        return await asyncio.shield(self._looking)

    def _has_seen(self, looking: asyncio.Task[Seen]) -> None:
        self._until = time.monotonic() + self._for_s
        if not looking.cancelled():
            looking.exception()  # that nobody may wait for any more: else asyncio complains
