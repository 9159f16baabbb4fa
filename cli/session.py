"""A trading session as a client uses it: requests in order, many under way, taken up again after any fault.

After a lost connection everything that was not answered is sent again in the same order; the ids of the orders make that
harmless, so that what happened is what would have happened without the fault.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

import grpc.aio
from exchange.gateway.v1 import order_gateway_pb2_grpc, trading_session_pb2

from libs.config import Tls
from libs.reasons import PASSING, Reason
from libs.rpc.client import open_channel
from libs.rpc.errors import refused_of

Request = trading_session_pb2.TradingSessionRequest
Answer = trading_session_pb2.TradingSessionResponse
_AGAIN = {*PASSING, Reason.INTERNAL}
_RECONNECT_S = 0.2


class SessionError(Exception):
    """The session could not be taken up again in time."""


async def run_session(
    target: str,
    token: str,
    requests: Iterable[Request],
    on_answer: Callable[[Request, Answer, float], None],
    *,
    tls: Tls | None = None,
    in_flight_max: int = 256,
    patience_s: float = 60.0,
) -> None:
    """Send all requests in order; `on_answer` gets each with its answer and the seconds it took. Raises SessionError."""
    source = iter(requests)
    unanswered: deque[tuple[Request, float]] = deque()
    exhausted = False
    last_progress = time.monotonic()
    while not exhausted or unanswered:
        before = len(unanswered)
        async with open_channel(target, tls) as channel:
            session = _Session(channel, token, source, unanswered, in_flight_max)
            try:
                async for request, answer, seconds in session.answers():
                    on_answer(request, answer, seconds)
                    last_progress = time.monotonic()
                exhausted = True
            except (grpc.aio.AioRpcError, _TryAgainError) as error:
                if time.monotonic() - last_progress > patience_s:
                    raise SessionError(f"no answer for {patience_s:.0f} s; {before} under way: {error}") from error
                exhausted = session.exhausted
        if not exhausted or unanswered:
            await asyncio.sleep(_RECONNECT_S)


class _TryAgainError(Exception):
    """A request was answered with a passing fault: what comes after it must not overtake it."""


class _Session:
    """One connection's life."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        token: str,
        source: Iterator[Request],
        unanswered: deque[tuple[Request, float]],
        in_flight_max: int,
    ) -> None:
        self._stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._source = source
        self._unanswered = unanswered
        self._room = asyncio.Semaphore(max(0, in_flight_max - len(unanswered)))
        self.exhausted = False

    async def answers(self) -> AsyncIterator[tuple[Request, Answer, float]]:
        call = self._stub.TradingSession(self._requests(), metadata=self._metadata)
        async for answer in call:
            if answer.HasField("update") or answer.updates_lost:
                continue
            request, sent_at = self._unanswered[0]
            if answer.HasField("error") and refused_of(answer.error).reason in _AGAIN:
                call.cancel()
                raise _TryAgainError(answer.error.message)
            self._unanswered.popleft()
            self._room.release()
            yield request, answer, time.perf_counter() - sent_at

    async def _requests(self) -> AsyncIterator[Request]:
        for request, _ in list(self._unanswered):
            yield request
        while True:
            await self._room.acquire()  # first, so that a request taken from the source is never dropped
            try:
                request = next(self._source)
            except StopIteration:
                self.exhausted = True
                return
            self._unanswered.append((request, time.perf_counter()))
            yield request
