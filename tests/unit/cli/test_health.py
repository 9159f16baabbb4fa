"""Who does not serve is told why, as far as that can be seen from outside."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.health import why_not_serving
from cli.processes import free_port
from libs.config import Settings, load_settings
from tests.support.certificates import Authority


class Unready(http.server.BaseHTTPRequestHandler):
    """An edge that waits for its gateway."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b'{"gateway":"away"}')

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Unready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def settings_with(port: int, **over: str) -> Settings:
    return load_settings({"TRADE_ENGINE_EDGE_PORT": str(port), "TRADE_ENGINE_WALLET_PORT": str(port), **over})


@pytest.mark.parametrize("name", ["edge", "wallet"])
def test_nobody_listens(name: str) -> None:
    assert "refused" in why_not_serving(settings_with(free_port()), name)


def test_the_edge_is_not_ready(port: int) -> None:
    assert why_not_serving(settings_with(port), "edge") == f'127.0.0.1:{port} says 503: {{"gateway":"away"}}'


def test_it_speaks_no_tls(port: int, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("service")
    over = {
        "TRADE_ENGINE_TLS_CERTIFICATE_FILE": str(certificate), "TRADE_ENGINE_TLS_KEY_FILE": str(key),
        "TRADE_ENGINE_TLS_CA_FILE": str(authority.file),
    }  # fmt: skip
    assert "SSL" in why_not_serving(settings_with(port, **over), "edge")
