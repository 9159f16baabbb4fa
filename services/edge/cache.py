"""Answers to public questions, kept for a moment: many readers of one book cost about as much as one.

A question that is being asked is not asked again beside it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from prometheus_client import Counter

from libs.bounded import put_bounded

KEPT_S = 0.05
ANSWERS_MAX = 1000

HITS = Counter("http_answers_reused_total", "Public answers that were given again without asking")


class Answers:
    """The newest answers by question."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, asyncio.Future[bytes]]] = {}

    async def get(self, question: str, ask: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer, at most 50 ms old. Raises what `ask` raises; that is not kept."""
        until, answer = self._answers.get(question, (0.0, None))
        if answer is None or time.monotonic() >= until:
            answer = asyncio.ensure_future(ask())
            put_bounded(self._answers, question, (time.monotonic() + KEPT_S, answer), limit=ANSWERS_MAX)
        else:
            HITS.inc()
        try:
            return await asyncio.shield(answer)
        except BaseException:
            if self._answers.get(question, (0.0, None))[1] is answer:
                del self._answers[question]
            raise
