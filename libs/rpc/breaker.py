"""A circuit breaker per peer: after a row of failures calls are refused at once, until a trial call succeeds.

closed -> open after `failures` calls in a row failed; open -> half-open after `open_s`; half-open -> closed by the first
call that succeeds, -> open by one that fails.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter, Gauge
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from libs.config import Circuit
from libs.reasons import Reason, Refused, RefusedError

# CANCELLED is what a server that is stopping may say; a cancellation of our own is an asyncio.CancelledError.
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
STATES: Final = ("closed", "open", "half-open")
# purgatory's word -> the field's word.
_WORDS: Final = {"closed": "closed", "opened": "open", "half-opened": "half-open"}

log = structlog.get_logger()
STATE = Gauge("circuit_state", "1 for the state that the circuit is in", ["peer", "state"])
CHANGES = Counter("circuit_changes_total", "Times the circuit went into a state", ["peer", "state"])
REFUSED = Counter("circuit_refused_total", "Calls refused because the circuit is open", ["peer"])


def is_passing(error: BaseException) -> bool:
    """Whether a call failed in a way that may be over soon: nobody there, too slow, stopping."""
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in _PASSING


class Breaker:
    """The circuit to one peer. Only passing faults count: any answer, a refusal too, shows that the peer is there."""

    def __init__(self, peer: str, settings: Circuit) -> None:
        self._peer = peer
        self._open_s = settings.open_s
        self._circuits = AsyncCircuitBreakerFactory(
            default_threshold=settings.failures,
            default_ttl=settings.open_s,
            exclude=[asyncio.CancelledError, (Exception, lambda error: not is_passing(error))],
        )
        self._circuits.add_listener(self._on_event)
        self._show("closed")

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call. Raises RefusedError(DEPENDENCY_UNAVAILABLE) where the circuit is open."""
        try:
            async with await self._circuits.get_breaker(self._peer):
                yield
        except OpenedState as state:
            REFUSED.labels(self._peer).inc()
            retry_after_s = max(1, round(state.opened_at + self._open_s - time.time()))
            detail = {"dependency": self._peer, "circuit": "open", "retry_after_s": str(retry_after_s)}
            raise RefusedError(Refused(Reason.DEPENDENCY_UNAVAILABLE, detail=detail)) from None

    def _on_event(self, _: str, kind: str, event: Any) -> None:
        if kind == "state_changed":
            state = _WORDS[event.state]
            log.warning("circuit changed", peer=self._peer, state=state)
            CHANGES.labels(self._peer, state).inc()
            self._show(state)

    def _show(self, state: str) -> None:
        for name in STATES:
            STATE.labels(self._peer, name).set(name == state)
