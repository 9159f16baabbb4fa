"""The ASGI application: health, the pages, the API behind its chain, the WebSocket."""

import time

import prometheus_client
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from libs.addresses import holder_of
from libs.config import Edge
from libs.ids import new_id
from libs.lately import Lately
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import admit
from libs.rpc.server import REQUEST_ID
from libs.seats import HolderSeats
from libs.signing import KEY_HEADER
from libs.tracing import trace
from libs.version import VERSION
from services.edge.backends import GATEWAY, SERVICES, Backends, Origin
from services.edge.cache import Answers
from services.edge.feeds import Feeds
from services.edge.health import LATELY_S, Readiness
from services.edge.identity import SOCKET_TOKEN_LIFE_S, Identity, Signed
from services.edge.middleware import Chain, Handler, json_response, raw_path, who
from services.edge.pages import pages
from services.edge.problems import problem
from services.edge.routes import Match, Route, RouteTable
from services.edge.sockets import Socket
from services.edge.streaming import Streams
from services.edge.transcoding import request_from, response_json

VERBS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# What is not an RPC; who asks for it in another way is told how.
_HEALTH = ("/health", "/health/live", "/health/ready", "/ready", "/metrics", "/api/v1/status")
_TO_GET = (*_HEALTH, "/docs", "/openapi.json", "/asyncapi.json")
OWN_PATHS = {**{path: ["GET"] for path in _TO_GET}, "/api/v1/socket-tokens": ["POST"]}
EXPOSED_HEADERS = [REQUEST_ID, "retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]


class Api:
    """Calls the RPC that a request means."""

    def __init__(self, *, table: RouteTable, backends: Backends, streams: Streams) -> None:
        self._table = table
        self._backends = backends
        self._streams = streams
        self._answers = Answers()

    async def handle(self, request: Request) -> Response:
        """Find, check, translate, call, translate back. Raises RefusedError."""
        path = raw_path(request)
        match = self._table.find("GET" if request.method == "HEAD" else request.method, path)
        if match is None:
            return self._not_found(request, path)
        route = match.route
        request.state.route = route.template
        caller = admit(route.rule, request.state.caller)
        message = request_from(match, request.query_params.multi_items(), request.state.body)
        _use_idempotency_key(match, message, request.headers.get("idempotency-key", ""))
        if route.rule.names_user:
            message.user_id = caller.acting_for(message.user_id)  # type: ignore[attr-defined]  # the rule says it has it
        origin = origin_of(request)
        if route.method.server_streaming:
            call = self._backends.stream(route.method, message, origin)
            name = route.method.containing_service.name
            holder = "" if caller.is_service else who(request)
            return await self._streams.answer(
                call, caller=request.state.caller, holder=holder, dependency=name, body=route.response_body
            )

        async def ask() -> bytes:
            started_ns = time.time_ns()
            response = await self._backends.call(route.method, message, origin)
            if _tells_order(route):
                order_id = response.order.order_id  # type: ignore[attr-defined]  # its contract says it has it
                trace(f"edge {route.verb} {route.template}", order_id, started_ns, request_id=origin.request_id)
            return response_json(response, route.response_body)

        if route.rule.scope or route.verb != "GET":
            return Response(await ask(), media_type="application/json")
        question = f"{route.rpc_path} {message.SerializeToString(deterministic=True)!r}"
        return Response(await self._answers.get(question, ask), media_type="application/json")

    def _not_found(self, request: Request, path: str) -> Response:
        verbs = self._table.verbs(path) or OWN_PATHS.get(path, [])
        refused = Refused(Reason.ROUTE_NOT_FOUND, detail={"allowed": ", ".join(verbs)} if verbs else {})
        response = problem(refused, request_id=request.state.request_id, status=405 if verbs else 404)
        if verbs:
            response.headers["allow"] = ", ".join(verbs)
        return response


class _AnyMethod:
    """starlette answers methods that it does not know by itself, and not as a problem."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).close()  # before it is accepted: 403
            return
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


class Doors:
    """Lets sockets in: who they are, and how many."""

    def __init__(self, *, settings: Edge, identity: Identity, backends: Backends) -> None:
        self._settings = settings
        self._identity = identity
        self._backends = backends
        self._feeds = Feeds(backends)
        self._open = HolderSeats(settings.websockets_per_ip, of="connections from one address")

    async def websocket(self, socket: WebSocket) -> None:
        """Serve one socket. One that may not come in is answered with a problem instead of the upgrade."""
        address = socket.client.host if socket.client else "unknown"
        holder = holder_of(address)
        request_id = new_id()
        try:
            self._check_room()
            with self._open.one(holder):  # before anything is waited for
                origin = await self._origin(socket, address, request_id)
                await Socket(
                    socket,
                    feeds=self._feeds,
                    backends=self._backends,
                    identity=self._identity,
                    origin=origin,
                    heartbeat_s=self._settings.heartbeat_s,
                ).run()
        except RefusedError as error:
            await socket.send_denial_response(problem(error.refused, request_id=request_id))

    async def _origin(self, socket: WebSocket, address: str, request_id: str) -> Origin:
        token = socket.query_params.get("token", "")
        if token:
            return Origin(await self._identity.by_socket_token(token), "", request_id)
        if KEY_HEADER in socket.headers:
            signed = Signed("GET", socket.url.path, b"")
            return Origin(await self._identity.by_key(socket.headers, address, signed), "", request_id)
        return Origin(self._identity.by_token(socket.headers), socket.headers.get("authorization", ""), request_id)

    def _check_room(self) -> None:
        limit = self._settings.websockets_max
        if self._open.taken >= limit:
            raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=f"at most {limit} connections"))


def build_app(
    *, settings: Edge, chain: Chain, backends: Backends, identity: Identity, readiness: Readiness, streams: Streams
) -> Starlette:
    """The application; it opens nothing and owns nothing."""
    table = RouteTable(SERVICES)
    api = Api(table=table, backends=backends, streams=streams)
    doors = Doors(settings=settings, identity=identity, backends=backends)
    parts_lately, metrics_lately = Lately(readiness.check, for_s=LATELY_S), Lately(_metrics, for_s=LATELY_S)

    async def live(request: Request) -> Response:
        del request
        return json_response({"status": "alive"})

    async def ready(request: Request) -> Response:
        del request
        is_ready, parts = await parts_lately.see()
        content = {"status": "ready" if is_ready else "not ready", "parts": parts}
        return json_response(content, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        del request
        return Response(await metrics_lately.see(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        request.state.route = "/api/v1/status"
        is_ready, _ = await parts_lately.see()
        content = {"status": "ready" if is_ready else "degraded", "version": VERSION}
        return json_response({**content, "serverTimeMs": time.time_ns() // 1_000_000})

    async def socket_token(request: Request) -> Response:
        request.state.route = "/api/v1/socket-tokens"
        caller = request.state.caller
        if caller is None or caller.is_service:
            raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule="a user's credential"))
        token = await identity.new_socket_token(caller)
        return json_response({"token": token, "lifeSeconds": SOCKET_TOKEN_LIFE_S})

    rest = _AnyMethod(chain.around(api.handle))
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    app = Starlette(
        routes=[
            StarletteRoute("/health", ready),
            StarletteRoute("/health/live", live),
            StarletteRoute("/health/ready", ready),
            StarletteRoute("/ready", ready),
            StarletteRoute("/metrics", metrics),
            *pages(table),
            WebSocketRoute("/ws", doors.websocket),
            StarletteRoute("/api/v1/status", chain.around(status), methods=["GET"]),
            StarletteRoute("/api/v1/socket-tokens", chain.around(socket_token), methods=["POST"]),
            StarletteRoute("/{path:path}", rest),
        ],
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=VERBS,
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
                max_age=600,
            )
        ]
        if origins
        else [],
    )
    app.router.default = rest  # a path with a line break matches none of starlette's patterns
    return app


async def _metrics() -> bytes:
    return prometheus_client.generate_latest()


def _tells_order(route: Route) -> bool:
    return route.verb != "GET" and "order" in route.method.output_type.fields_by_name


def origin_of(request: Request) -> Origin:
    """Where a request's calls come from."""
    state = request.state
    return Origin(state.caller, request.headers.get("authorization", ""), state.request_id)


def _use_idempotency_key(match: Match, message: object, key: str) -> None:
    """`Idempotency-Key` is the client order id of a new order. Raises RefusedError where both are given and differ."""
    if not key or match.route.method.containing_service is not GATEWAY or not hasattr(message, "client_order_id"):
        return
    if message.client_order_id and message.client_order_id != key:
        rule = "the same as Idempotency-Key"
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="client_order_id", rule=rule))
    message.client_order_id = key
