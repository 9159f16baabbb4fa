"""HTTP to protobuf and back, by the rules of google/api/http.proto and the proto3 JSON mapping."""

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from libs.reasons import Reason, Refused, RefusedError
from services.edge.routes import Match

# Messages that proto3 JSON writes as a text, so that they may stand in a query, too.
_TEXTS_IN_JSON = {f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask")}
_TRUE_OR_FALSE = {"true": True, "false": False}


def request_from(match: Match, query: Iterable[tuple[str, str]], body: bytes) -> Message:
    """The RPC's request: the body first, then the query, then the path, which nothing may contradict.

    Raises RefusedError: BODY_MALFORMED, FIELD_NOT_ALLOWED.
    """
    route = match.route
    content: dict[str, Any] = {}
    if route.body == "*":
        content = _json_object(body)
    elif route.body:
        content = {route.body: json_of(body)} if body else {}
    elif body:
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field="body", rule="this call has no body"))
    for name, value in query:
        if route.body == "*":
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field=name[:100], rule="all fields go into the body"))
        _put(content, route.method.input_type, name, value)
    for name, value in match.variables.items():
        _check_same(content, name, value)
        _put(content, route.method.input_type, name, value)
    request: Message = message_of_type(route.method.input_type, content)
    return request


def as_json(message: Message) -> dict[str, Any]:
    """A message in the proto3 JSON mapping; fields without a value are there, too."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def response_json(message: Message, body: str = "") -> bytes:
    """A response in the proto3 JSON mapping, or its one field `body`; fields without a value are written, too."""
    content: Any = as_json(message)
    if body:
        content = content.get(message.DESCRIPTOR.fields_by_name[body].json_name)
    return json.dumps(content, separators=(",", ":")).encode()


def message_from(message_class: type[Message], content: dict[str, Any]) -> Message:
    """A message in the proto3 JSON mapping. Raises RefusedError(BODY_MALFORMED)."""
    message = message_class()
    try:
        json_format.ParseDict(content, message)
    except json_format.ParseError as error:
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule=str(error)[:300])) from error
    return message


def message_of_type(descriptor: Descriptor, content: dict[str, Any]) -> Any:
    """As `message_from`, by a descriptor."""
    return message_from(message_factory.GetMessageClass(descriptor), content)


def json_of(text: bytes | str) -> Any:
    """What a JSON text in UTF-8 (RFC 8259) says. Raises RefusedError(BODY_MALFORMED), also where a key stands twice."""
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(decoded, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule=f"JSON: {error}"[:300])) from error


def _json_object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    content = json_of(body)
    if not isinstance(content, dict):
        raise RefusedError(Refused(Reason.BODY_MALFORMED, rule="a JSON object"))
    return content


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("the same key stands twice in one object")
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _put(content: dict[str, Any], descriptor: Descriptor, name: str, value: str) -> None:
    """Set a field named `a.b` (in either spelling), of its own type, from text."""
    *parents, last = name.split(".")
    for parent in parents:
        field = _field(descriptor, parent, name)
        if field.message_type is None or field.is_repeated or field.message_type.full_name in _TEXTS_IN_JSON:
            raise _unknown(name)
        descriptor = field.message_type
        content = content.setdefault(field.name, {})
    field = _field(descriptor, last, name)
    if field.message_type is not None and field.message_type.full_name not in _TEXTS_IN_JSON:
        raise _unknown(name)
    parsed = _scalar(field, value)
    if field.is_repeated:
        content.setdefault(field.name, []).append(parsed)
    elif field.name in content and content[field.name] != parsed:
        raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field=name, rule="once"))
    else:
        content[field.name] = parsed


def _field(descriptor: Descriptor, part: str, name: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(part) or descriptor.fields_by_camelcase_name.get(part)
    if field is None:
        raise _unknown(name)
    return field


def _scalar(field: FieldDescriptor, value: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        if value not in _TRUE_OR_FALSE:
            raise RefusedError(Refused(Reason.BODY_MALFORMED, field=field.name, rule="true or false"))
        return _TRUE_OR_FALSE[value]
    if field.type == FieldDescriptor.TYPE_ENUM and value.isascii() and value.isdigit():
        return int(value[:10])
    return value


def _check_same(content: dict[str, Any], name: str, value: str) -> None:
    for spelling in (name, _camel(name)):
        if content.get(spelling, value) not in (value, ""):
            raise RefusedError(Refused(Reason.FIELD_NOT_ALLOWED, field=name, rule="as in the path"))
        content.pop(spelling, None)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def _unknown(name: str) -> RefusedError:
    return RefusedError(Refused(Reason.BODY_MALFORMED, field=name[:100], rule="no such parameter"))
