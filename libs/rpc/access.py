"""The access rule of each RPC, read from its option `(exchange.common.v1.access)` in the proto."""

from dataclasses import dataclass

from exchange.common.v1 import access_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from libs.identity import SERVICE_SCOPE, Caller, TokenVerifier
from libs.reasons import Reason, Refused, RefusedError

PUBLIC = Caller(user_id="", scopes=frozenset())
_SCOPE_NAMES = {
    access_pb2.SCOPE_READ: "read",
    access_pb2.SCOPE_TRADE: "trade",
    access_pb2.SCOPE_ADMIN: "admin",
    access_pb2.SCOPE_SERVICE: SERVICE_SCOPE,
}


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


def admit(rule: AccessRule, caller: Caller | None) -> Caller:
    """The caller, if the rule lets it in. Raises RefusedError (UNAUTHENTICATED, SCOPE_MISSING)."""
    if not rule.scope:
        return caller or PUBLIC
    if caller is None:
        raise RefusedError(Refused(Reason.UNAUTHENTICATED, rule="this call needs a credential"))
    if rule.scope not in caller.scopes and not caller.is_service:
        raise RefusedError(Refused(Reason.SCOPE_MISSING, rule=f"scope {rule.scope}"))
    return caller
