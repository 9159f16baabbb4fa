"""A server's open streams: when it is told to stop they end at once, and say so, instead of holding up its drain."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from libs.reasons import Reason, Refused, RefusedError, away


class OpenStreams:
    """Those of one server, of which one holder has at most `each`. Who reads one that ends is told DEPENDENCY_UNAVAILABLE.

    A holder is who would take the seats of all others: a user, or an address where nobody is named; "" has no limit.
    """

    def __init__(self, server: str, *, each: int) -> None:
        self._server = server
        self._each = each
        self._held: Counter[str] = Counter()
        self._stopping = False
        self._readers: set[asyncio.Task[Any]] = set()
        self._requests: set[Requests] = set()

    def end(self) -> None:
        """End those that only tell; those that are asked are asked no more, and answer what they were asked before."""
        self._stopping = True
        for reader in self._readers:
            reader.cancel()
        for requests in self._requests:
            requests.end()

    @contextmanager
    def holding(self, holder: str) -> Iterator[None]:
        """Count one more of a holder's for as long as this lasts. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        if holder and self._held[holder] >= self._each:
            raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=f"at most {self._each} streams of one caller"))
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    @contextmanager
    def telling(self, holder: str) -> Iterator[None]:
        """Around a stream of responses to one request. Raises as `holding`, and when the server stops."""
        self._check()
        reader = asyncio.current_task()
        assert reader is not None, "handlers run in tasks"
        try:
            with self.holding(holder):
                self._readers.add(reader)
                yield
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            reader.uncancel()
            self._check()
        finally:
            self._readers.discard(reader)

    @contextmanager
    def answering(self, source: AsyncIterator[Any], holder: str) -> Iterator["Requests"]:
        """Around a stream of requests and their answers. Raises as `telling`."""
        self._check()
        requests = Requests(source)
        try:
            with self.holding(holder):
                self._requests.add(requests)
                yield requests
        finally:
            self._requests.discard(requests)
        self._check()

    def _check(self) -> None:
        if self._stopping:
            raise RefusedError(away(self._server))


class Requests:
    """A caller's requests, until there are no more or they are ended."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self._source = source
        self._reader: asyncio.Task[Any] | None = None
        self.over = False

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        if self.over:
            raise StopAsyncIteration
        self._reader = asyncio.current_task()
        try:
            return await anext(self._source)
        except asyncio.CancelledError:
            if not self.over or self._reader is None:
                raise
            self._reader.uncancel()
            raise StopAsyncIteration from None
        finally:
            self._reader = None

    def end(self) -> None:
        """Let whoever reads them find their end."""
        self.over = True
        if self._reader is not None:
            self._reader.cancel()
