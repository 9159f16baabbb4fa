"""What happens to every request before its handler, outermost first: recovery, request id, body limit, rate limit."""

import json
import math
from collections.abc import Awaitable, Callable

import limits
import limits.aio
import structlog
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response

from libs.config import Edge
from libs.identity import Caller, TokenVerifier
from libs.ids import new_id
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import authenticate
from libs.rpc.server import REQUEST_ID
from services.edge.problems import problem

_REQUEST_ID_MAX_CHARS = 100
_UNLIMITED = ("/health", "/ready")
Handler = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()
REQUESTS = Counter("http_requests_total", "Answered requests", ["method", "status"])
LIMITS_AWAY = Counter("rate_limit_unavailable_total", "Requests let through because Redis was away")


class RateLimit:
    """Requests per second of a user, or of an address where nobody is named; shared by all edges through Redis.

    `rate_burst` requests may come in `rate_burst / rate_per_s` seconds. While Redis is away requests pass, and a metric
    counts them: limits protect from load, they do not guard money.
    """

    def __init__(self, settings: Edge, redis_url: str) -> None:
        storage = limits.aio.storage.RedisStorage(f"async+{redis_url}", implementation="redispy", key_prefix="edge")
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        window_s = max(1, math.ceil(settings.rate_burst / settings.rate_per_s))
        self._item = limits.RateLimitItemPerSecond(settings.rate_per_s * window_s, window_s)

    async def check(self, who: str) -> dict[str, str]:
        """Headers that tell where the caller stands. Raises RefusedError(RATE_LIMITED)."""
        try:
            admitted = await self._limiter.hit(self._item, who)
            stats = await self._limiter.get_window_stats(self._item, who)
        except Exception as error:  # noqa: BLE001 - whatever the storage raises, trading goes on
            LIMITS_AWAY.inc()
            log.warning("rate limits are not checked", error=f"{type(error).__name__}: {error}")
            return {}
        if not admitted:
            raise RefusedError(Refused(Reason.RATE_LIMITED, rule=f"{self._item}", detail={"retry_after_s": "1"}))
        return {"ratelimit-limit": str(self._item.amount), "ratelimit-remaining": str(stats.remaining)}


class Chain:
    """Wraps the handler of all API requests."""

    def __init__(self, *, settings: Edge, verifier: TokenVerifier, rate_limit: RateLimit) -> None:
        self._settings = settings
        self._verifier = verifier
        self._rate_limit = rate_limit

    def around(self, handler: Handler) -> Handler:
        """The handler, with everything around it."""

        async def call(request: Request) -> Response:
            request_id = request.headers.get(REQUEST_ID, "")[:_REQUEST_ID_MAX_CHARS]
            request_id = request_id if request_id.isascii() and request_id.isprintable() and request_id else new_id()
            request.state.request_id = request_id
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                response = await self._guarded(handler, request, request_id)
            response.headers[REQUEST_ID] = request_id
            response.headers["x-content-type-options"] = "nosniff"
            response.headers["cache-control"] = "no-store"
            REQUESTS.labels(request.method, str(response.status_code)).inc()
            return response

        return call

    async def _guarded(self, handler: Handler, request: Request, request_id: str) -> Response:
        headers: dict[str, str] = {}
        try:
            request.state.caller = caller = authenticate(self._verifier, request.headers.get("authorization", ""))
            headers = await self._rate_limit.check(_who(request, caller))
            response = await handler(request)
        except RefusedError as error:
            response = problem(error.refused, request_id=request_id)
        except Exception:
            log.exception("unexpected fault in a handler", path=request.url.path)
            response = problem(Refused(Reason.INTERNAL), request_id=request_id)
        for name, value in headers.items():
            response.headers[name] = value
        return response


async def read_body(request: Request, largest: int) -> bytes:
    """The body, if it is not larger than allowed. Raises RefusedError(BODY_MALFORMED)."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > largest:
            raise RefusedError(Refused(Reason.BODY_MALFORMED, field="body", rule=f"at most {largest} bytes"))
    return bytes(body)


def json_response(content: object, status: int = 200) -> Response:
    """A small JSON answer of our own."""
    return Response(json.dumps(content, separators=(",", ":")), status_code=status, media_type="application/json")


def _who(request: Request, caller: Caller | None) -> str:
    if caller is not None:
        return f"user/{caller.user_id}"
    return f"address/{request.client.host if request.client else 'unknown'}"
