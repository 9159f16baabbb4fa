"""What people try at a public door: each is refused with the right status, and nothing has changed."""

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest
import websockets

from cli.processes import free_port
from libs.ids import new_id
from tests.support.engine import Engine
from tests.support.trading import until

ROOT = Path(__file__).resolve().parents[2]
ORDER = {
    "symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT", "price": "100", "quantity": "1",
    "clientOrderId": "attack",
}  # fmt: skip


def forged(engine: Engine, user: str, **other) -> str:
    auth = engine.settings.auth
    now = int(time.time())
    claims = {"sub": user, "scope": "read trade", "iss": auth.issuer, "aud": auth.audience, "iat": now, "nbf": now - 5,
              "exp": now + 60, **other.pop("claims", {})}  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    key = other.pop("key", auth.hs256_secret.get_secret_value())
    return jwt.encode(claims, key, algorithm=other.pop("algorithm", "HS256"))


def unsigned(user: str) -> str:
    def part(content: dict) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    claims = {"sub": user, "scope": "read trade service", "iss": "trade-engine", "aud": "trade-engine", "exp": 2**33}
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


TOKENS = [
    ("alg none", lambda _, user: unsigned(user)),
    ("another key", lambda engine, user: forged(engine, user, key="x" * 40)),
    ("another algorithm", lambda engine, user: forged(engine, user, algorithm="HS512")),
    ("wrong audience", lambda engine, user: forged(engine, user, claims={"aud": "elsewhere"})),
    ("wrong issuer", lambda engine, user: forged(engine, user, claims={"iss": "elsewhere"})),
    ("expired", lambda engine, user: forged(engine, user, claims={"exp": int(time.time()) - 60})),
    ("not yet valid", lambda engine, user: forged(engine, user, claims={"nbf": int(time.time()) + 3600})),
    ("no expiry", lambda engine, user: forged(engine, user, claims={"exp": None})),
    ("no subject", lambda engine, user: forged(engine, user, claims={"sub": None})),
    ("a subject that is no user", lambda engine, user: forged(engine, user, claims={"sub": "root"})),
    ("not a token", lambda *_: "nonsense"),
    ("an endless one", lambda *_: "a." * 20_000),
]


@pytest.mark.parametrize("make", [row[1] for row in TOKENS], ids=[row[0] for row in TOKENS])
async def test_forged_tokens(engine: Engine, http: httpx.AsyncClient, make) -> None:
    user = await engine.user(USDT="1000")
    answer = await http.post("/api/v1/orders", json=ORDER, headers={"authorization": f"Bearer {make(engine, user)}"})
    assert (answer.status_code, answer.json()["reason"]) == (401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert await engine.balances(user) == {"USDT": ("1000", "0")}


PATHS = [
    "/api/v1/orders/../../../etc/passwd",
    "/api/v1/orders/..%2f..%2fetc%2fpasswd",
    "/docs/files/../../../../etc/passwd",
    "/docs/files/..%2f..%2f..%2fetc%2fpasswd",
    "/docs/files/%2e%2e/%2e%2e/__init__.py",
    "/api/v1/books/%00",
    "/api/v1/books/%ff%fe",
    "/api/v1/books/" + "A" * 5000,
    "/api/v1/orders/%F0%9F%92%A9",
    "//evil.example/api/v1/orders",
    "/api/v1/orders/٠١٢",
]


@pytest.mark.parametrize("path", PATHS)
async def test_strange_paths(engine: Engine, path: str) -> None:
    token = engine.token(await engine.user(USDT="1"))
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.settings.edge.port)
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    status = int(answer.split()[1])
    assert status in {400, 404}, answer[:200]
    assert b"root:" not in answer
    assert b"swagger_ui" not in answer


_KEYS = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
HANDSHAKES = [
    ("of a post", f"POST /ws HTTP/1.1\r\n{_KEYS}", "", 405),
    ("of a post with a body", f"POST /ws HTTP/1.1\r\n{_KEYS}Content-Length: 2\r\n", "{}", 400),
    ("with a body", f"GET /ws HTTP/1.1\r\n{_KEYS}Content-Length: 2\r\n", "{}", 400),
    (
        "with a body in chunks",
        f"GET /ws HTTP/1.1\r\n{_KEYS}Transfer-Encoding: chunked\r\n",
        "2\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    ("without a key", "GET /ws HTTP/1.1\r\n", "", 400),
    ("where there is no socket", f"GET /api/v1/status HTTP/1.1\r\n{_KEYS}", "", 403),
]


@pytest.mark.parametrize(
    ("head", "body", "status"), [row[1:] for row in HANDSHAKES], ids=[row[0] for row in HANDSHAKES]
)
async def test_strange_handshakes(engine: Engine, head: str, body: str, status: int) -> None:
    """Each is answered, and its connection ends: a few thousand that are waited for would be all it takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.settings.edge.port)
    writer.write(f"{head}Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n{body}".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert int(answer.split()[1]) == status, answer[:200]


BODIES = [
    ("a key twice", b'{"symbol":"BTC/USDT","symbol":"ETH/USDT"}', 400),
    ("a key twice, deep inside", b'{"orders":[{"price":"1","price":"2"}]}', 400),
    ("a huge number", b'{"type":' + b"9" * 5000 + b"}", 400),
    ("a number with an endless exponent", b'{"quantity":1e999999}', 400),
    ("a price that is a number", b'{"price":100}', 400),
    ("a price in other digits", json.dumps({**ORDER, "price": "\u0661\u0660\u0660"}).encode(), 400),
    ("a price with a full stop that looks like one", json.dumps({**ORDER, "price": "100\u06d40"}).encode(), 400),
    ("a key with a hidden character", json.dumps({**ORDER, "clientOrderId": "a\u200bb"}).encode(), 400),
    ("a key that reads backwards", json.dumps({**ORDER, "clientOrderId": "\u202eevil"}).encode(), 400),
    ("half a surrogate pair", b'{"clientOrderId":"\\ud800"}', 400),
    ("deep nesting", b"[" * 100_000, 400),
    ("another encoding", json.dumps(ORDER).encode("utf-16"), 400),
    ("a form", b"symbol=BTC/USDT&side=1", 400),
    ("a body without end", b'{"symbol":"' + b"A" * 2_000_000 + b'"}', 413),
]


@pytest.mark.parametrize(("body", "status"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
async def test_strange_bodies(engine: Engine, http: httpx.AsyncClient, body: bytes, status: int) -> None:
    user = await engine.user(USDT="1000")
    headers = {"authorization": f"Bearer {engine.token(user)}", "content-type": "application/json"}
    answer = await http.post("/api/v1/orders", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await engine.balances(user) == {"USDT": ("1000", "0")}
    listed = await http.get("/api/v1/orders", headers=headers)
    assert listed.json()["orders"] == []


async def test_somebody_elses_order_is_not_there(engine: Engine, http: httpx.AsyncClient) -> None:
    owner = await engine.user(USDT="1000")
    order = (await engine.place(owner, "BUY 1 @ 100")).order
    headers = engine.bearer(new_id())
    path = f"/api/v1/orders/{order.order_id}"
    for answer in (
        await http.get(path, headers=headers),
        await http.delete(path, headers=headers),
        await http.patch(path, json={"price": "1"}, headers=headers),
        await http.post(f"{path}:reduce", json={"quantity": "0.5"}, headers=headers),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (404, "ORDER_NOT_FOUND")
    assert await engine.balances(owner) == {"USDT": ("900", "100")}


STRICT = {
    "TRADE_ENGINE_EDGE_WEBSOCKET_PORT": "0", "TRADE_ENGINE_EDGE_METRICS_PORT": "0",
    "TRADE_ENGINE_EDGE_KEEP_ALIVE_S": "1",
    "TRADE_ENGINE_EDGE_HEAD_TIMEOUT_S": "0.5", "TRADE_ENGINE_EDGE_BODY_TIMEOUT_S": "0.5",
    "TRADE_ENGINE_EDGE_TRUSTED_PROXIES": "127.0.0.1", "TRADE_ENGINE_EDGE_CORS_ORIGINS": "https://app.example",
    "TRADE_ENGINE_EDGE_RATE_PER_S": "2", "TRADE_ENGINE_EDGE_RATE_BURST": "4", "TRADE_ENGINE_EDGE_WEBSOCKETS_PER_IP": "1",
}  # fmt: skip


@contextlib.asynccontextmanager
async def another_edge(engine: Engine, folder: Path, *, files_max: int = 1024) -> AsyncIterator[str]:
    """An edge of the same engine with little patience and tight limits; who comes through it is behind a proxy.

    `files_max` is the soft limit of open files that it is started with (`ulimit -S -n`).
    """
    port = free_port()
    log = (folder / f"edge-{port}.log").open("wb")
    environment = {**os.environ, **engine.stack.environment, **STRICT, "TRADE_ENGINE_EDGE_PORT": str(port)}
    process = subprocess.Popen(  # noqa: ASYNC220 - it runs beside
        ["bash", "-c", f"ulimit -S -n {files_max}; exec {sys.executable} -m services.edge"],
        cwd=ROOT, env=environment, stdout=log, stderr=log,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{url}/health/live")).status_code == 200
        except httpx.TransportError:
            return False

    try:
        await until(answers)
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0
        log.close()


@pytest.fixture
async def strict_edge(engine: Engine, tmp_path: Path) -> AsyncIterator[str]:
    async with another_edge(engine, tmp_path) as url:
        yield url


async def test_requests_that_trickle_in_are_ended(engine: Engine, strict_edge: str) -> None:
    port = int(strict_edge.rsplit(":", 1)[1])
    token = engine.token(new_id())
    whole_head = (
        f"POST /api/v1/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100\r\n"
        "x-forwarded-for: 198.51.100.9\r\n\r\n"
    ).encode()
    for sent, said in (
        (b"", b"HTTP/1.1 408"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nx-", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\n" + b"x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 3000, b"HTTP/1.1 431"),
        (whole_head + b'{"symbol', b"HTTP/1.1 408"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"HTTP/1.1 400"),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(4096), 10)
        assert answer.startswith(said), (sent[:40], answer[:100])
        writer.close()


async def test_an_idle_connection_stays_as_long_as_it_is_said_to(engine: Engine, strict_edge: str) -> None:
    """A proxy that keeps one for longer than the edge sends a request into what is just being closed: 502, now and then."""

    async def idle_until_closed(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        idle.append(port)
        await reader.read()
        writer.close()

    idle: list[int] = []
    strict_port = int(strict_edge.rsplit(":", 1)[1])
    long = asyncio.create_task(idle_until_closed(engine.settings.edge.port))
    await until(lambda: asyncio.sleep(0, len(idle) == 1))
    short = asyncio.create_task(idle_until_closed(strict_port))
    closed, _ = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
    assert closed == {short}
    await long


async def test_as_many_may_come_as_the_system_lets_there_be_files(engine: Engine, tmp_path: Path) -> None:
    """Shells and init systems begin with 1,024, a Mac with 256: any process may ask for more, up to the hard limit."""
    async with another_edge(engine, tmp_path, files_max=100) as url:
        port = int(url.rsplit(":", 1)[1])
        opened = []
        for _ in range(200):
            opened.append(await asyncio.open_connection("127.0.0.1", port))
            opened[-1][1].write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        for reader, _ in opened:
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).startswith(b"HTTP/1.1 200")
        for _, writer in opened:
            writer.close()


async def test_addresses_are_those_behind_the_proxy(strict_edge: str) -> None:
    async with httpx.AsyncClient(base_url=strict_edge) as http:
        for address in ("203.0.113.1", "203.0.113.2"):
            headers = {"x-forwarded-for": f"{address}, 127.0.0.1"}
            answers = await asyncio.gather(*(http.get("/api/v1/symbols", headers=headers) for _ in range(12)))
            statuses = [answer.status_code for answer in answers]
            assert statuses.count(200) >= 4
            assert statuses.count(429) >= 1
            refused = next(answer for answer in answers if answer.status_code == 429)
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["ratelimit-limit"] == "4"
            assert int(refused.headers["ratelimit-reset"]) >= 0
        headers = {"authorization": "Bearer x", "x-forwarded-for": "203.0.113.3"}
        guesses = await asyncio.gather(*(http.get("/api/v1/orders", headers=headers) for _ in range(12)))
        assert {answer.status_code for answer in guesses} == {401, 429}, "guessing is limited, too"


async def test_sockets_that_come_together_are_counted_together(engine: Engine, strict_edge: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{engine.settings.edge.port}") as http:
        headers = engine.bearer(new_id())
        made = await asyncio.gather(*(http.post("/api/v1/socket-tokens", headers=headers) for _ in range(20)))
    url = strict_edge.replace("http", "ws")
    async with contextlib.AsyncExitStack() as leaving:

        async def is_let_in(token: str) -> bool:
            try:
                socket = await websockets.connect(f"{url}/ws?token={token}")
            except websockets.InvalidStatus as error:
                assert error.response.status_code == 429  # noqa: PT017 - any other refusal is wrong
                return False
            leaving.push_async_callback(socket.close)
            return True

        let_in = await asyncio.gather(*(is_let_in(answer.json()["token"]) for answer in made))
    assert sum(let_in) == 1


async def test_two_edges_count_together(engine: Engine, tmp_path: Path, strict_edge: str) -> None:
    async with another_edge(engine, tmp_path) as other_edge, httpx.AsyncClient() as http:
        headers = engine.bearer(new_id())
        edges = (strict_edge, other_edge) * 8
        answers = await asyncio.gather(*(http.get(f"{edge}/api/v1/symbols", headers=headers) for edge in edges))
        statuses = [answer.status_code for answer in answers]
        assert 4 <= statuses.count(200) < 8, "four at once over both, and what two a second gave back meanwhile"
        await asyncio.sleep(4.5)
        assert (await http.get(f"{other_edge}/api/v1/symbols", headers=headers)).status_code == 200


async def test_pages_of_other_origins_may_call_only_where_they_are_named(engine: Engine, strict_edge: str) -> None:
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with httpx.AsyncClient() as http:
        mine = await http.options(
            f"{strict_edge}/api/v1/orders", headers={**preflight, "origin": "https://app.example"}
        )
        assert mine.headers["access-control-allow-origin"] == "https://app.example"
        theirs = await http.options(
            f"{strict_edge}/api/v1/orders", headers={**preflight, "origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in theirs.headers
        off = await http.get(f"{engine.rest}/api/v1/symbols", headers={"origin": "https://app.example"})
        assert "access-control-allow-origin" not in off.headers
        for name in ("x-content-type-options", "x-frame-options", "content-security-policy", "referrer-policy"):
            assert off.headers[name]


async def test_a_proxy_that_nobody_trusts_is_not_believed(engine: Engine) -> None:
    """Else anybody could choose the address that is limited."""
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        left = [
            int(
                (await http.get("/api/v1/symbols", headers={"x-forwarded-for": f"203.0.113.{n}"})).headers[
                    "ratelimit-remaining"
                ]
            )
            for n in (50, 51)
        ]
    limit = engine.settings.edge.rate_burst
    assert max(left) < limit
    assert left[1] < left[0] or left[1] == 0


async def test_asking_for_health_or_metrics_often_costs_what_asking_once_a_second_does(
    engine: Engine, http: httpx.AsyncClient
) -> None:
    opened_by_edge = "SELECT count(*) AS connections FROM pg_stat_activity WHERE datname = current_database()"
    before = (await engine.query(opened_by_edge))[0]["connections"]
    looks = set()
    for path in ("/health/ready", "/health", "/ready"):
        answers = await asyncio.gather(*(http.get(path) for _ in range(60)))
        assert {answer.status_code for answer in answers} == {200}
        looks |= {answer.text for answer in answers}  # every look has latencies of its own
        assert (await engine.query(opened_by_edge))[0]["connections"] < before + 20
    assert len(looks) < 30
    metrics = await asyncio.gather(*(http.get("/metrics") for _ in range(60)))
    assert all("http_requests_total" in answer.text for answer in metrics)
    assert len({answer.text for answer in metrics}) < 10
