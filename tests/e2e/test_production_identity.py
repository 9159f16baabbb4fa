"""The engine as production has it: tokens signed by keys of a key set, mutual TLS between services, HTTPS at the edge."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from exchange.gateway.v1 import order_gateway_pb2, order_gateway_pb2_grpc
from exchange.wallet.v1 import operation_pb2, wallet_pb2_grpc

from cli.stack import Stack
from libs.config import Tls
from libs.ids import new_id
from libs.rpc.client import open_channel
from tests.support.certificates import Authority
from tests.support.engine import order_from, stack_on
from tests.support.servers import Servers
from tests.support.trading import until


class Issuer:
    """Whoever gives out tokens: keys of its own, the public ones in a file that it may change."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "jwks.json"
        self._keys: dict[str, tuple[object, str]] = {}

    def add(self, key_id: str, algorithm: str) -> None:
        key = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
        self._keys[key_id] = (key, algorithm)
        self._publish()

    def withdraw(self, key_id: str) -> None:
        del self._keys[key_id]
        self._publish()

    def _publish(self) -> None:
        algorithms = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
        content = {
            "keys": [
                {**json.loads(algorithms[name].to_jwk(key.public_key())), "kid": known, "use": "sig", "alg": name}
                for known, (key, name) in self._keys.items()
            ]
        }
        self.file.write_text(json.dumps(content))

    def token(self, key_id: str, subject: str, scopes: str = "read trade") -> str:
        key, algorithm = self._keys[key_id]
        now = int(time.time())
        claims = {"sub": subject, "scope": scopes, "iss": "trade-engine", "aud": "trade-engine", "exp": now + 3600}
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": key_id})

    def confused(self, key_id: str, subject: str) -> str:
        """A token signed with the public key as if it were a secret: the oldest trick there is."""
        key, _ = self._keys[key_id]
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        header = {"alg": "HS256", "typ": "JWT", "kid": key_id}
        claims = {"sub": subject, "scope": "service", "iss": "trade-engine", "aud": "trade-engine", "exp": 2**33}
        signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        text = b".".join(jwt.utils.base64url_encode(json.dumps(part).encode()) for part in (header, claims))
        return (text + b"." + jwt.utils.base64url_encode(signer.sign(text, public))).decode()


class Installation:
    def __init__(self, stack: Stack, issuer: Issuer, authority: Authority) -> None:
        self.stack = stack
        self.issuer = issuer
        self.authority = authority
        self.settings = stack.settings()

    def metadata(self, token: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {token}"),)


@pytest.fixture(scope="module")
async def installation(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    folder = tmp_path_factory.mktemp("installation")
    authority, issuer = Authority(folder), Issuer(folder)
    certificate, key = authority.sign("service")
    issuer.add("first", "RS256")
    issuer.add("second", "ES256")
    service_token = folder / "service.token"
    service_token.write_text(issuer.token("first", "service", "service"))
    over = {
        "TRADE_ENGINE_TLS_CERTIFICATE_FILE": str(certificate), "TRADE_ENGINE_TLS_KEY_FILE": str(key),
        "TRADE_ENGINE_TLS_CA_FILE": str(authority.file), "TRADE_ENGINE_TLS_REQUIRE_CLIENT_CERTIFICATE": "true",
        "TRADE_ENGINE_AUTH_HS256_SECRET": "", "TRADE_ENGINE_AUTH_JWKS": str(issuer.file),
        "TRADE_ENGINE_AUTH_SERVICE_TOKEN_FILE": str(service_token), "TRADE_ENGINE_AUTH_API_KEY_SECRET": "k" * 40,
    }  # fmt: skip
    dsn = servers.migrated_database()
    stack = stack_on(servers, folder, dsn, **over)
    await asyncio.to_thread(stack.start)
    try:
        yield Installation(stack, issuer, authority)
    finally:
        await asyncio.to_thread(stack.stop)
        servers.drop_database(dsn)


async def place(installation: Installation, token: str, user: str, tls: Tls | None) -> str:
    async with open_channel(installation.settings.gateway.target(), tls) as channel:
        stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)
        request = order_from("BUY 1 @ 100", user_id=user, symbol="BTC/USDT", client_order_id=new_id())
        answer = await stub.PlaceOrder(request, metadata=installation.metadata(token), timeout=20)
        return answer.order.order_id


async def funded(installation: Installation) -> str:
    user = new_id()
    async with open_channel(installation.settings.wallet.target(), installation.settings.tls) as channel:
        request = operation_pb2.DepositRequest(user_id=user, asset="USDT", amount="1000", deposit_id=new_id())
        token = installation.issuer.token("second", "ops", "service")
        await wallet_pb2_grpc.WalletServiceStub(channel).Deposit(
            request, metadata=installation.metadata(token), timeout=20
        )
    return user


async def test_orders_go_through_with_tokens_of_either_kind(installation: Installation) -> None:
    user = await funded(installation)
    for key_id in ("first", "second"):
        assert await place(installation, installation.issuer.token(key_id, user), user, installation.settings.tls)
    verify = ssl.create_default_context(cafile=installation.authority.file)
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{installation.settings.edge.port}", verify=verify
    ) as http:
        headers = {"authorization": f"Bearer {installation.issuer.token('first', user)}"}
        listed = await http.get("/api/v1/orders", headers=headers)
        assert len(listed.json()["orders"]) == 2
        made = await http.post("/api/v1/api-keys", json={"name": "bot", "scopes": ["SCOPE_READ"]}, headers=headers)
        assert made.status_code == 200, "API keys have a secret of their own here"
        assert (await http.get("/health/ready")).status_code == 200


async def test_forged_tokens_are_refused(installation: Installation, tmp_path: Path) -> None:
    user = await funded(installation)
    elsewhere = Issuer(tmp_path)
    elsewhere.add("first", "RS256")
    for token in (
        elsewhere.token("first", user),
        installation.issuer.confused("first", user),
        jwt.encode({"sub": user}, "x" * 32, algorithm="HS256", headers={"kid": "first"}),
        jwt.encode({"sub": user}, "x" * 32, algorithm="HS256"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place(installation, token, user, installation.settings.tls)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_new_key_is_taken_up_while_running(installation: Installation) -> None:
    user = await funded(installation)
    installation.issuer.add("third", "ES256")
    token = installation.issuer.token("third", user)

    async def is_taken() -> bool:
        try:
            await place(installation, token, user, installation.settings.tls)
        except grpc.aio.AioRpcError as error:
            assert "kid" in (error.details() or "")  # noqa: PT017 - any other refusal is wrong
            return False
        return True

    await until(is_taken)


async def test_a_key_that_is_withdrawn_ends_what_it_had_let_in(installation: Installation, tmp_path: Path) -> None:
    """Whoever stole it signs tokens that last as long as they like."""
    user, elsewhere = new_id(), Issuer(tmp_path)
    installation.issuer.add("stolen", "ES256")
    elsewhere.add("nobody knows", "ES256")
    token, unknown = installation.issuer.token("stolen", user), elsewhere.token("nobody knows", user)
    async with open_channel(installation.settings.gateway.target(), installation.settings.tls) as channel:
        stub = order_gateway_pb2_grpc.OrderGatewayServiceStub(channel)

        async def is_let_in(token: str) -> bool:
            request = order_gateway_pb2.ListOrdersRequest()
            try:
                await stub.ListOrders(request, metadata=installation.metadata(token), timeout=20)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED  # noqa: PT017 - any other refusal is wrong
                return False
            return True

        async def is_refused() -> bool:
            assert not await is_let_in(unknown)  # has the keys looked for at once, not within a minute
            return not await is_let_in(token)

        await until(lambda: is_let_in(token))
        stream = stub.StreamOrders(
            order_gateway_pb2.StreamOrdersRequest(), metadata=installation.metadata(token), timeout=60
        )
        assert (await stream.read()).snapshot_complete
        installation.issuer.withdraw("stolen")
        await until(is_refused)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
    assert "withdrawn" in (ended.value.details() or "")


async def test_who_has_no_certificate_or_a_wrong_one_is_not_heard(installation: Installation, tmp_path: Path) -> None:
    user = await funded(installation)
    token = installation.issuer.token("first", user)
    certificate, key = Authority(tmp_path, "stranger").sign("other")
    own = installation.settings.tls
    for tls in (
        None,
        own.model_copy(update={"certificate_file": None, "key_file": None}),
        own.model_copy(update={"certificate_file": certificate, "key_file": key}),
        own.model_copy(update={"ca_file": tmp_path / "stranger.pem"}),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place(installation, token, user, tls)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_changed_certificate_is_shown_to_who_comes_next(installation: Installation) -> None:
    context = ssl.create_default_context(cafile=installation.authority.file)
    own = installation.settings.tls
    assert own.certificate_file is not None
    context.load_cert_chain(own.certificate_file, own.key_file)
    context.set_alpn_protocols(["h2"])

    async def shown() -> bytes:
        port = installation.settings.wallet.port
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return certificate

    before = await shown()
    assert before == await shown()
    installation.authority.sign("service")
    assert before != await shown()
    user = await funded(installation)
    assert await place(installation, installation.issuer.token("first", user), user, installation.settings.tls)
