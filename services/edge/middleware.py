"""What happens to every API request around its handler.

Outermost first: request id, security headers and log; recovery; the time limit; the body, up to its limit; who is calling;
the rate limit. CORS and the addresses behind proxies are starlette's and uvicorn's, wired in `app` and `__main__`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response

from libs.addresses import holder_of
from libs.config import Edge
from libs.identity import Caller
from libs.ids import new_id
from libs.limiter import SharedBudget, SharedLimit
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.server import REQUEST_ID
from libs.signing import KEY_HEADER
from services.edge.identity import Identity, Signed
from services.edge.problems import PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT, problem

_REQUEST_ID_MAX_CHARS = 100
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
Handler = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()
REQUESTS = Counter("http_requests_total", "Answered requests", ["method", "status"])
SECONDS = Histogram("http_request_duration_seconds", "Time from a request to the start of its answer", ["route"])


class RateLimit:
    """Requests per second of a user, or of an address where nobody is named; shared by all edges."""

    def __init__(self, settings: Edge, redis_url: str) -> None:
        self._limit = SharedLimit("edge", per_s=settings.rate_per_s, burst=settings.rate_burst, redis_url=redis_url)
        self._budget = SharedBudget(self._limit)

    def change(self, settings: Edge) -> None:
        """Another limit from now on."""
        self._limit.change(per_s=settings.rate_per_s, burst=settings.rate_burst)

    async def check(self, who: str) -> dict[str, str]:
        """Headers that tell where the caller stands. Raises RateLimitedError with the same headers."""
        admitted, standing = await self._budget.take(who)
        headers = {
            "ratelimit-limit": str(self._limit.item.amount),
            "ratelimit-remaining": str(standing.remaining),
            "ratelimit-reset": str(standing.reset_s),
        }
        if not admitted:
            raise RateLimitedError(f"{self._limit.item}", standing.reset_s, headers)
        return headers


class RateLimitedError(RefusedError):
    """Over the limit; with the headers that say so."""

    def __init__(self, rule: str, reset_s: int, headers: dict[str, str]) -> None:
        super().__init__(Refused(Reason.RATE_LIMITED, rule=rule, detail={"retry_after_s": str(max(1, reset_s))}))
        self.headers = headers


class Chain:
    """Wraps the handler of all API requests."""

    def __init__(self, *, settings: Edge, identity: Identity, rate_limit: RateLimit) -> None:
        self._settings = settings
        self._identity = identity
        self._rate_limit = rate_limit

    def around(self, handler: Handler) -> Handler:
        """The handler, with everything around it."""

        async def call(request: Request) -> Response:
            started = time.perf_counter()
            request_id = request.headers.get(REQUEST_ID, "")[:_REQUEST_ID_MAX_CHARS]
            request_id = request_id if request_id.isascii() and request_id.isprintable() and request_id else new_id()
            request.state.request_id, request.state.caller, request.state.route = request_id, None, ""
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                response = await self._guarded(handler, request)
                seconds = time.perf_counter() - started
                self._log(request, response, seconds)
            response.headers[REQUEST_ID] = request_id
            response.headers.update({**SECURITY_HEADERS, "content-security-policy": API_POLICY})
            REQUESTS.labels(request.method, str(response.status_code)).inc()
            SECONDS.labels(request.state.route).observe(seconds)
            return response

        return call

    async def _guarded(self, handler: Handler, request: Request) -> Response:
        headers: dict[str, str] = {}
        request_id = request.state.request_id
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                headers = await self._let_in(request)
                response = await handler(request)
        except TimeoutError:
            response = problem(Refused(Reason.OUTCOME_UNKNOWN), request_id=request_id)
        except RateLimitedError as error:
            headers = error.headers
            response = problem(error.refused, request_id=request_id)
        except RefusedError as error:
            status = error.status if isinstance(error, BodyError) else None
            response = problem(error.refused, request_id=request_id, status=status)
        except Exception:
            log.exception("unexpected fault in a handler", path=request.url.path)
            response = problem(Refused(Reason.INTERNAL), request_id=request_id)
        response.headers.update(headers)
        return response

    async def _let_in(self, request: Request) -> dict[str, str]:
        """Know the caller, and count the request. Raises RefusedError.

        Credentials that are wrong are counted for their address, so that guessing is limited, too.
        """
        try:
            request.state.caller = await self._caller(request)
        except RefusedError as error:
            if error.refused.reason is Reason.UNAUTHENTICATED:
                await self._rate_limit.check(who(request))
            raise
        headers = await self._rate_limit.check(who(request))
        if not hasattr(request.state, "body"):
            await self._read_body(request)
        return headers

    async def _caller(self, request: Request) -> Caller | None:
        if KEY_HEADER not in request.headers:
            return self._identity.by_token(request.headers)
        query = request.url.query
        target = raw_path(request) + (f"?{query}" if query else "")
        signed = Signed(request.method, target, await self._read_body(request))
        return await self._identity.by_key(request.headers, _address(request), signed)

    async def _read_body(self, request: Request) -> bytes:
        """The body, which the handler finds in `request.state.body`. Raises BodyError."""
        largest, patience_s = self._settings.body_max_bytes, self._settings.body_timeout_s
        body = bytearray()
        try:
            async with asyncio.timeout(patience_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > largest:
                        raise BodyError(f"at most {largest} bytes", PAYLOAD_TOO_LARGE)
        except TimeoutError:
            raise BodyError(f"whole within {patience_s:g} s", REQUEST_TIMEOUT) from None
        request.state.body = whole = bytes(body)
        return whole

    def _log(self, request: Request, response: Response, seconds: float) -> None:
        caller: Caller | None = request.state.caller
        log.info(
            "request", method=request.method, path=request.url.path, status=response.status_code,
            ms=round(seconds * 1000, 1), user=caller.user_id if caller else "", address=_address(request),
        )  # fmt: skip


class BodyError(RefusedError):
    """A body that is too large, or does not come to its end."""

    def __init__(self, rule: str, status: int) -> None:
        super().__init__(Refused(Reason.BODY_MALFORMED, field="body", rule=rule))
        self.status = status


def raw_path(request: Request) -> str:
    """The path as it was sent, still percent-encoded, without the query."""
    path: bytes = request.scope["raw_path"]
    return path.decode("ascii").partition("?")[0]


def json_response(content: object, status: int = 200) -> Response:
    """A small JSON answer of our own."""
    return Response(json.dumps(content, separators=(",", ":")), status_code=status, media_type="application/json")


def who(request: Request) -> str:
    """Whose request this is: a user's, or an address's where nobody is named."""
    caller = request.state.caller
    return f"user/{caller.user_id}" if caller is not None else f"address/{holder_of(_address(request))}"


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
