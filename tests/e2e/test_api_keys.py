"""Keys that bots sign with: made, used, limited, revoked; and every way to misuse one."""

import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
import websockets
from exchange.gateway.v1 import order_gateway_pb2

from libs.ids import new_id
from tests.support.bots import Bot
from tests.support.engine import Engine
from tests.support.trading import until

ROOT = Path(__file__).resolve().parents[2]
ORDER = {
    "symbol": "BTC/USDT", "side": "SIDE_BUY", "type": "ORDER_TYPE_LIMIT", "price": "100", "quantity": "1",
}  # fmt: skip


async def create(engine: Engine, user: str, **wanted) -> httpx.Response:
    content = {"name": "bot", "scopes": ["SCOPE_READ", "SCOPE_TRADE"], **wanted}
    async with httpx.AsyncClient(base_url=engine.rest, timeout=20) as http:
        headers = engine.bearer(user)
        return await http.post("/api/v1/api-keys", json=content, headers=headers)


async def bot_of(engine: Engine, user: str, **wanted) -> Bot:
    made = await create(engine, user, **wanted)
    assert made.status_code == 200, made.text
    return Bot(engine.rest, made.json()["key"]["keyId"], made.json()["secret"])


def order(client_order_id: str = "") -> bytes:
    return json.dumps({**ORDER, "clientOrderId": client_order_id or new_id()}).encode()


async def test_a_key_trades_for_its_owner_and_nobody_else(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    bot = await bot_of(engine, user)
    placed = await bot.call("POST", "/api/v1/orders", order("by-key"))
    assert placed.status_code == 200, placed.text
    assert placed.json()["order"]["userId"] == user
    listed = await bot.call("GET", "/api/v1/orders?open_only=true&page_size=5")
    assert [item["clientOrderId"] for item in listed.json()["orders"]] == ["by-key"]
    balances = await bot.call("GET", "/api/v1/wallets/balances")
    assert balances.json()["balances"][0]["reserved"] == "100"
    other = await bot.call("GET", f"/api/v1/orders?user_id={new_id()}")
    assert (other.status_code, other.json()["reason"]) == (403, "OTHER_USER")
    assert (await bot.call("GET", "/api/v1/orders?page_size=7")).headers["ratelimit-limit"]


async def test_a_key_is_made_once_whatever_is_repeated(engine: Engine) -> None:
    user = new_id()
    first, again = await create(engine, user), await create(engine, user)
    assert first.json() == again.json()
    other = await create(engine, user, scopes=["SCOPE_READ"])
    assert (other.status_code, other.json()["reason"], other.json()["field"]) == (409, "KEY_REUSED", "scopes")


async def test_a_key_can_do_no_more_than_its_scopes_and_never_change_keys(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    reader = await bot_of(engine, user, scopes=["SCOPE_READ"])
    refused = await reader.call("POST", "/api/v1/orders", order())
    assert (refused.status_code, refused.json()["reason"]) == (403, "SCOPE_MISSING")
    trader = await bot_of(engine, user, name="trader")
    content = json.dumps({"name": "child", "scopes": ["SCOPE_READ"]}).encode()
    for method, target, body in (
        ("POST", "/api/v1/api-keys", content),
        ("DELETE", f"/api/v1/api-keys/{reader.key_id}", b""),
    ):
        answer = await trader.call(method, target, body)
        assert (answer.status_code, answer.json()["reason"]) == (403, "SCOPE_MISSING")
    assert (await trader.call("GET", "/api/v1/api-keys")).status_code == 200
    service = await trader.call("POST", "/api/v1/wallets/reserve", b"{}")
    assert (service.status_code, service.json()["reason"]) == (403, "SCOPE_MISSING")


async def test_a_user_cannot_give_a_key_what_it_does_not_have(engine: Engine) -> None:
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        headers = engine.bearer(new_id(), "read")
        content = {"name": "bot", "scopes": ["SCOPE_TRADE"]}
        answer = await http.post("/api/v1/api-keys", json=content, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (403, "SCOPE_MISSING")


@pytest.mark.parametrize(
    ("wanted", "status", "field"),
    [
        ({"name": ""}, 400, "name"),
        ({"name": "a" * 101}, 400, "name"),
        ({"scopes": []}, 400, "scopes"),
        ({"scopes": ["SCOPE_ADMIN"]}, 400, "scopes"),
        ({"scopes": ["SCOPE_SERVICE"]}, 400, "scopes"),
        ({"allowedIps": ["10.0.0.0/8", "not an address"]}, 400, "allowed_ips[1]"),
        ({"allowedIps": ["10.0.0.1/8"]}, 400, "allowed_ips[0]"),
        ({"allowedIps": ["10.0.0.1"] * 21}, 400, "allowed_ips"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, 400, "expires_at"),
    ],
)
async def test_bad_keys_are_refused(engine: Engine, wanted: dict, status: int, field: str) -> None:
    user = new_id()
    answer = await create(engine, user, **wanted)
    assert (answer.status_code, answer.json()["field"]) == (status, field)
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        listed = await http.get("/api/v1/api-keys", headers=engine.bearer(user))
    assert listed.json()["keys"] == []


async def test_revoked_expired_and_foreign_keys_end(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    bot = await bot_of(engine, user)
    assert (await bot.call("GET", "/api/v1/orders")).status_code == 200
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        stranger = engine.bearer(new_id())
        theirs = await http.delete(f"/api/v1/api-keys/{bot.key_id}", headers=stranger)
        assert (theirs.status_code, theirs.json()["reason"]) == (404, "API_KEY_NOT_FOUND")
        owner = engine.bearer(user)
        gone = [(await http.delete(f"/api/v1/api-keys/{bot.key_id}", headers=owner)).json() for _ in range(2)]
        assert gone[0] == gone[1]
        assert gone[0]["key"]["revokedAt"]

    async def is_refused() -> bool:
        answer = await bot.call("GET", "/api/v1/orders")
        return answer.status_code == 401 and "revoked" in answer.json()["rule"]

    await until(is_refused)
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    short = await bot_of(engine, user, name="short", expiresAt=soon)

    async def is_over() -> bool:
        answer = await short.call("GET", "/api/v1/orders")
        return answer.status_code == 401 and "expired" in answer.json()["rule"]

    await until(is_over)
    elsewhere = await bot_of(engine, user, name="elsewhere", allowedIps=["192.0.2.0/24"])
    answer = await elsewhere.call("GET", "/api/v1/orders")
    assert (answer.status_code, answer.json()["rule"]) == (401, "X-Api-Key: not from 127.0.0.1")


def milliseconds(seconds: float) -> str:
    return str(int((time.time() + seconds) * 1000))


FORGED = [
    ("another secret", {"secret": "x" * 43}),
    ("no signature", {"signature": ""}),
    ("a signature that is not ASCII", {"signature": "é".encode().decode("latin-1")}),
    ("somebody else's key", {"key": new_id()}),
    ("a key that is none", {"key": "1"}),
    ("a short nonce", {"nonce": "1"}),
    ("no nonce", {"nonce": ""}),
    ("a timestamp in words", {"timestamp": "now"}),
    ("a timestamp of other digits", {"timestamp": "١٢٣"}),
    ("a timestamp without end", {"timestamp": "9" * 400}),
]


@pytest.mark.parametrize("wrong", [row[1] for row in FORGED], ids=[row[0] for row in FORGED])
async def test_forged_requests_are_refused_and_change_nothing(engine: Engine, wrong: dict[str, str]) -> None:
    user = await engine.user(USDT="1000")
    bot = await bot_of(engine, user)
    headers = bot.headers("POST", "/api/v1/orders", order("forged"), **wrong)
    raw = {name: value.encode("utf-8") for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        answer = await http.post("/api/v1/orders", content=order("forged"), headers=raw)
    assert answer.status_code in {400, 401}, answer.text
    assert answer.json()["reason"] in {"UNAUTHENTICATED", "ID_MALFORMED", "FIELD_REQUIRED", "TEXT_MALFORMED"}
    assert await engine.balances(user) == {"USDT": ("1000", "0")}


async def test_a_request_that_was_heard_cannot_be_used(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    bot = await bot_of(engine, user)
    body = order("once")
    headers = bot.headers("POST", "/api/v1/orders", body)
    async with httpx.AsyncClient(base_url=engine.rest, timeout=20) as http:
        assert (await http.post("/api/v1/orders", content=body, headers=headers)).status_code == 200
        replayed = await http.post("/api/v1/orders", content=body, headers=headers)
        assert (replayed.status_code, replayed.json()["rule"]) == (401, "X-Api-Nonce: used before")
        other_body = order("other")
        headers = bot.headers("POST", "/api/v1/orders", body)
        tampered = await http.post("/api/v1/orders", content=other_body, headers=headers)
        other_path = await http.post("/api/v1/orders:batch", content=body, headers=headers)
        other_method = await http.patch("/api/v1/orders", content=body, headers=headers)
        other_query = await http.post("/api/v1/orders?x=1", content=body, headers=headers)
        for answer in (tampered, other_path, other_method, other_query):
            assert answer.status_code == 401
            assert "X-Api-Signature" in answer.json()["rule"]
        for seconds in (-6, 6):
            headers = bot.headers("POST", "/api/v1/orders", body, timestamp=milliseconds(seconds))
            stale = await http.post("/api/v1/orders", content=body, headers=headers)
            assert (stale.status_code, stale.json()["reason"]) == (401, "UNAUTHENTICATED")
        both = {**bot.headers("POST", "/api/v1/orders", body), "authorization": f"Bearer {engine.token(user)}"}
        assert (await http.post("/api/v1/orders", content=body, headers=both)).status_code == 401
    assert await engine.balances(user) == {"USDT": ("900", "100")}


async def test_only_a_service_can_act_for_a_user_and_only_as_a_user(engine: Engine) -> None:
    user, victim = await engine.user(USDT="10"), await engine.user(USDT="10")
    acting = (("x-act-as-user", victim), ("x-act-as-scopes", "read trade service admin"))
    request = order_gateway_pb2.ListOrdersRequest()
    with pytest.raises(grpc.aio.AioRpcError, match="OTHER_USER"):
        await engine.gateway.ListOrders(request, metadata=(*engine.as_caller(user), *acting))
    with pytest.raises(grpc.aio.AioRpcError, match="OTHER_USER"):
        await engine.gateway.ListOrders(request, metadata=acting)
    assert not (await engine.gateway.ListOrders(request, metadata=(*engine.service, *acting))).orders
    other = order_gateway_pb2.ListOrdersRequest(user_id=user)
    with pytest.raises(grpc.aio.AioRpcError, match="OTHER_USER"):  # "service" is not among what it may have
        await engine.gateway.ListOrders(other, metadata=(*engine.service, *acting))


async def test_a_socket_opens_with_a_key_or_a_token_that_works_once(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    bot = await bot_of(engine, user)
    url = f"{engine.rest.replace('http', 'ws')}/ws"
    async with websockets.connect(url, additional_headers=bot.headers("GET", "/ws")) as socket:
        await socket.send('{"op":"subscribe","channel":"balances"}')
        assert json.loads(await socket.recv())["balances"][0]["available"] == "1000"
    token = (await bot.call("POST", "/api/v1/socket-tokens")).json()["token"]
    async with websockets.connect(f"{url}?token={token}") as socket:
        await socket.send('{"op":"subscribe","channel":"balances"}')
        assert json.loads(await socket.recv())["balances"][0]["available"] == "1000"
    for bad in (token, "nonsense"):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(f"{url}?token={bad}")
        assert refused.value.response.status_code == 401


async def all_of(socket: websockets.ClientConnection) -> None:
    async with asyncio.timeout(30):
        while True:
            await socket.recv()


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_what_a_key_has_opened_ends_with_it(engine: Engine, end: str) -> None:
    user = await engine.user(USDT="1000")
    soon = datetime.now(UTC) + timedelta(seconds=4)
    bot = await bot_of(engine, user, **({"expiresAt": soon.isoformat()} if end == "expired" else {}))
    url = f"{engine.rest.replace('http', 'ws')}/ws"
    token = (await bot.call("POST", "/api/v1/socket-tokens")).json()["token"]
    path = "/api/v1/wallets/balances:stream"
    async with (
        websockets.connect(url, additional_headers=bot.headers("GET", "/ws")) as by_key,
        websockets.connect(f"{url}?token={token}") as by_token,
        httpx.AsyncClient(base_url=engine.rest, timeout=30) as http,
        http.stream("GET", path, headers=bot.headers("GET", path)) as answer,
    ):
        assert answer.status_code == 200
        if end == "revoked":
            await http.delete(f"/api/v1/api-keys/{bot.key_id}", headers=engine.bearer(user))
        for socket in (by_key, by_token):
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await all_of(socket)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3000, f"X-Api-Key: {end}")
        last = json.loads([line async for line in answer.aiter_lines()][-1])
        assert last["error"] == {"reason": "UNAUTHENTICATED", "rule": f"X-Api-Key: {end}"}


def command(engine: Engine, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cli", "keys", *arguments], cwd=ROOT, env={**os.environ, **engine.stack.environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def test_operators_make_list_and_revoke_keys(engine: Engine) -> None:
    user = await engine.user(USDT="1000")
    made = await asyncio.to_thread(
        command, engine, "create", user, "ops", "--scope", "trade", "--scope", "read", "--json"
    )
    assert made.returncode == 0, made.stderr
    content = json.loads(made.stdout)
    bot = Bot(engine.rest, content["key"]["keyId"], content["secret"])
    assert (await bot.call("POST", "/api/v1/orders", order())).status_code == 200
    listed = await asyncio.to_thread(command, engine, "list", user, "--json")
    assert [key["name"] for key in json.loads(listed.stdout)["keys"]] == ["ops"]
    assert "secret" not in listed.stdout
    told = await asyncio.to_thread(command, engine, "list", user)
    assert bot.key_id in told.stdout, "whole, for it is what `revoke` takes"
    gone = await asyncio.to_thread(command, engine, "revoke", user, bot.key_id)
    assert gone.stdout.startswith("revoked at ")
    unknown = await asyncio.to_thread(command, engine, "revoke", user, new_id())
    assert (unknown.returncode, "API_KEY_NOT_FOUND" in unknown.stderr) == (1, True)


async def test_who_may_only_read_cannot_make_what_outlives_its_token(engine: Engine) -> None:
    user = await engine.user(USDT="1")
    bot = await bot_of(engine, user)
    headers = engine.bearer(user, "read")
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        made = await http.post("/api/v1/api-keys", json={"name": "r", "scopes": ["SCOPE_READ"]}, headers=headers)
        revoked = await http.delete(f"/api/v1/api-keys/{bot.key_id}", headers=headers)
        listed = await http.get("/api/v1/api-keys", headers=headers)
    assert (made.status_code, revoked.status_code) == (403, 403)
    assert [key["name"] for key in listed.json()["keys"]] == ["bot"]


async def test_keys_that_are_over_make_room_for_others(engine: Engine) -> None:
    user = new_id()
    full = "SELECT gen_random_uuid(), $1, 'k' || n, '{read}', '{}', sha256(''), now() - n * interval '1 second'"
    insert = "INSERT INTO orders.api_keys (key_id, user_id, name, scopes, allowed_ips, secret_hash, created_at)"
    await engine.query(f"{insert} {full} FROM generate_series(1, 100) AS n", user)
    refused = await create(engine, user)
    assert (refused.status_code, refused.json()["reason"]) == (400, "TOO_MANY_API_KEYS")
    await engine.query("UPDATE orders.api_keys SET revoked_at = now() WHERE user_id = $1 AND name <> 'k7'", user)
    await engine.query("UPDATE orders.api_keys SET revoked_at = NULL, expires_at = now() WHERE name = 'k8'")
    made = await create(engine, user)
    assert made.status_code == 200, made.text
    async with httpx.AsyncClient(base_url=engine.rest) as http:
        listed = (await http.get("/api/v1/api-keys", headers=engine.bearer(user))).json()["keys"]
    assert [key["name"] for key in listed[:4]] == ["bot", "k7", "k1", "k2"], "those that can be used, then the newest"
    assert len(listed) == 100
    await engine.query(
        f"{insert} {full.replace(chr(39) + 'k', chr(39) + 'n')} FROM generate_series(1, 10000) AS n", user
    )
    assert (await create(engine, user, name="another")).json()["reason"] == "TOO_MANY_API_KEYS"
    assert (await create(engine, user)).json() == made.json(), "a repeat is answered as before"
