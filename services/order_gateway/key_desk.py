"""API keys: made, listed, revoked, and told to the edge. The gRPC face of ApiKeyService."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from exchange.gateway.v1 import api_key_pb2, api_key_pb2_grpc

from libs.ids import new_id, parse_id, parse_text
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.access import KEY_SCOPES
from libs.rpc.server import current_caller
from libs.signing import hash_of, secret_of
from libs.times import parse_time, put_time
from services.order_gateway.key_store import KeyRow, KeyStore

# That can be used, and with those that were revoked or are over.
KEYS_MAX = 100
KEYS_IN_ALL_MAX = 10_000
ALLOWED_IPS_MAX = 20
_NUMBERS = {name: number for number, name in KEY_SCOPES.items()}


class ApiKeyService(api_key_pb2_grpc.ApiKeyServiceServicer):
    """`master` is what secrets are derived from; empty where there are no API keys."""

    def __init__(self, *, store: KeyStore, master: str) -> None:
        self._store = store
        self._master = master

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: Any
    ) -> api_key_pb2.CreateApiKeyResponse:
        """See the proto."""
        del context
        if not self._master:
            raise RefusedError(Refused(Reason.API_KEYS_OFF))
        wanted = self._wanted(request)
        if not await self._store.insert(wanted, usable_max=KEYS_MAX, in_all_max=KEYS_IN_ALL_MAX):
            known = await self._store.by_name(wanted.user_id, wanted.name)
            if known is None:
                raise RefusedError(Refused(Reason.TOO_MANY_API_KEYS, rule=f"at most {KEYS_MAX} that can be used"))
            for field in ("scopes", "allowed_ips", "expires_at"):
                if getattr(known, field) != getattr(wanted, field):
                    raise RefusedError(Refused(Reason.KEY_REUSED, field=field))
            wanted = known
        return api_key_pb2.CreateApiKeyResponse(key=_message(wanted), secret=secret_of(self._master, wanted.key_id))

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: Any
    ) -> api_key_pb2.ListApiKeysResponse:
        """See the proto."""
        del context
        keys = await self._store.of_user(request.user_id, KEYS_MAX)
        return api_key_pb2.ListApiKeysResponse(keys=[_message(key) for key in keys])

    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: Any
    ) -> api_key_pb2.RevokeApiKeyResponse:
        """See the proto."""
        del context
        _refuse_keys()
        key = await self._store.revoke(request.user_id, parse_id(request.key_id, field="key_id"))
        return api_key_pb2.RevokeApiKeyResponse(key=_message(_found(key)))

    async def FindApiKey(self, request: api_key_pb2.FindApiKeyRequest, context: Any) -> api_key_pb2.FindApiKeyResponse:
        """See the proto."""
        del context
        key = _found(await self._store.by_id(parse_id(request.key_id, field="key_id")))
        return api_key_pb2.FindApiKeyResponse(key=_message(key), secret_hash=key.secret_hash)

    def _wanted(self, request: api_key_pb2.CreateApiKeyRequest) -> KeyRow:
        """The key that is asked for. Raises RefusedError."""
        _refuse_keys()
        key_id, now = new_id(), datetime.now(UTC)
        expires_at = parse_time(request.expires_at, field="expires_at") if request.HasField("expires_at") else None
        if expires_at is not None and expires_at <= now:
            raise RefusedError(Refused(Reason.AMOUNT_OUT_OF_RANGE, field="expires_at", rule="in the future"))
        return KeyRow(
            key_id=key_id,
            user_id=request.user_id,
            name=parse_text(request.name, field="name"),
            scopes=_scopes(request.scopes),
            allowed_ips=_networks(request.allowed_ips),
            secret_hash=hash_of(secret_of(self._master, key_id)),
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
        )


def _scopes(numbers: Sequence[int]) -> list[str]:
    caller = current_caller()
    if not numbers:
        raise RefusedError(Refused(Reason.FIELD_REQUIRED, field="scopes"))
    for number in numbers:
        name = KEY_SCOPES.get(number)  # type: ignore[call-overload]  # any number may come over the wire
        if name is None:
            raise RefusedError(Refused(Reason.CHOICE_UNKNOWN, field="scopes", rule="SCOPE_READ, SCOPE_TRADE"))
        if name not in caller.scopes and not caller.is_service:
            raise RefusedError(Refused(Reason.SCOPE_MISSING, field="scopes", rule=f"scope {name}"))
    return sorted({KEY_SCOPES[number] for number in numbers})  # type: ignore[index]  # they are all known by now


def _networks(texts: Sequence[str]) -> list[str]:
    if len(texts) > ALLOWED_IPS_MAX:
        raise RefusedError(Refused(Reason.BATCH_TOO_LARGE, field="allowed_ips", rule=f"at most {ALLOWED_IPS_MAX}"))
    networks = []
    for number, text in enumerate(texts):
        try:
            networks.append(str(ipaddress.ip_network(text)))
        except ValueError:
            rule = "an address, or a network such as 192.0.2.0/24"
            raise RefusedError(Refused(Reason.TEXT_MALFORMED, field=f"allowed_ips[{number}]", rule=rule)) from None
    return sorted(set(networks))


def _refuse_keys() -> None:
    """A key that leaked must not make itself new ones. Raises RefusedError(SCOPE_MISSING)."""
    if current_caller().key_id:
        raise RefusedError(Refused(Reason.SCOPE_MISSING, rule="a token; an API key cannot change API keys"))


def _found(key: KeyRow | None) -> KeyRow:
    if key is None:
        raise RefusedError(Refused(Reason.API_KEY_NOT_FOUND, field="key_id"))
    return key


def _message(key: KeyRow) -> api_key_pb2.ApiKey:
    message = api_key_pb2.ApiKey(
        key_id=key.key_id,
        user_id=key.user_id,
        name=key.name,
        scopes=[_NUMBERS[scope] for scope in key.scopes],
        allowed_ips=key.allowed_ips,
    )
    put_time(message.created_at, key.created_at)
    if key.expires_at is not None:
        put_time(message.expires_at, key.expires_at)
    if key.revoked_at is not None:
        put_time(message.revoked_at, key.revoked_at)
    return message
