"""Routes and messages by the rules of google/api/http.proto."""

import contextlib
import json

import pytest
from exchange.gateway.v1 import order_gateway_pb2
from google.api import annotations_pb2
from hypothesis import given
from hypothesis import strategies as st

from libs.reasons import Reason, RefusedError
from services.edge.backends import SERVICES
from services.edge.routes import Match, RouteTable
from services.edge.transcoding import request_from, response_json

TABLE = RouteTable(SERVICES)
ID = "01890a5d-ac96-774b-bcce-b302099a8057"

ROUTES = [
    ("POST", "/api/v1/orders", "PlaceOrder", {}),
    ("POST", "/api/v1/orders:batch", "PlaceOrders", {}),
    ("GET", f"/api/v1/orders/{ID}", "GetOrder", {"order_id": ID}),
    ("DELETE", f"/api/v1/orders/{ID}", "CancelOrder", {"order_id": ID}),
    ("POST", f"/api/v1/orders/{ID}:reduce", "ReduceOrder", {"order_id": ID}),
    ("GET", "/api/v1/orders", "ListOrders", {}),
    ("GET", "/api/v1/books/BTC-USDT", "GetBook", {"symbol": "BTC-USDT"}),
    ("GET", "/api/v1/books/BTC%2FUSDT", "GetBook", {"symbol": "BTC/USDT"}),
    ("GET", "/api/v1/books/BTC/USDT", None, {}),
    ("GET", "/api/v1/books/", None, {}),
    ("GET", "/api/v1/trades/", None, {}),
    ("PATCH", "/api/v1/orders", None, {}),
    ("POST", "/api/v1/wallets/settle-trade", "SettleTrade", {}),
]


@pytest.mark.parametrize(("verb", "path", "method", "variables"), ROUTES)
def test_routes(verb: str, path: str, method: str | None, variables: dict[str, str]) -> None:
    match = TABLE.find(verb, path)
    assert (match.route.method.name if match else None) == method
    assert (match.variables if match else {}) == variables


def test_every_annotated_rpc_has_its_route() -> None:
    annotated = {
        method.name
        for service in SERVICES
        for method in service.methods
        if method.GetOptions().HasExtension(annotations_pb2.http)
    }
    assert {route.method.name for route in TABLE.routes} == annotated
    assert len(annotated) >= 12


def translate(verb: str, path: str, query: str = "", body: bytes = b""):
    match = TABLE.find(verb, path)
    pairs = [tuple(pair.split("=")) for pair in query.split("&")] if query else []
    return request_from(match, pairs, body)


def test_query_parameters_become_fields_in_either_spelling() -> None:
    for query in ("open_only=true&page_size=5&symbol=A", "openOnly=true&pageSize=5&symbol=A"):
        request = translate("GET", "/api/v1/orders", query)
        assert (request.open_only, request.page_size, request.symbol) == (True, 5, "A")


def test_bodies_take_names_in_either_spelling_and_choices_by_name_or_number() -> None:
    for body in (b'{"client_order_id":"a","side":1}', b'{"clientOrderId":"a","side":"SIDE_BUY"}'):
        request = translate("POST", "/api/v1/orders", body=body)
        assert (request.client_order_id, request.side) == ("a", 1)


BAD = [
    ("GET", "/api/v1/orders", "colour=red", b"", Reason.BODY_MALFORMED),
    ("GET", "/api/v1/orders", "open_only=yes", b"", Reason.BODY_MALFORMED),
    ("GET", "/api/v1/orders", "page_size=many", b"", Reason.BODY_MALFORMED),
    ("GET", "/api/v1/orders", "page_size=99999999999", b"", Reason.BODY_MALFORMED),
    ("GET", "/api/v1/orders", "page_size=1&page_size=2", b"", Reason.FIELD_NOT_ALLOWED),
    ("GET", "/api/v1/trades", "from_time.seconds=1", b"", Reason.BODY_MALFORMED),
    ("GET", "/api/v1/trades", "from_time=2026-01-01T00:00:00Z&from_time.seconds=1", b"", Reason.BODY_MALFORMED),
    ("GET", "/api/v1/orders", "", b"{}", Reason.FIELD_NOT_ALLOWED),
    ("POST", "/api/v1/orders", "symbol=A", b"{}", Reason.FIELD_NOT_ALLOWED),
    ("POST", f"/api/v1/orders/{ID}:reduce", "", b'{"orderId":"other"}', Reason.FIELD_NOT_ALLOWED),
    ("POST", "/api/v1/orders", "", b'{"a":' * 100_000, Reason.BODY_MALFORMED),
    ("POST", "/api/v1/orders", "", b"\xff\xfe", Reason.BODY_MALFORMED),
    ("POST", "/api/v1/orders", "", b'{"side":"SIDE_BUY","side":"SIDE_SELL"}', Reason.BODY_MALFORMED),
    ("POST", "/api/v1/orders", "", b'{"price":Infinity}', Reason.BODY_MALFORMED),
    ("POST", "/api/v1/orders", "", b'{"price":1}', Reason.BODY_MALFORMED),
    ("POST", "/api/v1/orders:batch", "", b'{"orders":[{"colour":1}]}', Reason.BODY_MALFORMED),
]


@pytest.mark.parametrize(("verb", "path", "query", "body", "reason"), BAD)
def test_what_does_not_fit_is_refused(verb: str, path: str, query: str, body: bytes, reason: Reason) -> None:
    with pytest.raises(RefusedError) as refused:
        translate(verb, path, query, body)
    assert refused.value.refused.reason is reason


def test_responses_are_proto3_json_with_every_field() -> None:
    text = response_json(order_gateway_pb2.ListOrdersResponse()).decode()
    assert text == '{"orders":[],"nextPageToken":""}'


_NAMES = sorted({
    field.name
    for route in TABLE.routes
    for field in (
        *route.method.input_type.fields,
        *(inner for outer in route.method.input_type.fields if outer.message_type for inner in outer.message_type.fields),
    )
})  # fmt: skip
_PATHS = st.lists(st.sampled_from([*_NAMES, "fromTime", "colour", ""]), min_size=1, max_size=3).map(".".join)
_TEXTS = st.sampled_from(["", "1", "true", "-5", "BTC/USDT", "2026-01-01T00:00:00Z", "9" * 30, "{}", "\x00", "\ud800"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(TABLE.routes), st.lists(st.tuples(_PATHS, _TEXTS), max_size=4), _VALUES)
def test_whatever_is_asked_is_a_request_or_refused(route, query, content) -> None:
    match = Match(route, dict.fromkeys(route.variables, "x"))
    body = json.dumps(content).encode() if route.body else b""
    with contextlib.suppress(RefusedError):
        request_from(match, query, body)
