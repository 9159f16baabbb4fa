"""The OpenAPI 3.1 document of the edge, made from the protos: annotations, types, and the comments beside them."""

import importlib.resources
import re
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from libs.identity import SERVICE_SCOPE
from services.edge.routes import Route, RouteTable

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"
Schema = dict[str, Any]

# How proto3 JSON writes the well-known types.
_WELL_KNOWN: Final[dict[str, Schema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
}
_SCALARS: Final[dict[int, Schema]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
}
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


def openapi(table: RouteTable, *, version: str) -> Schema:
    """The document of all routes."""
    return _Document(table, version).build()


class _Document:
    def __init__(self, table: RouteTable, version: str) -> None:
        self._table = table
        self._version = version
        self._comments = _comments()
        self._schemas: dict[str, Schema] = {"Problem": _PROBLEM_SCHEMA}
        self._names: dict[str, str] = {}

    def build(self) -> Schema:
        paths: dict[str, Schema] = {}
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
            "tags": [{"name": name} for name in sorted({_tag(route) for route in self._table.routes})],
            "paths": dict(sorted(paths.items())),
            "components": {
                "schemas": dict(sorted(self._schemas.items())),
                "securitySchemes": _SECURITY_SCHEMES,
                "responses": {
                    str(status): {"description": text, "content": {PROBLEM: {"schema": _ref("Problem")}}}
                    for status, text in _PROBLEMS.items()
                },
            },
        }

    def _operation(self, route: Route) -> Schema:
        method = route.method
        comment = self._comments.get(method.full_name, "")
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
            if field.message_type is not None and field.message_type.full_name not in _WELL_KNOWN:
                parameters += self._in_query(route, field.message_type, f"{name}.")
            else:
                parameters.append({"name": name, "in": "query", **self._described(field)})
        return parameters

    def _described(self, field: FieldDescriptor) -> Schema:
        text = self._comments.get(field.full_name, "")
        return {"schema": self._field(field), **({"description": text} if text else {})}

    def _body(self, route: Route) -> Schema:
        message = route.method.input_type
        if route.body != "*":
            return self._field(message.fields_by_name[route.body])
        if not route.variables:
            return self._message(message)
        fields = [field for field in message.fields if field.name not in route.variables]
        return self._object(message, fields)

    def _response(self, route: Route) -> Schema:
        message = route.method.output_type
        if route.response_body:
            return self._field(message.fields_by_name[route.response_body])
        return self._message(message)

    def _message(self, message: Descriptor) -> Schema:
        """A reference to the message's schema, which is made when it is first needed."""
        if message.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[message.full_name]
        name = self._name(message)
        if name not in self._schemas:
            self._schemas[name] = {}  # so that a message may contain itself
            self._schemas[name] = self._object(message, message.fields)
        return _ref(name)

    def _object(self, message: Descriptor, fields: Iterable[FieldDescriptor]) -> Schema:
        properties = {}
        for field in fields:
            schema, text = self._field(field), self._comments.get(field.full_name, "")
            properties[field.json_name] = {**schema, "description": text} if text else schema
        text = self._comments.get(message.full_name, "")
        return {"type": "object", **({"description": text} if text else {}), "properties": properties}

    def _field(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(field.message_type.fields_by_name["value"])}
        one = self._one(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return _SCALARS[field.type]

    def _enum(self, enum: EnumDescriptor) -> Schema:
        name = self._name(enum)
        if name not in self._schemas:
            told = [
                f"- `{value.name}`: {self._comments.get(f'{enum.full_name}.{value.name}', '')}" for value in enum.values
            ]
            text = "\n".join([self._comments.get(enum.full_name, ""), "", *told])
            self._schemas[name] = {"type": "string", "enum": [item.name for item in enum.values], "description": text}
        return _ref(name)

    def _name(self, thing: Descriptor | EnumDescriptor) -> str:
        """The short name; where two packages have it, the later one's says which it is."""
        name = self._names.get(thing.full_name)
        if name is None:
            name = thing.name
            if name in self._names.values():
                name = "".join(part.title() for part in thing.full_name.split(".")[1:2]) + name
            self._names[thing.full_name] = name
        return name


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


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _field_at(message: Descriptor, path: str) -> FieldDescriptor:
    *parents, last = path.split(".")
    for parent in parents:
        inner = message.fields_by_name[parent].message_type
        assert inner is not None, f"{path}: only the last part of a path variable is a plain field"
        message = inner
    return message.fields_by_name[last]


def _comments() -> dict[str, str]:
    """Every comment of the contracts by the full name of what it stands at."""
    data = (importlib.resources.files("exchange") / "contracts.binpb").read_bytes()
    comments: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(data).file:
        if file.package.startswith("exchange."):
            for location in file.source_code_info.location:
                name = _name_at(file, list(location.path))
                text = location.leading_comments.strip()
                if name and text:
                    comments[name] = re.sub(r"\n\s*\n", "\n\n", re.sub(r"(?m)^ ", "", text))
    return comments


def _name_at(file: FileDescriptorProto, path: list[int]) -> str:
    """The full name of what a path of descriptor.proto's SourceCodeInfo leads to; empty for what has none."""
    names: list[str] = [file.package]
    thing: Any = file
    while path:
        number, *rest = path
        field = thing.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.message_type is None or not field.is_repeated or not rest:
            return ""
        thing = getattr(thing, field.name)[rest[0]]
        if not hasattr(thing, "name") or isinstance(thing, str):
            return ""
        names.append(thing.name)
        path = rest[1:]
    return ".".join(names) if len(names) > 1 else ""
