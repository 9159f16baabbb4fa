"""What happens to every request before its handler, outermost first: recovery, request id, body limit, rate limit."""

import json
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response

from libs.config import Edge
from libs.identity import Caller, TokenVerifier
from libs.ids import new_id
from libs.limiter import SharedLimit
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import authenticate
from libs.rpc.server import REQUEST_ID
from services.edge.problems import problem

_REQUEST_ID_MAX_CHARS = 100
_UNLIMITED = ("/health", "/ready")
Handler = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()
REQUESTS = Counter("http_requests_total", "Answered requests", ["method", "status"])


class RateLimit:
    """Requests per second of a user, or of an address where nobody is named; shared by all edges."""

    def __init__(self, settings: Edge, redis_url: str) -> None:
        self._limit = SharedLimit("edge", per_s=settings.rate_per_s, burst=settings.rate_burst, redis_url=redis_url)

    async def check(self, who: str) -> dict[str, str]:
        """Headers that tell where the caller stands. Raises RefusedError(RATE_LIMITED)."""
        admitted, remaining = await self._limit.hit(who)
        if not admitted:
            raise RefusedError(Refused(Reason.RATE_LIMITED, rule=f"{self._limit.item}", detail={"retry_after_s": "1"}))
        return {"ratelimit-limit": str(self._limit.item.amount), "ratelimit-remaining": str(remaining)}


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
