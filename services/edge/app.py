"""The ASGI application: health, the API behind its chain, the WebSocket."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from libs.config import Edge
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import admit
from services.edge.backends import GATEWAY, SERVICES, Backends
from services.edge.feeds import Feeds
from services.edge.health import Readiness
from services.edge.middleware import Chain, json_response, read_body
from services.edge.problems import problem
from services.edge.routes import Match, RouteTable
from services.edge.sockets import MarketSocket
from services.edge.transcoding import request_from, response_json

_POLICY_VIOLATION = 1008


class Api:
    """Calls the RPC that a request means."""

    def __init__(self, *, settings: Edge, backends: Backends) -> None:
        self._table = RouteTable(SERVICES)
        self._backends = backends
        self._settings = settings

    async def handle(self, request: Request) -> Response:
        """Find, check, translate, call, translate back. Raises RefusedError."""
        raw_path = request.scope["raw_path"].decode("ascii").partition("?")[0]
        match = self._table.find(request.method, raw_path)
        if match is None:
            return self._not_found(request, raw_path)
        caller = admit(match.route.rule, request.state.caller)
        body = await read_body(request, self._settings.body_max_bytes)
        message = request_from(match, request.query_params.multi_items(), body)
        _use_idempotency_key(match, message, request.headers.get("idempotency-key", ""))
        if match.route.rule.names_user:
            message.user_id = caller.acting_for(message.user_id)  # type: ignore[attr-defined]  # the rule says it has it
        response = await self._backends.call(
            match.route.method,
            message,
            authorization=request.headers.get("authorization", ""),
            request_id=request.state.request_id,
        )
        return Response(response_json(response), media_type="application/json")

    def _not_found(self, request: Request, raw_path: str) -> Response:
        verbs = self._table.verbs(raw_path)
        refused = Refused(Reason.ROUTE_NOT_FOUND, detail={"allowed": ", ".join(verbs)} if verbs else {})
        response = problem(refused, request_id=request.state.request_id, status=405 if verbs else 404)
        if verbs:
            response.headers["allow"] = ", ".join(verbs)
        return response


def build_app(*, settings: Edge, chain: Chain, backends: Backends, readiness: Readiness) -> Starlette:
    """The application; it opens nothing and owns nothing."""
    api = Api(settings=settings, backends=backends)
    feeds = Feeds(backends)
    open_sockets: set[WebSocket] = set()

    async def live(request: Request) -> Response:
        del request
        return json_response({"status": "alive"})

    async def ready(request: Request) -> Response:
        del request
        is_ready, parts = await readiness.check()
        content = {"status": "ready" if is_ready else "not ready", "parts": parts}
        return json_response(content, 200 if is_ready else 503)

    async def websocket(socket: WebSocket) -> None:
        if len(open_sockets) >= settings.websockets_max:
            await socket.close(_POLICY_VIOLATION, f"at most {settings.websockets_max} connections")
            return
        open_sockets.add(socket)
        try:
            await MarketSocket(socket, feeds).run()
        finally:
            open_sockets.discard(socket)

    verbs = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            StarletteRoute("/health", ready),
            StarletteRoute("/health/live", live),
            StarletteRoute("/health/ready", ready),
            StarletteRoute("/ready", ready),
            WebSocketRoute("/ws", websocket),
            StarletteRoute("/{path:path}", chain.around(api.handle), methods=verbs),
        ]
    )


def _use_idempotency_key(match: Match, message: object, key: str) -> None:
    """`Idempotency-Key` is the client order id of a new order. Raises RefusedError where both are given and differ."""
    if not key or match.route.method.containing_service is not GATEWAY or not hasattr(message, "client_order_id"):
        return
    if message.client_order_id and message.client_order_id != key:
        rule = "the same as Idempotency-Key"
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="client_order_id", rule=rule))
    message.client_order_id = key
