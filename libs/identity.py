"""Who is calling: JSON Web Tokens (RFC 7519) in, a Caller out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jwt
import structlog

from libs.bounded import put_bounded
from libs.config import Auth, ConfigError
from libs.ids import parse_id
from libs.keyset import KeySet
from libs.reasons import Reason, Refused, RefusedError

SERVICE_SCOPE = "service"
TOKEN_EXPIRED = Refused(Reason.UNAUTHENTICATED, rule="the token has expired")
KEY_WITHDRAWN = Refused(Reason.UNAUTHENTICATED, rule="the key that the token was signed with is withdrawn")
_SECRET_MIN_CHARS = 32
_ASYMMETRIC = ["RS256", "ES256"]
_CACHE_MAX = 10_000
_SERVICE_TOKEN_LIFE_S = 3600
_SERVICE_TOKEN_RENEW_S = 60

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. A service has no user of its own and may act for any.

    `key_id` is that of the API key it came with, if any. `expires_at` is in seconds since 1970; `signed_by` names the key of
    the key set that its token was signed with, if there is one.
    """

    user_id: str
    scopes: frozenset[str]
    key_id: str = ""
    expires_at: float = math.inf
    signed_by: str = ""

    @property
    def is_service(self) -> bool:
        """Whether it may act for any user."""
        return SERVICE_SCOPE in self.scopes

    def acting_for(self, user_id: str, *, field: str = "user_id") -> str:
        """The user this request is about: the one named, or the caller.

        Raises RefusedError: OTHER_USER where a user names another; FIELD_REQUIRED where a service names nobody;
        ID_MALFORMED.
        """
        if not user_id and not self.is_service:
            return self.user_id
        parse_id(user_id, field=field)
        if user_id != self.user_id and not self.is_service:
            raise RefusedError(Refused(Reason.OTHER_USER, field=field))
        return user_id


class TokenVerifier:
    """Checks tokens: signature (RS256/ES256 by public key or key set, or HS256 in development), iss, aud, exp, nbf."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._keys = KeySet(auth.jwks) if auth.jwks else None
        self._key, self._algorithms = ("", _ASYMMETRIC) if auth.jwks else _verification_key(auth)
        self._verified: dict[str, Caller] = {}
        self._verified_by = 0  # which state of the key set

    def verify(self, token: str) -> Caller:
        """The caller. Raises RefusedError(UNAUTHENTICATED) that names the broken rule."""
        if self._keys is not None and self._verified_by != self._keys.changes:
            self._verified.clear()
            self._verified_by = self._keys.changes
        known = self._verified.get(token)
        if known is not None and self.over(known) is None:
            return known
        caller = self._decode(token)
        put_bounded(self._verified, token, caller, limit=_CACHE_MAX)
        return caller

    def over(self, caller: Caller) -> Refused | None:
        """Why who was let in by a token is not let in any more; None as long as the token holds."""
        if caller.expires_at <= time.time():
            return TOKEN_EXPIRED
        if caller.signed_by and self._keys is not None and not self._keys.has(caller.signed_by):
            return KEY_WITHDRAWN
        return None

    def _decode(self, token: str) -> Caller:
        try:
            key = self._key_of(token)
            claims = jwt.decode(
                token, key, algorithms=self._algorithms, audience=self._auth.audience,
                issuer=self._auth.issuer, options={"require": ["exp", "sub", "iss", "aud"]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule=str(error))) from error
        scopes = frozenset(str(claims.get("scope", "")).split())
        subject = str(claims["sub"])
        if SERVICE_SCOPE not in scopes:
            try:
                parse_id(subject, field="sub")
            except RefusedError as error:
                raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule="sub must be the user's UUID")) from error
        signed_by = str(key.key_id) if isinstance(key, jwt.PyJWK) else ""
        return Caller(user_id=subject, scopes=scopes, expires_at=float(claims["exp"]), signed_by=signed_by)

    def _key_of(self, token: str) -> str | jwt.PyJWK:
        if self._keys is None:
            return self._key
        key = self._keys.find(str(jwt.get_unverified_header(token).get("kid", "")))
        if key is None:
            raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule="kid must name a key of the key set"))
        return key


def mint_token(auth: Auth, *, subject: str, scopes: str, life_s: int) -> str:
    """A development token signed with the shared secret. Raises ConfigError where there is none."""
    now = int(time.time())
    claims = {"sub": subject, "scope": scopes, "iss": auth.issuer, "aud": auth.audience, "iat": now, "nbf": now - 5}
    return jwt.encode({**claims, "exp": now + life_s}, _secret(auth), algorithm="HS256")


def api_key_master(auth: Auth) -> str:
    """What secrets of API keys are derived from; empty where there are no API keys. Raises ConfigError."""
    own = auth.api_key_secret.get_secret_value()
    if own and len(own) < _SECRET_MIN_CHARS:
        raise ConfigError(f"auth.api_key_secret: {_SECRET_MIN_CHARS}+ characters")
    return own or auth.hs256_secret.get_secret_value()


def service_credential(auth: Auth, *, service: str) -> Callable[[], str]:
    """A function that gives this service's current token: from its file, or minted with the development secret.

    It raises OSError where there is no file at the first call.
    """
    token, made_at = "", 0.0

    def current() -> str:
        nonlocal token, made_at
        now = time.time()  # the clock that tokens expire by, also while a machine sleeps
        if not made_at <= now < made_at + _SERVICE_TOKEN_RENEW_S:
            if auth.service_token_file is not None:
                token = _read_token(auth.service_token_file, before=token)
            else:
                token = mint_token(auth, subject=service, scopes=SERVICE_SCOPE, life_s=_SERVICE_TOKEN_LIFE_S)
            made_at = now
        return token

    return current


def _read_token(path: Path, *, before: str) -> str:
    """The token in a file; while there is none (it is being replaced, say) the one of before. Raises OSError without one."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if not before:
            raise
        log.warning("the token is as it was before", file=str(path), error=f"{type(error).__name__}: {error}")
        return before
    return token or before


def _verification_key(auth: Auth) -> tuple[str, list[str]]:
    if auth.public_key_file is not None:
        return Path(auth.public_key_file).read_text(encoding="ascii"), _ASYMMETRIC
    return _secret(auth), ["HS256"]


def _secret(auth: Auth) -> str:
    secret = auth.hs256_secret.get_secret_value()
    if len(secret) < _SECRET_MIN_CHARS:
        raise ConfigError(
            "auth: set auth.jwks or auth.public_key_file, or for development "
            f"auth.hs256_secret to {_SECRET_MIN_CHARS}+ characters"
        )
    return secret
