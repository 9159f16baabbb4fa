"""The access rule of each RPC, read from its option `(exchange.common.v1.access)` in the proto."""

from collections.abc import Mapping
from dataclasses import dataclass

from exchange.common.v1 import access_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from libs.identity import SERVICE_SCOPE, Caller, TokenVerifier
from libs.ids import parse_id
from libs.reasons import Reason, Refused, RefusedError

USER_SCOPES = frozenset({"read", "trade"})
ACT_AS_USER = "x-act-as-user"
ACT_AS_SCOPES = "x-act-as-scopes"
ACT_AS_KEY = "x-act-as-key"
PUBLIC = Caller(user_id="", scopes=frozenset())
_SCOPE_NAMES = {
    access_pb2.SCOPE_READ: "read",
    access_pb2.SCOPE_TRADE: "trade",
    access_pb2.SCOPE_ADMIN: "admin",
    access_pb2.SCOPE_SERVICE: SERVICE_SCOPE,
}
# What an API key may carry: a user's scopes and no other.
KEY_SCOPES = {number: name for number, name in _SCOPE_NAMES.items() if name in USER_SCOPES}


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a method needs: a scope ("" means nothing), and whether its request names a user."""

    scope: str
    names_user: bool


def access_rule(method: MethodDescriptor) -> AccessRule:
    """The rule of one method; a method without the option needs a service credential."""
    scope = method.GetOptions().Extensions[access_pb2.access].scope
    name = "" if scope == access_pb2.SCOPE_PUBLIC else _SCOPE_NAMES.get(scope, SERVICE_SCOPE)
    return AccessRule(scope=name, names_user="user_id" in method.input_type.fields_by_name)


def access_rules(service: ServiceDescriptor) -> dict[str, AccessRule]:
    """Rules by full method path (/package.Service/Method)."""
    return {f"/{service.full_name}/{method.name}": access_rule(method) for method in service.methods}


def authenticate(verifier: TokenVerifier, authorization: str) -> Caller | None:
    """The caller of an `authorization` value; None where there is no value. Raises RefusedError(UNAUTHENTICATED)."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule="authorization: Bearer <token>"))
    return verifier.verify(token)


def acting(caller: Caller | None, metadata: Mapping[str, str]) -> Caller | None:
    """The user that a service says it acts as, with no more than a user's scopes; else the caller itself.

    Raises RefusedError: OTHER_USER where anybody but a service says so, ID_MALFORMED.
    """
    user_id = metadata.get(ACT_AS_USER, "")
    if not user_id:
        return caller
    if caller is None or not caller.is_service:
        raise RefusedError(Refused(Reason.OTHER_USER, field=ACT_AS_USER))
    scopes = frozenset(metadata.get(ACT_AS_SCOPES, "").split()) & USER_SCOPES
    return Caller(parse_id(user_id, field=ACT_AS_USER), scopes, key_id=metadata.get(ACT_AS_KEY, ""))


def acting_metadata(caller: Caller) -> tuple[tuple[str, str], ...]:
    """What a service says to act as this user."""
    return (
        (ACT_AS_USER, caller.user_id),
        (ACT_AS_SCOPES, " ".join(sorted(caller.scopes & USER_SCOPES))),
        (ACT_AS_KEY, caller.key_id),
    )


def admit(rule: AccessRule, caller: Caller | None) -> Caller:
    """The caller, if the rule lets it in. Raises RefusedError (UNAUTHENTICATED, SCOPE_MISSING)."""
    if not rule.scope:
        return caller or PUBLIC
    if caller is None:
        raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule="this call needs a credential"))
    if rule.scope not in caller.scopes and not caller.is_service:
        raise RefusedError(Refused(Reason.SCOPE_MISSING, rule=f"scope {rule.scope}"))
    return caller
