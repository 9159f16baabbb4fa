"""Server streams as newline-delimited JSON: one message a line, in grpc-gateway's manner."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc.aio
from prometheus_client import Gauge
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from libs.identity import Caller
from libs.reasons import Refused, RefusedError
from libs.rpc.errors import refused_from_call
from libs.rpc.streams import OpenStreams, Telling
from libs.seats import Seats
from services.edge.identity import Identity
from services.edge.transcoding import response_json

# A refusal comes at once and becomes the answer's status; a stream with nothing to say yet is begun after this.
FIRST_WORD_S = 0.5
MEDIA_TYPE = "application/x-ndjson"

STREAMS = Gauge("http_streams", "Open streams of newline-delimited JSON")


class Streams:
    """Open streams, up to a limit."""

    def __init__(self, limit: int, *, each: int, identity: Identity) -> None:
        self._identity = identity
        self._seats = Seats(limit, STREAMS)
        self._open = OpenStreams("edge", each=each)

    def end(self) -> None:
        """End those that are open, each with a line that says so."""
        self._open.end()

    async def answer(self, call: Any, *, caller: Caller | None, holder: str, dependency: str, body: str) -> Response:
        """The stream's answer. Raises RefusedError where the call is refused at once, or there are too many streams."""
        responses = aiter(call)
        first = asyncio.ensure_future(anext(responses, None))
        with ExitStack() as leaving:
            leaving.callback(call.cancel)
            leaving.enter_context(self._open.holding(holder))
            leaving.enter_context(self._seats.one())
            await asyncio.wait({first}, timeout=FIRST_WORD_S)
            if first.done() and isinstance(error := first.exception(), grpc.aio.AioRpcError):
                raise refused_from_call(error, dependency=dependency) from error
            left = leaving.pop_all()

        async def lines() -> AsyncIterator[bytes]:
            try:
                with self._open.telling("") as stream, self._ending_with_credential(stream, caller):
                    message = await first
                    while message is not None:
                        yield response_json(message, body) + b"\n"
                        message = await anext(responses, None)
            except grpc.aio.AioRpcError as error:
                yield _last_line(refused_from_call(error, dependency=dependency).refused)
            except RefusedError as error:
                yield _last_line(error.refused)

        return _Lines(lines(), leaving=left)

    @contextmanager
    def _ending_with_credential(self, stream: Telling, caller: Caller | None) -> Iterator[None]:
        if caller is None:
            yield
            return

        async def end() -> None:
            stream.end(await self._identity.until_over(caller))

        ending = asyncio.create_task(end())
        try:
            yield
        finally:
            ending.cancel()


class _Lines(StreamingResponse):
    """Leaves what it holds when it ends, also where the client is gone before the first line."""

    def __init__(self, lines: AsyncIterator[bytes], *, leaving: ExitStack) -> None:
        super().__init__(lines, media_type=MEDIA_TYPE)
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See starlette.responses.Response."""
        with self._leaving:
            await super().__call__(scope, receive, send)


def _last_line(refused: Refused) -> bytes:
    return json.dumps({"error": {"reason": refused.reason.name, **refused.metadata()}}).encode() + b"\n"
