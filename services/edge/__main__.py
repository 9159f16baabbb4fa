"""Wiring of the edge."""

import uvicorn

from libs.config import Settings
from libs.identity import TokenVerifier, service_credential
from libs.runtime import run_service
from services.edge.app import build_app
from services.edge.backends import Backends
from services.edge.health import Readiness
from services.edge.middleware import Chain, RateLimit

WEBSOCKET_MAX_BYTES = 16_384
WEBSOCKET_PING_S = 20.0


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.edge
    backends = Backends(settings, service_credential(settings.auth, service="edge"))
    chain = Chain(
        settings=mine,
        verifier=TokenVerifier(settings.auth),
        rate_limit=RateLimit(mine, settings.redis.url.get_secret_value()),
    )
    app = build_app(settings=mine, chain=chain, backends=backends, readiness=Readiness(settings, backends))
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=mine.host, port=mine.port, log_config=None, access_log=False, server_header=False, lifespan="off",
            ws_max_size=WEBSOCKET_MAX_BYTES, ws_ping_interval=WEBSOCKET_PING_S, limit_concurrency=2000,
            timeout_graceful_shutdown=int(mine.shutdown_grace_s),
        )
    )  # fmt: skip
    # uvicorn handles SIGTERM and SIGINT itself: it stops listening, ends sockets, and drains.
    await server.serve()
    await backends.close()


if __name__ == "__main__":
    run_service("edge", main, lambda settings: settings.edge.metrics_port)
