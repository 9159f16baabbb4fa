"""Calls to other services: credential, request id, deadline, and patience with passing faults."""

from collections.abc import Callable
from typing import Any

import grpc.aio
import structlog
from tenacity import wait_exponential_jitter

from libs.config import Circuit, Tls
from libs.ids import new_id
from libs.patience import patiently
from libs.rpc.breaker import Breaker, is_passing
from libs.rpc.errors import refused_from_call
from libs.rpc.server import KEEPALIVE, MESSAGE_MAX_BYTES, REQUEST_ID
from libs.rpc.tls import Certificates

# Our own answers are made to fit a message; the largest are of five hundred orders with all that each has freed.
ANSWER_MAX_BYTES = 4 * MESSAGE_MAX_BYTES
# What gRPC calls the minimal backoff is the time a peer has to greet (its doc/connection-backoff.md): with TLS some three
# round trips, or as long as a busy machine keeps it waiting. One that is not there at all is known at once.
CONNECT_WITHIN_MS = 2000
# A peer that starts again may have another address (a container made anew); gRPC by itself would look after 30 seconds.
RESOLVE_EVERY_MS = 1000
WAIT = wait_exponential_jitter(multiplier=0.05, max=0.5, jitter=0.05)


def open_channel(target: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel that reconnects quickly and fails fast while there is nobody. Raises ConfigError."""
    options = [
        ("grpc.max_receive_message_length", ANSWER_MAX_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", CONNECT_WITHIN_MS),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_EVERY_MS),
        *KEEPALIVE,
    ]
    certificates = Certificates(tls) if tls is not None else None
    if certificates is not None and certificates.on:
        return grpc.aio.secure_channel(target, certificates.channel(), options=options)
    return grpc.aio.insecure_channel(target, options=options)


class Peer:
    """One other service: every call has a deadline, a credential and the request id of the call it serves."""

    def __init__(
        self,
        *,
        name: str,
        credential: Callable[[], str],
        timeout_s: float,
        patience_s: float,
        circuit: Circuit | None = None,
    ) -> None:
        self._name = name
        self._breaker = Breaker(name, circuit or Circuit())
        self._credential = credential
        self._timeout_s = timeout_s
        self._patience_s = patience_s

    async def call(self, method: Callable[..., Any], request: Any) -> Any:
        """The response; tried once. Raises RefusedError."""
        try:
            return await self.begin(method, request)
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency=self._name) from error

    async def call_patiently(self, method: Callable[..., Any], request: Any) -> Any:
        """The response; passing faults (as of a server that is away or stopping) are tried again until `patience_s` is over.

        Only for requests with an idempotency key. A call whose patience ends is one failure to the circuit breaker.
        Raises RefusedError.
        """
        try:
            async with self._breaker.call():
                return await patiently(
                    lambda: self.begin(method, request), is_passing=is_passing, patience_s=self._patience_s, wait=WAIT
                )
        except grpc.aio.AioRpcError as error:
            raise refused_from_call(error, dependency=self._name) from error

    def begin(self, method: Callable[..., Any], request: Any) -> Any:
        """The call, under way; awaiting it raises AioRpcError where it fails."""
        return method(request, timeout=self._timeout_s, metadata=self.metadata())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        request_id = structlog.contextvars.get_contextvars().get("request_id") or new_id()
        return (("authorization", f"Bearer {self._credential()}"), (REQUEST_ID, request_id))
