"""The OpenAPI 3.1 document of the edge, made from the protos: annotations, types, and the comments beside them."""

import re
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from libs.identity import SERVICE_SCOPE
from services.edge.routes import Route, RouteTable
from services.edge.schemas import WELL_KNOWN, Schema, Schemas, ref

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"

_PROBLEMS: Final[dict[int, str]] = {
    400: "The request is malformed, or the state refuses it; `reason` says why.",
    401: "There is no credential, or it is not valid.",
    403: "The credential does not allow this.",
    404: "There is no such thing.",
    408: "The request did not come to its end in time.",
    409: "The key was used with other contents.",
    413: "The body is too large.",
    429: "Over a limit; `Retry-After` says when to come again.",
    500: "A fault of ours.",
    503: "Something behind the edge is away; `Retry-After` may say when to come again.",
    504: "No answer in time; the outcome is unknown. Ask again with the same key.",
}
_PROBLEM_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "RFC 9457. What else a reason tells stands beside, as texts.",
    "required": ["type", "title", "status", "detail", "reason", "requestId"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "One of docs/errors.md."},
        "requestId": {"type": "string"},
        "field": {"type": "string", "description": "The field at fault."},
        "rule": {"type": "string", "description": "The rule it breaks."},
    },
}
_SECURITY_SCHEMES: Final[Schema] = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Api-Key",
        "description": "With X-Api-Timestamp, X-Api-Nonce and X-Api-Signature beside it; docs/security.md says how to sign.",
    },
}


_PART: Final[Schema] = {"type": "object", "properties": {"ready": {"type": "boolean"}, "latencyMs": {"type": "number"}}}
_HEALTH: Final[Schema] = {
    "type": "object",
    "required": ["status", "parts"],
    "properties": {"status": {"type": "string"}, "parts": {"type": "object", "additionalProperties": _PART}},
}


def _own(summary: str, schema: Schema, *, other: Schema | None = None, needs: bool = False) -> Schema:
    return {
        "operationId": "".join(part.capitalize() for part in summary.split()[:3]),
        "summary": summary,
        "tags": ["edge"],
        "responses": {"200": {"description": "Done.", "content": {JSON: {"schema": schema}}}, **(other or {})},
        "security": [{"token": []}, {"key": []}] if needs else [{}],
    }


def _edge_paths() -> dict[str, Schema]:
    """What is the edge's own, and no RPC behind it."""
    refusals = {str(status): {"$ref": f"#/components/responses/{status}"} for status in _PROBLEMS}
    not_ready = {"503": {"description": "Something is not ready.", "content": {JSON: {"schema": _HEALTH}}}}
    text = {"type": "string"}
    status = {"type": "object", "properties": {"status": text, "version": text, "serverTimeMs": {"type": "integer"}}}
    token = {"type": "object", "properties": {"token": text, "lifeSeconds": {"type": "integer"}}}
    alive = {"type": "object", "properties": {"status": text}}
    return {
        "/health/live": {"get": _own("Is the edge alive", alive)},
        "/health/ready": {"get": _own("Are all parts ready, by name", _HEALTH, other=not_ready)},
        "/api/v1/status": {"get": _own("The engine's state, version and time", status, other=refusals)},
        "/api/v1/socket-tokens": {
            "post": _own("A token for `/ws?token=`, which works once", token, other=refusals, needs=True)
        },
    }


def openapi(table: RouteTable, *, version: str) -> Schema:
    """The document of all routes."""
    return _Document(table, version).build()


class _Document:
    def __init__(self, table: RouteTable, version: str) -> None:
        self._table = table
        self._version = version
        self._schemas = Schemas({"Problem": _PROBLEM_SCHEMA})

    def build(self) -> Schema:
        paths = _edge_paths()
        for route in self._table.routes:
            paths.setdefault(_path(route), {})[route.verb.lower()] = self._operation(route)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Trade Engine",
                "version": self._version,
                "description": "Amounts and prices are decimal texts with up to 8 decimals. Times are UTC. "
                "Errors are RFC 9457 problems with a `reason`.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": name} for name in sorted({"edge", *(_tag(route) for route in self._table.routes)})],
            "paths": dict(sorted(paths.items())),
            "components": {
                "schemas": dict(sorted(self._schemas.components.items())),
                "securitySchemes": _SECURITY_SCHEMES,
                "responses": {
                    str(status): {"description": text, "content": {PROBLEM: {"schema": ref("Problem")}}}
                    for status, text in _PROBLEMS.items()
                },
            },
        }

    def _operation(self, route: Route) -> Schema:
        method = route.method
        comment = self._schemas.comments.get(method.full_name, "")
        media = NDJSON if method.server_streaming else JSON
        operation: Schema = {
            "operationId": _operation_id(route, self._table),
            "summary": re.sub(r"(?<=[a-z])(?=[A-Z])", " ", method.name).capitalize(),
            "description": _access(route) + comment,
            "tags": [_tag(route)],
            "responses": {
                "200": {"description": "Done.", "content": {media: {"schema": self._response(route)}}},
                **{str(status): {"$ref": f"#/components/responses/{status}"} for status in _PROBLEMS},
            },
            "security": [{"token": []}, {"key": []}] if route.rule.scope else [{}],
        }
        parameters = [*self._in_path(route), *self._in_query(route, method.input_type)]
        if parameters:
            operation["parameters"] = parameters
        if route.body:
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": self._body(route)}}}
        return operation

    def _in_path(self, route: Route) -> list[Schema]:
        return [
            {"name": name, "in": "path", "required": True, **self._described(_field_at(route.method.input_type, name))}
            for name in route.variables
        ]

    def _in_query(self, route: Route, message: Descriptor, prefix: str = "") -> list[Schema]:
        if route.body == "*":
            return []
        parameters: list[Schema] = []
        for field in message.fields:
            name = prefix + field.json_name
            proto_name = ".".join((*prefix.split(".")[:-1], field.name))
            if proto_name in route.variables or field.name == route.body:
                continue
            if field.message_type is not None and field.message_type.full_name not in WELL_KNOWN:
                parameters += self._in_query(route, field.message_type, f"{name}.")
            else:
                parameters.append({"name": name, "in": "query", **self._described(field)})
        return parameters

    def _described(self, field: FieldDescriptor) -> Schema:
        text = self._schemas.comments.get(field.full_name, "")
        return {"schema": self._schemas.field(field), **({"description": text} if text else {})}

    def _body(self, route: Route) -> Schema:
        message = route.method.input_type
        if route.body != "*":
            return self._schemas.field(message.fields_by_name[route.body])
        if not route.variables:
            return self._schemas.message(message)
        fields = [field for field in message.fields if field.name not in route.variables]
        return self._schemas.object(message, fields)

    def _response(self, route: Route) -> Schema:
        message = route.method.output_type
        if route.response_body:
            return self._schemas.field(message.fields_by_name[route.response_body])
        return self._schemas.message(message)


def _operation_id(route: Route, table: RouteTable) -> str:
    """The RPC's name; of an RPC with several routes, the later ones are numbered."""
    routes = [other for other in table.routes if other.method is route.method]
    number = routes.index(route) + 1
    return route.method.name if number == 1 else f"{route.method.name}{number}"


def _path(route: Route) -> str:
    return re.sub(r"\{([^=}]+)=[^}]*\}", r"{\1}", route.template)


def _tag(route: Route) -> str:
    service: str = route.method.containing_service.name
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", service.removesuffix("Service")).lower()


def _access(route: Route) -> str:
    match route.rule.scope:
        case "":
            return ""
        case scope if scope == SERVICE_SCOPE:
            return "For services of the engine. "
        case scope:
            return f"Needs scope `{scope}`. "


def _field_at(message: Descriptor, path: str) -> FieldDescriptor:
    *parents, last = path.split(".")
    for parent in parents:
        inner = message.fields_by_name[parent].message_type
        assert inner is not None, f"{path}: only the last part of a path variable is a plain field"
        message = inner
    return message.fields_by_name[last]
