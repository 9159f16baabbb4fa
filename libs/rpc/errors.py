"""Refusals on the wire: gRPC status + google.rpc.ErrorInfo{reason, domain, metadata}; the way there and back."""

from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from libs.reasons import Reason, Refused, RefusedError

DOMAIN = "trade-engine"
DETAILS_KEY = "grpc-status-details-bin"

_INVALID_UP_TO = 39
_PRECONDITION_UP_TO = 59
_CODES: Final[dict[Reason, grpc.StatusCode]] = {
    Reason.ORDER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RESERVATION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ROUTE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.KEY_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.SCOPE_MISSING: grpc.StatusCode.PERMISSION_DENIED,
    Reason.OTHER_USER: grpc.StatusCode.PERMISSION_DENIED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_SUBSCRIBERS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEPENDENCY_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.OUTCOME_UNKNOWN: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.WITHDRAWAL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.API_KEY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
}


def code_of(reason: Reason) -> grpc.StatusCode:
    """The gRPC status code of a reason; docs/errors.md has the table."""
    if reason <= _INVALID_UP_TO:
        return grpc.StatusCode.INVALID_ARGUMENT
    if reason <= _PRECONDITION_UP_TO:
        return grpc.StatusCode.FAILED_PRECONDITION
    return _CODES.get(reason, grpc.StatusCode.FAILED_PRECONDITION)


def status_of(refused: Refused) -> status_pb2.Status:
    """A refusal as google.rpc.Status, as single calls and items of a batch carry it."""
    status = status_pb2.Status(code=code_of(refused.reason).value[0], message=str(refused))
    info = error_details_pb2.ErrorInfo(reason=refused.reason.name, domain=DOMAIN, metadata=refused.metadata())
    status.details.add().Pack(info)
    return status


def refused_of(status: status_pb2.Status) -> Refused:
    """The refusal in a google.rpc.Status of ours; INTERNAL where it is somebody else's."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            metadata = dict(info.metadata)
            return Refused(
                Reason[info.reason], field=metadata.pop("field", ""), rule=metadata.pop("rule", ""), detail=metadata
            )
    return Refused(Reason.INTERNAL, rule=status.message)


def status_from_call(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The google.rpc.Status of a failed call: the one it carries, else one made of its code and text."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=error.code().value[0], message=error.details() or "")


def refused_from_call(error: grpc.aio.AioRpcError, *, dependency: str) -> RefusedError:
    """What a failed call to another service means to our own caller."""
    refused = refused_of(status_from_call(error))
    if refused.reason is not Reason.INTERNAL:
        return RefusedError(refused)
    detail = {"dependency": dependency}
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return RefusedError(Refused(Reason.OUTCOME_UNKNOWN, detail=detail))
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return RefusedError(Refused(Reason.DEPENDENCY_UNAVAILABLE, detail=detail))
    return RefusedError(Refused(Reason.INTERNAL, detail=detail))
