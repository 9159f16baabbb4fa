"""Who is calling the edge: by token, by a key and a signature, or by a one-time token of a socket."""

import asyncio
import hashlib
import ipaddress
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

import redis.asyncio
import structlog
from exchange.gateway.v1 import api_key_pb2, api_key_pb2_grpc
from redis.exceptions import RedisError

from libs.bounded import put_bounded
from libs.identity import Caller, TokenVerifier
from libs.ids import new_id, parse_id, parse_text
from libs.reasons import Reason, Refused, RefusedError, away
from libs.rpc.access import KEY_SCOPES, authenticate
from libs.rpc.client import Peer
from libs.signing import KEY_HEADER, NONCE_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, hash_of, secret_of, sign
from services.edge.backends import GATEWAY, Backends

WINDOW_MS = 5000
KEYS_KNOWN_S = 5.0
KEYS_KNOWN_MAX = 10_000
SOCKET_TOKEN_LIFE_S = 30
REDIS_CONNECTIONS_MAX = 50
REDIS_WAIT_S = 5
SOCKET_LIFE_S = 86_400
_NONCE_MIN_CHARS = 8

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature is over, as it was sent."""

    method: str
    target: str
    body: bytes


class Identity:
    """Finds out who calls. All raise RefusedError(UNAUTHENTICATED) that names the broken rule."""

    def __init__(self, *, verifier: TokenVerifier, backends: Backends, peer: Peer, master: str, redis_url: str) -> None:
        self._verifier = verifier
        self._gateway = api_key_pb2_grpc.ApiKeyServiceStub(backends.channel(GATEWAY))
        self._peer = peer
        self._master = master
        # Who comes while all connections are busy waits for one: the usual pool refuses the 101st.
        connections = redis.asyncio.BlockingConnectionPool.from_url(
            redis_url, decode_responses=True, max_connections=REDIS_CONNECTIONS_MAX, timeout=REDIS_WAIT_S
        )
        self._redis = redis.asyncio.Redis.from_pool(connections)
        self._known: dict[str, tuple[float, api_key_pb2.FindApiKeyResponse | None]] = {}

    def by_token(self, headers: Mapping[str, str]) -> Caller | None:
        """The caller of `Authorization: Bearer`; None where there is none."""
        return authenticate(self._verifier, headers.get("authorization", ""))

    async def by_key(self, headers: Mapping[str, str], address: str, signed: Signed) -> Caller:
        """The owner of an API key, whose signature is right, fresh, and not used before.

        Raises RefusedError(DEPENDENCY_UNAVAILABLE) where that cannot be told.
        """
        if headers.get("authorization"):
            raise _unauthenticated("either a token or an API key")
        timestamp, nonce = headers.get(TIMESTAMP_HEADER, ""), headers.get(NONCE_HEADER, "")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
            raise _unauthenticated("X-Api-Timestamp: milliseconds since 1970")
        if abs(time.time() * 1000 - int(timestamp)) > WINDOW_MS:
            raise _unauthenticated(f"X-Api-Timestamp: at most {WINDOW_MS} ms from now")
        if len(parse_text(nonce, field="X-Api-Nonce")) < _NONCE_MIN_CHARS:
            raise _unauthenticated(f"X-Api-Nonce: {_NONCE_MIN_CHARS} characters or more, another one each time")
        found = await self._find(headers[KEY_HEADER])
        if found is None:
            raise _no_such_key()
        secret = secret_of(self._master, found.key.key_id)
        expected = sign(
            secret, timestamp_ms=timestamp, nonce=nonce, method=signed.method, target=signed.target, body=signed.body
        )
        given = headers.get(SIGNATURE_HEADER, "").encode()
        if not (secrets.compare_digest(expected.encode(), given) and hash_of(secret) == found.secret_hash):
            raise _unauthenticated("X-Api-Signature: not the key's over this request")
        _check_usable(found)
        _check_address(found.key, address)
        await self._use_nonce(found.key.key_id, nonce)
        scopes = frozenset(KEY_SCOPES[scope] for scope in found.key.scopes)
        return Caller(found.key.user_id, scopes, key_id=found.key.key_id)

    async def until_over(self, caller: Caller) -> Refused:
        """Wait until what let this caller in is over (its token, the key that signed it, its API key), and say so.

        As long as it cannot be told of a key, it is not over.
        """
        while True:
            over = self._verifier.over(caller)
            if over is not None:
                return over
            try:
                if caller.key_id:
                    _check_usable(await self._find(caller.key_id))
            except RefusedError as error:
                if error.refused.reason is Reason.UNAUTHENTICATED:
                    return error.refused
                log.warning("cannot look at a key", key_id=caller.key_id, error=str(error))
            await asyncio.sleep(max(0.0, min(caller.expires_at - time.time(), KEYS_KNOWN_S)))

    async def new_socket_token(self, caller: Caller) -> str:
        """A token that opens one socket as this caller, within half a minute."""
        token = secrets.token_urlsafe(32)
        until = min(caller.expires_at, time.time() + SOCKET_LIFE_S)
        content = {
            "user": caller.user_id, "scopes": sorted(caller.scopes), "key": caller.key_id, "until": until,
            "signed_by": caller.signed_by,
        }  # fmt: skip
        try:
            await self._redis.set(_socket_key(token), json.dumps(content), ex=SOCKET_TOKEN_LIFE_S)
        except (RedisError, OSError) as error:
            raise _redis_away() from error
        return token

    async def by_socket_token(self, token: str) -> Caller:
        """The caller of a socket's token, which is used up."""
        try:
            text = await self._redis.getdel(_socket_key(token))
        except (RedisError, OSError) as error:
            raise _redis_away() from error
        if text is None:
            raise _unauthenticated("token: unknown, used before, or too old")
        content = json.loads(text)
        scopes = frozenset(content["scopes"])
        return Caller(content["user"], scopes, content["key"], content["until"], content["signed_by"])

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _find(self, key_id: str) -> api_key_pb2.FindApiKeyResponse | None:
        parse_id(key_id, field="X-Api-Key")
        until, found = self._known.get(key_id, (0.0, None))
        if time.monotonic() < until:
            return found
        try:
            found = await self._peer.call(self._gateway.FindApiKey, api_key_pb2.FindApiKeyRequest(key_id=key_id))
        except RefusedError as error:
            if error.refused.reason is not Reason.API_KEY_NOT_FOUND:
                raise
            found = None
        put_bounded(self._known, key_id, (time.monotonic() + KEYS_KNOWN_S, found), limit=KEYS_KNOWN_MAX)
        return found

    async def _use_nonce(self, key_id: str, nonce: str) -> None:
        """Remembered for as long as its timestamp may be right, on either side of now."""
        try:
            is_new = await self._redis.set(f"trade-engine:nonce:{key_id}:{nonce}", new_id(), nx=True, px=2 * WINDOW_MS)
        except (RedisError, OSError) as error:
            raise _redis_away() from error
        if not is_new:
            raise _unauthenticated("X-Api-Nonce: used before")


def _check_usable(found: api_key_pb2.FindApiKeyResponse | None) -> None:
    if found is None:
        raise _no_such_key()
    if found.key.HasField("revoked_at"):
        raise _unauthenticated("X-Api-Key: revoked")
    if found.key.HasField("expires_at") and found.key.expires_at.ToNanoseconds() <= time.time_ns():
        raise _unauthenticated("X-Api-Key: expired")


def _check_address(key: api_key_pb2.ApiKey, address: str) -> None:
    if key.allowed_ips:
        try:
            caller = ipaddress.ip_address(address)
        except ValueError:
            raise _unauthenticated("X-Api-Key: not from an address that is not known") from None
        if not any(caller in ipaddress.ip_network(network) for network in key.allowed_ips):
            raise _unauthenticated(f"X-Api-Key: not from {address}")


def _no_such_key() -> RefusedError:
    return _unauthenticated("X-Api-Key: no such key")


def _socket_key(token: str) -> str:
    return f"trade-engine:socket-token:{hashlib.sha256(token.encode()).hexdigest()}"


def _unauthenticated(rule: str) -> RefusedError:
    return RefusedError(Refused(Reason.UNAUTHENTICATED, rule=rule))


def _redis_away() -> RefusedError:
    return RefusedError(away("redis"))
