"""Wiring of the edge."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from libs.config import Settings
from libs.identity import TokenVerifier, api_key_master, service_credential
from libs.reload import on_reload
from libs.rpc.client import Peer
from libs.rpc.server import until_told_to_stop
from libs.runtime import run_service, serve_until_stopped
from services.edge.app import build_app
from services.edge.backends import Backends
from services.edge.health import Readiness
from services.edge.identity import Identity
from services.edge.middleware import Chain, RateLimit
from services.edge.protocol import GuardedProtocol
from services.edge.streaming import Streams

WEBSOCKET_MAX_BYTES = 16_384
WEBSOCKET_PING_S = 20.0


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    mine = settings.edge
    credential = service_credential(settings.auth, service="edge")
    backends = Backends(settings, credential)
    redis_url = settings.redis.url.get_secret_value()
    identity = Identity(
        verifier=TokenVerifier(settings.auth),
        backends=backends,
        peer=Peer(name="order_gateway", credential=credential, timeout_s=mine.timeout_s, patience_s=0),
        master=api_key_master(settings.auth),
        redis_url=redis_url,
    )
    rate_limit = RateLimit(mine, redis_url)
    on_reload("edge.rate_per_s", "edge.rate_burst", apply=lambda changed: rate_limit.change(changed.edge))
    chain = Chain(settings=mine, identity=identity, rate_limit=rate_limit)
    readiness = Readiness(settings, backends)
    streams = Streams(mine.streams_max, each=mine.streams_per_caller, identity=identity)
    app = build_app(
        settings=mine, chain=chain, backends=backends, identity=identity, readiness=readiness, streams=streams
    )
    GuardedProtocol.head_timeout_s = mine.head_timeout_s
    config = uvicorn.Config(
        app, host=mine.host, port=mine.port, http=GuardedProtocol, ws=WebSocketsSansIOProtocol, log_config=None,
        access_log=False, server_header=False, lifespan="off", ws_max_size=WEBSOCKET_MAX_BYTES,
        ws_ping_interval=WEBSOCKET_PING_S, limit_concurrency=2000, timeout_keep_alive=mine.keep_alive_s,
        timeout_graceful_shutdown=int(mine.shutdown_grace_s),
        proxy_headers=bool(mine.trusted_proxies), forwarded_allow_ips=mine.trusted_proxies or None,
        ssl_certfile=settings.tls.certificate_file, ssl_keyfile=settings.tls.key_file,
    )  # fmt: skip
    ports = [mine.port, *([mine.websocket_port] if mine.websocket_port else [])]
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listen(mine.host, port) for port in ports]))

    async def drained() -> None:
        await until_told_to_stop()
        streams.end()
        server.should_exit = True  # stop listening, end sockets, and drain
        await serving

    await serve_until_stopped(stop=drained())
    await identity.close()
    await backends.close()


class _Server(uvicorn.Server):
    """Signals are ours: uvicorn would raise them again when it has drained, and the process would end by one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn.Server."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError where somebody else has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.setblocking(False)
    return listening


if __name__ == "__main__":
    run_service("edge", main, lambda settings: settings.edge, needs=("database.dsn", "redis.url"))
