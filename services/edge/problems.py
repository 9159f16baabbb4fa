"""Errors as RFC 9457 problem+json, with the reason, the field and the request id."""

import json
from typing import Final

import grpc
from starlette.responses import Response

from libs.reasons import Reason, Refused
from libs.rpc.errors import code_of

# The mapping of google/rpc/code.proto.
HTTP_STATUS: Final[dict[grpc.StatusCode, int]] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
REQUEST_TIMEOUT = 408
PAYLOAD_TOO_LARGE = 413
_RETRY_AFTER_S = "retry_after_s"


def problem(refused: Refused, *, request_id: str, status: int | None = None) -> Response:
    """The answer to a refused request."""
    code = code_of(refused.reason)
    number = status or HTTP_STATUS[code]
    content = {
        "type": f"https://trade-engine.example/errors#{refused.reason.name}",
        "title": refused.reason.name.replace("_", " ").capitalize(),
        "status": number,
        "detail": str(refused),
        "reason": refused.reason.name,
        "requestId": request_id,
        **refused.metadata(),
    }
    headers = {}
    if _RETRY_AFTER_S in refused.detail:
        headers["retry-after"] = refused.detail[_RETRY_AFTER_S]
    if refused.reason is Reason.UNAUTHENTICATED:
        headers["www-authenticate"] = 'Bearer realm="trade-engine"'
    body = json.dumps(content, separators=(",", ":")).encode()
    return Response(body, status_code=number, media_type="application/problem+json", headers=headers)
