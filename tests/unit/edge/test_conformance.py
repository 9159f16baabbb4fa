"""The transcoding rules of google/api/http.proto and of proto3 JSON, one by one, on a contract made for it."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, field_mask_pb2, message_factory, timestamp_pb2

from libs.reasons import Reason, RefusedError
from services.edge.routes import RouteTable
from services.edge.transcoding import request_from, response_json

assert field_mask_pb2
assert timestamp_pb2
assert annotations_pb2
Field = descriptor_pb2.FieldDescriptorProto
FIELDS = [
    ("name", Field.TYPE_STRING, ""),
    ("count", Field.TYPE_INT64, ""),
    ("small", Field.TYPE_INT32, ""),
    ("flag", Field.TYPE_BOOL, ""),
    ("data", Field.TYPE_BYTES, ""),
    ("ratio", Field.TYPE_DOUBLE, ""),
    ("colour", Field.TYPE_ENUM, ".conformance.Colour"),
    ("at", Field.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
    ("update_mask", Field.TYPE_MESSAGE, ".google.protobuf.FieldMask"),
    ("inner", Field.TYPE_MESSAGE, ".conformance.Inner"),
]
ROUTES: dict[str, list[dict[str, str]]] = {
    "Get": [{"get": "/v1/things/{name}"}],
    "Star": [{"get": "/v1/stars/{name=*}"}],
    "Two": [{"get": "/v1/{name=shelves/*/books/*}"}],
    "Deep": [{"get": "/v1/files/{name=**}"}],
    "Verb": [{"post": "/v1/things/{name}:freeze"}, {"post": "/v1/all:freeze"}],
    "Inner": [{"get": "/v1/inners/{inner.id}"}],
    "Any": [{"get": "/v1/any/*/end"}],
    "Literal": [{"get": "/v1/things/special"}],
    "Whole": [{"put": "/v1/things/{name}", "body": "*"}],
    "Part": [{"patch": "/v1/things/{name}", "body": "inner"}],
    "Query": [{"get": "/v1/things"}],
    "Delete": [{"delete": "/v1/things/{name}"}],
    "Only": [{"get": "/v1/only", "response_body": "inner"}],
}


def contract() -> RouteTable:
    file = descriptor_pb2.FileDescriptorProto(name="conformance.proto", package="conformance", syntax="proto3")
    file.dependency.extend([
        "google/api/annotations.proto", "google/protobuf/timestamp.proto", "google/protobuf/field_mask.proto",
    ])  # fmt: skip
    colour = file.enum_type.add(name="Colour")
    for number, name in enumerate(("COLOUR_UNSPECIFIED", "RED", "BLUE")):
        colour.value.add(name=name, number=number)
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="id", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    inner.field.add(name="size_max", number=2, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL)
    thing = file.message_type.add(name="Thing")
    for number, (name, kind, type_name) in enumerate(FIELDS, start=1):
        thing.field.add(name=name, number=number, type=kind, type_name=type_name or None, label=Field.LABEL_OPTIONAL)
    thing.field.add(name="tags", number=20, type=Field.TYPE_STRING, label=Field.LABEL_REPEATED)
    thing.field.add(name="many", number=21, type=Field.TYPE_INT64, label=Field.LABEL_REPEATED)
    service = file.service.add(name="Service")
    for name, bindings in ROUTES.items():
        method = service.method.add(name=name, input_type=".conformance.Thing", output_type=".conformance.Thing")
        rule = method.options.Extensions[annotations_pb2.http]
        for number, binding in enumerate(bindings):
            target = rule if number == 0 else rule.additional_bindings.add()
            for field, value in binding.items():
                setattr(target, field, value)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return RouteTable([pool.FindServiceByName("conformance.Service")])


TABLE = contract()

GOOD: list[tuple[str, str, str, Any, str, dict[str, Any]]] = [
    # verb, path, query, body, RPC, the request in proto3 JSON
    ("GET", "/v1/things/a", "", None, "Get", {"name": "a"}),
    ("GET", "/v1/things/special", "", None, "Literal", {}),
    ("GET", "/v1/things/a%2Fb", "", None, "Get", {"name": "a/b"}),
    ("GET", "/v1/things/a%20b%2B", "", None, "Get", {"name": "a b+"}),
    ("GET", "/v1/things/a:b", "", None, "Get", {"name": "a:b"}),
    ("GET", "/v1/stars/a", "", None, "Star", {"name": "a"}),
    ("GET", "/v1/shelves/1/books/2", "", None, "Two", {"name": "shelves/1/books/2"}),
    ("GET", "/v1/shelves/a%2Fb/books/c%20d", "", None, "Two", {"name": "shelves/a%2Fb/books/c d"}),
    ("GET", "/v1/files/a/b/c", "", None, "Deep", {"name": "a/b/c"}),
    ("GET", "/v1/files/a%2fb/c", "", None, "Deep", {"name": "a%2Fb/c"}),
    ("POST", "/v1/things/a:freeze", "", None, "Verb", {"name": "a"}),
    ("POST", "/v1/all:freeze", "", None, "Verb", {}),
    ("POST", "/v1/all:freeze", "name=b", None, "Verb", {"name": "b"}),
    ("GET", "/v1/inners/7", "", None, "Inner", {"inner": {"id": "7"}}),
    ("GET", "/v1/inners/7", "inner.size_max=3", None, "Inner", {"inner": {"id": "7", "sizeMax": 3}}),
    ("GET", "/v1/any/x/end", "", None, "Any", {}),
    ("DELETE", "/v1/things/a", "", None, "Delete", {"name": "a"}),
    ("PUT", "/v1/things/a", "", {"count": "5", "flag": True}, "Whole", {"name": "a", "count": "5", "flag": True}),
    ("PUT", "/v1/things/a", "", {"name": "a"}, "Whole", {"name": "a"}),
    ("PATCH", "/v1/things/a", "", {"id": "x"}, "Part", {"name": "a", "inner": {"id": "x"}}),
    ("PATCH", "/v1/things/a", "update_mask=inner.id", {"id": "x"}, "Part",
     {"name": "a", "inner": {"id": "x"}, "updateMask": "inner.id"}),
    ("PATCH", "/v1/things/a", "", None, "Part", {"name": "a"}),
    ("GET", "/v1/things", "name=x&count=9007199254740993&small=-1", None, "Query",
     {"name": "x", "count": "9007199254740993", "small": -1}),
    ("GET", "/v1/things", "flag=true", None, "Query", {"flag": True}),
    ("GET", "/v1/things", "colour=RED", None, "Query", {"colour": "RED"}),
    ("GET", "/v1/things", "colour=2", None, "Query", {"colour": "BLUE"}),
    ("GET", "/v1/things", "ratio=0.5", None, "Query", {"ratio": 0.5}),
    ("GET", "/v1/things", "data=AQI%3D", None, "Query", {"data": "AQI="}),
    ("GET", "/v1/things", "at=2026-01-02T03:04:05.5Z", None, "Query", {"at": "2026-01-02T03:04:05.500Z"}),
    ("GET", "/v1/things", "updateMask=name,innerSize", None, "Query", {"updateMask": "name,innerSize"}),
    ("GET", "/v1/things", "tags=a&tags=b&many=1&many=2", None, "Query", {"tags": ["a", "b"], "many": ["1", "2"]}),
    ("GET", "/v1/things", "inner.id=x&inner.sizeMax=2", None, "Query", {"inner": {"id": "x", "sizeMax": 2}}),
    ("PUT", "/v1/things/a", "", {"update_mask": "name,inner.sizeMax"}, "Whole",
     {"name": "a", "updateMask": "name,inner.sizeMax"}),
    ("PUT", "/v1/things/a", "", {"count": 5, "colour": 1}, "Whole", {"name": "a", "count": "5", "colour": "RED"}),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "path", "query", "body", "rpc", "wanted"), GOOD)
def test_requests(verb: str, path: str, query: str, body: Any, rpc: str, wanted: dict[str, Any]) -> None:
    match = TABLE.find(verb, path)
    assert match is not None
    assert match.route.method.name == rpc
    request = request_from(match, parse_qsl(query), json.dumps(body).encode() if body is not None else b"")
    told = json.loads(response_json(request))
    nothing = json.loads(response_json(type(request)()))
    assert {name: value for name, value in told.items() if value != nothing.get(name)} == {
        name: {"id": "", "sizeMax": 0, **value} if name == "inner" else value for name, value in wanted.items()
    }


NOWHERE = [
    ("GET", "/v1/things/"),
    ("GET", "/v1/things/a/b"),
    ("GET", "/v1/shelves/1/books"),
    ("GET", "/v1/shelves/1/books/"),
    ("GET", "/v1/any/x/y/end"),
    ("POST", "/v1/things/a:melt"),
    ("POST", "/v1/things/a"),
    ("GET", "/v1/Things/a"),
    ("GET", "/v2/things/a"),
    ("HEAD", "/v1/things/a"),
]


@pytest.mark.parametrize(("verb", "path"), NOWHERE)
def test_paths_that_lead_nowhere(verb: str, path: str) -> None:
    assert TABLE.find(verb, path) is None


BAD = [
    ("GET", "/v1/things", "size=1", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "inner=1", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "inner.size=1", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "name.x=1", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "flag=yes", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "small=2147483648", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "count=1.5", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "colour=GREEN", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "at=yesterday", b"", Reason.BODY_MALFORMED),
    ("GET", "/v1/things", "name=a&name=b", b"", Reason.FIELD_NOT_ALLOWED),
    ("GET", "/v1/things", "", b"{}", Reason.FIELD_NOT_ALLOWED),
    ("GET", "/v1/things/a", "name=b", b"", Reason.FIELD_NOT_ALLOWED),
    ("PUT", "/v1/things/a", "count=1", b"{}", Reason.FIELD_NOT_ALLOWED),
    ("PUT", "/v1/things/a", "", b'{"name":"b"}', Reason.FIELD_NOT_ALLOWED),
    ("PUT", "/v1/things/a", "", b"[]", Reason.BODY_MALFORMED),
    ("PATCH", "/v1/things/a", "", b'"text"', Reason.BODY_MALFORMED),
    ("PATCH", "/v1/things/a", "", b'{"id":1}', Reason.BODY_MALFORMED),
]


@pytest.mark.parametrize(("verb", "path", "query", "body", "reason"), BAD)
def test_requests_that_are_refused(verb: str, path: str, query: str, body: bytes, reason: Reason) -> None:
    match = TABLE.find(verb, path)
    assert match is not None
    with pytest.raises(RefusedError) as refused:
        request_from(match, parse_qsl(query), body)
    assert refused.value.refused.reason is reason


def test_a_response_may_be_one_field_of_the_message() -> None:
    match = TABLE.find("GET", "/v1/only")
    assert match is not None
    message = message_factory.GetMessageClass(match.route.method.output_type)(inner={"id": "x"})
    assert json.loads(response_json(message, match.route.response_body)) == {"id": "x", "sizeMax": 0}
