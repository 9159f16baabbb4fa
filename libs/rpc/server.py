"""A gRPC server with the rules of this house around every handler, so that no handler can forget them.

Around each call: request id, access rule, `user_id` filled in, default deadline, refusals turned into statuses with
details, everything unexpected into INTERNAL with a log line, metrics.
"""

from __future__ import annotations  # grpc's generic types exist only in its stubs

import asyncio
import contextlib
import contextvars
import math
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from libs.addresses import holder_of, with_port
from libs.config import Service, Tls
from libs.db.pool import DatabaseAway
from libs.identity import SERVICE_SCOPE, Caller, TokenVerifier
from libs.ids import new_id
from libs.reasons import Reason, Refused, RefusedError, away
from libs.rpc.access import PUBLIC, AccessRule, access_rules, acting, admit, authenticate
from libs.rpc.errors import DETAILS_KEY, code_of, status_of
from libs.rpc.generic import ByName
from libs.rpc.streams import OpenStreams, Requests, Telling
from libs.rpc.tls import Certificates
from libs.telemetry import RPC_SECONDS, RPC_TOTAL

MESSAGE_MAX_BYTES = 4 * 1024 * 1024
STREAMS_PER_CONNECTION_MAX = 2000
# Calls under way in one process, however many connections bring them; streams have limits of their own. As many may wait
# to be taken: beyond gRPC's own limit (1,000) it would fail them as CANCELLED, after a pause or in a burst.
CALLS_MAX = 10_000
# Who is gone without a word (a cut cable, a machine that sleeps) is missed after these; by gRPC's defaults streams to them,
# and sessions whose orders end with them, would last for two hours.
PING_EVERY_MS, PING_ANSWERED_WITHIN_MS = 10_000, 10_000
KEEPALIVE = (
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", PING_ANSWERED_WITHIN_MS),
    ("grpc.http2.ping_timeout_ms", PING_ANSWERED_WITHIN_MS),
    ("grpc.http2.max_pings_without_data", 0),  # any number
)
CONNECTION_IDLE_MAX_MS = 10 * 60 * 1000
# Then calls go over a new one (streams stay where they are), so that a process which was added behind the same name gets its
# share; one that lasts for ever would leave it idle.
CONNECTION_AGE_MAX_MS = 5 * 60 * 1000
DEFAULT_DEADLINE_S = 30.0
DRAIN_S = 5.0
REQUEST_ID = "x-request-id"
_REQUEST_ID_MAX_CHARS = 100
_HEAR_OUT_S = 0.2
_HEAR_OUT_MESSAGES = 100
# Who writes when it gets an answer has then seen the last one; see _hear_out.
_LAST_ANSWERS_S = 0.5
_OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

_UNREADABLE = object()
_LOOK_AT_TOKENS_S = 10.0
_TOO_MANY_CALLS = Refused(Reason.OVERLOADED, detail={"queue": "calls", "retry_after_s": "1"})
_NOT_ITS_TYPE = Refused(Reason.BODY_MALFORMED, rule="a message of the type that this method takes")

log = structlog.get_logger()
_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=PUBLIC)


def current_caller() -> Caller:
    """Who called the handler that is running."""
    return _caller.get()


class _HouseRules(grpc.aio.ServerInterceptor):
    """Wraps every handler once and remembers the wrapped one."""

    def __init__(self, rules: dict[str, AccessRule], verifier: TokenVerifier, streams: OpenStreams) -> None:
        self._streams = streams
        self._rules = rules
        self._verifier = verifier
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._under_way = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        wrapped = self._open(handler) if method.startswith(_OPEN_SERVICES) else self._wrap(method, handler)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        read = handler.request_deserializer
        assert read is not None, "the generated code names it"
        read = _read_or_refuse(read) if handler.request_streaming else _read_or_mark(read)
        codec = {"request_deserializer": read, "response_serializer": handler.response_serializer}
        rule = self._rules[method]
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, rule, handler.unary_unary), **codec)
        if handler.unary_stream is not None:
            telling = self._stream(method, rule, self._telling(handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(telling, **codec)
        if handler.stream_stream is not None:
            answering = self._stream(method, rule, self._answering(handler.stream_stream))
            return grpc.stream_stream_rpc_method_handler(answering, **codec)
        raise NotImplementedError(f"{method}: client streaming without a response stream")

    def _open(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """A method of health or reflection, which are not ours: only its streams are ended with the others."""
        watch: Any = handler.unary_stream
        talk: Any = handler.stream_stream
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }

        async def watching(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            with contextlib.suppress(RefusedError), self._streams.telling(_address(context)):
                await watch(request, context)

        async def talking(source: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with contextlib.suppress(RefusedError):
                async for response in self._answering(talk)(source, context):
                    yield response

        if watch is not None:
            return grpc.unary_stream_rpc_method_handler(watching, **codec)
        return grpc.stream_stream_rpc_method_handler(talking, **codec) if talk is not None else handler

    def _unary(self, method: str, rule: AccessRule, behaviour: Any) -> Any:
        seconds = RPC_SECONDS.labels(method)
        succeeded = RPC_TOTAL.labels(method, "OK")

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.perf_counter()
            self._under_way += 1
            try:
                self._enter(rule, context, request)
                if self._under_way > CALLS_MAX:
                    raise RefusedError(_TOO_MANY_CALLS)
                if context.time_remaining() is None:
                    async with asyncio.timeout(DEFAULT_DEADLINE_S):
                        response = await behaviour(request, context)
                else:
                    response = await behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost layer: every fault becomes an answer
                await self._answer(method, context, error)
            else:
                succeeded.inc()
                return response
            finally:
                self._under_way -= 1
                seconds.observe(time.perf_counter() - started)

        return call

    def _stream(self, method: str, rule: AccessRule, behaviour: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                self._enter(rule, context, request)
                async for response in behaviour(request, context):
                    yield response
                RPC_TOTAL.labels(method, "OK").inc()
            except Exception as error:  # noqa: BLE001 - the outermost layer: every fault becomes an answer
                if isinstance(error, RefusedError) and hasattr(request, "__anext__"):
                    await _hear_out(request)
                await self._answer(method, context, error)

        return call

    def _telling(self, behaviour: Any) -> Any:
        async def tell(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with self._streams.telling(_holder(context)) as stream, self._ending_with_token(stream):
                async for response in behaviour(request, context):
                    yield response

        return tell

    def _answering(self, behaviour: Any) -> Any:
        async def answer(source: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with self._streams.answering(source, _holder(context)) as requests, self._ending_with_token(requests):
                async for response in behaviour(requests, context):
                    yield response
                if requests.ended is not None:
                    await asyncio.sleep(_LAST_ANSWERS_S)

        return answer

    def _enter(self, rule: AccessRule, context: grpc.aio.ServicerContext[Any, Any], request: Any) -> None:
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())  # texts, but for names that end in -bin
        request_id = metadata.get(REQUEST_ID, "")[:_REQUEST_ID_MAX_CHARS] or new_id()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        caller = admit(rule, acting(authenticate(self._verifier, metadata.get("authorization", "")), metadata))
        _caller.set(caller)
        if request is _UNREADABLE:
            raise RefusedError(_NOT_ITS_TYPE)
        if rule.names_user and hasattr(request, "user_id"):
            request.user_id = caller.acting_for(request.user_id)

    @contextlib.contextmanager
    def _ending_with_token(self, stream: Telling | Requests) -> Iterator[None]:
        """A user's stream ends with the token it was opened with, or the key of that; a service's goes on."""
        caller, loop = current_caller(), asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            over = self._verifier.over(caller)
            if over is not None:
                stream.end(over)
            else:  # again now and then: the clock that tokens expire by may be set, keys may be withdrawn
                left_s = caller.expires_at - time.time()
                timer = loop.call_later(max(0.0, min(left_s, _LOOK_AT_TOKENS_S)), look)

        if not caller.is_service and caller.expires_at < math.inf:
            look()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    async def _answer(self, method: str, context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
        if isinstance(error, RefusedError):
            refused = error.refused
        elif isinstance(error, TimeoutError):
            refused = Refused(Reason.OUTCOME_UNKNOWN)
        elif isinstance(error, DatabaseAway):
            log.warning("database away", method=method, error=f"{type(error).__name__}: {error}")
            refused = away("postgresql")
        elif isinstance(error, grpc.aio.AbortError):
            raise error
        else:
            log.error("unexpected fault in a handler", method=method, exc_info=error)
            refused = Refused(Reason.INTERNAL)
        code = code_of(refused.reason)
        RPC_TOTAL.labels(method, code.name).inc()
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        trailing = ((REQUEST_ID, request_id), (DETAILS_KEY, status_of(refused).SerializeToString()))
        await context.abort(code, str(refused), trailing_metadata=trailing)


def _holder(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Whose stream this is; a service's are for many."""
    caller = current_caller()
    return "" if caller.is_service else caller.user_id or _address(context)


def _address(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Of a peer such as `ipv4:10.0.0.1:4711` or `ipv6:%5B::1%5D:4711`."""
    kind, _, peer = context.peer().partition(":")
    return f"{kind}:{holder_of(unquote(peer.rpartition(':')[0]).strip('[]'))}"


def _read_or_mark(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Grpc answers UNKNOWN where reading a request fails; our answer is the handler's wrapper's, so it must get there."""

    def reading(body: bytes) -> Any:
        try:
            return read(body)
        except DecodeError:
            return _UNREADABLE

    return reading


def _read_or_refuse(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """In a stream of requests the handler meets what reading raises."""

    def reading(body: bytes) -> Any:
        try:
            return read(body)
        except DecodeError as error:
            raise RefusedError(_NOT_ITS_TYPE) from error

    return reading


async def _hear_out(requests: AsyncIterator[Any]) -> None:
    """Read what a refused caller of a stream is just sending.

    grpc's Python client turns a status that meets its own write into INTERNAL, and the reason would be lost.
    """
    with contextlib.suppress(TimeoutError, StopAsyncIteration, RefusedError):
        async with asyncio.timeout(_HEAR_OUT_S):
            for _ in range(_HEAR_OUT_MESSAGES):
                await anext(requests)


class RpcServer:
    """A process's services on one port: start, report health, drain on stop.

    With `internal` every method needs a service credential, whatever its own rule says: that rule is then for the edge,
    which lets users in and calls on their behalf.
    """

    def __init__(
        self,
        settings: Service,
        verifier: TokenVerifier,
        *services: ServiceDescriptor,
        internal: bool,
        tls: Tls | None = None,
    ) -> None:
        self._settings = settings
        self._certificates = Certificates(tls or Tls())
        self._names = [service.full_name for service in services]
        rules = {method: rule for service in services for method, rule in access_rules(service).items()}
        if internal:
            rules = {method: AccessRule(SERVICE_SCOPE, names_user=rule.names_user) for method, rule in rules.items()}
        for method in rules:
            RPC_TOTAL.labels(
                method, "INTERNAL"
            )  # at 0 from the start: an alert on its increase sees the first one, too
        self._streams = OpenStreams(self._names[0], each=settings.streams_per_caller)
        self._server = grpc.aio.server(
            interceptors=[_HouseRules(rules, verifier, self._streams)],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
                ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
                ("grpc.server.max_pending_requests", CALLS_MAX),
                ("grpc.server.max_pending_requests_hard_limit", CALLS_MAX),
                ("grpc.so_reuseport", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", PING_EVERY_MS // 2),
                ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MAX_MS),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS),
                *KEEPALIVE,
            ],
        )
        self.grpc: Any = ByName(self._server)
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        open_names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        reflection.enable_server_reflection((*self._names, *open_names), self._server)

    async def start(self) -> None:
        """Listen, and report SERVING. Raises OSError where the port is taken, ConfigError where TLS is half set up."""
        address = with_port(self._settings.host, self._settings.port)
        try:
            if self._certificates.on:
                port = self._server.add_secure_port(address, self._certificates.server())
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await self._server.start()
        await self.set_serving(True)
        log.info("serving", address=with_port(self._settings.host, port), services=self._names)

    async def set_serving(self, serving: bool) -> None:
        """Tell health checks; "" stands for the whole server."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, state)

    async def drain(self) -> None:
        """Report NOT_SERVING, end the streams, take no new calls, give those under way a grace period."""
        await self._health.enter_graceful_shutdown()
        self._streams.end()
        await self._server.stop(DRAIN_S)

    async def until_stopped(self) -> None:
        """Return after SIGTERM or SIGINT and the drain that follows."""
        await until_told_to_stop()
        await self.drain()


async def until_told_to_stop() -> None:
    """Wait for SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    log.info("stopping")
