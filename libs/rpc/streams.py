"""A server's open streams. Each can be ended at once, and then says why.

Because the server is told to stop (instead of holding up its drain), or because what let its caller in is over.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from libs.reasons import Refused, RefusedError, away
from libs.seats import HolderSeats


class OpenStreams:
    """Those of one server, of which one holder has at most `each`. Who reads one that ends is told DEPENDENCY_UNAVAILABLE.

    A holder is who would take the seats of all others: a user, or an address where nobody is named; "" has no limit.
    """

    def __init__(self, server: str, *, each: int) -> None:
        self._server = server
        self._held = HolderSeats(each, of="streams of one caller")
        self._stopping = False
        self._open: set[Telling | Requests] = set()

    def end(self) -> None:
        """End those that only tell; those that are asked are asked no more, and answer what they were asked before."""
        self._stopping = True
        for stream in self._open:
            stream.end(away(self._server))

    @contextmanager
    def holding(self, holder: str) -> Iterator[None]:
        """Count one more of a holder's for as long as this lasts. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        with self._held.one(holder) if holder else nullcontext():
            yield

    @contextmanager
    def telling(self, holder: str) -> Iterator["Telling"]:
        """Around a stream of responses to one request. Raises as `holding`, and what it is ended with."""
        self._check()
        reader = asyncio.current_task()
        assert reader is not None, "handlers run in tasks"
        stream = Telling(reader)
        try:
            with self.holding(holder):
                self._open.add(stream)
                yield stream
        except asyncio.CancelledError:
            if stream.ended is None:
                raise
            reader.uncancel()
            raise RefusedError(stream.ended) from None
        finally:
            self._open.discard(stream)

    @contextmanager
    def answering(self, source: AsyncIterator[Any], holder: str) -> Iterator["Requests"]:
        """Around a stream of requests and their answers. Raises as `telling`."""
        self._check()
        requests = Requests(source)
        try:
            with self.holding(holder):
                self._open.add(requests)
                yield requests
        finally:
            self._open.discard(requests)
        if requests.ended is not None:
            raise RefusedError(requests.ended)

    def _check(self) -> None:
        if self._stopping:
            raise RefusedError(away(self._server))


class Telling:
    """A stream of responses, and the task that reads it."""

    def __init__(self, reader: asyncio.Task[Any]) -> None:
        self._reader = reader
        self.ended: Refused | None = None

    def end(self, why: Refused) -> None:
        """End it now."""
        if self.ended is None:
            self.ended = why
            self._reader.cancel()


class Requests:
    """A caller's requests, until there are no more or they are ended."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self._source = source
        self._reader: asyncio.Task[Any] | None = None
        self.ended: Refused | None = None

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> Any:
        if self.ended is not None:
            raise StopAsyncIteration
        self._reader = asyncio.current_task()
        try:
            return await anext(self._source)
        except asyncio.CancelledError:
            if self.ended is None or self._reader is None:
                raise
            self._reader.uncancel()
            raise StopAsyncIteration from None
        finally:
            self._reader = None

    def end(self, why: Refused) -> None:
        """Let whoever reads them find their end."""
        if self.ended is None:
            self.ended = why
            if self._reader is not None:
                self._reader.cancel()
