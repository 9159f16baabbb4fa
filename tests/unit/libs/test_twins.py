"""Pure twins of proto enums stay equal to them."""

from pathlib import Path

import grpc
import pytest
from exchange.common.v1 import order_pb2, reason_pb2, symbol_pb2

from libs import orders
from libs.ids import new_id, parse_id, parse_text
from libs.reasons import Reason, Refused, RefusedError
from libs.rpc.errors import code_of, refused_of, status_of


def proto_values(enum, prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): number for name, number in enum.items() if number}


def test_reasons_are_those_of_the_proto() -> None:
    twins = {reason.name: reason.value for reason in Reason if reason}
    assert twins == proto_values(reason_pb2.Reason, "REASON_")


@pytest.mark.parametrize(
    ("name", "proto", "prefix"),
    [("Side", order_pb2.Side, "SIDE_"), ("OrderType", order_pb2.OrderType, "ORDER_TYPE_"),
     ("TimeInForce", order_pb2.TimeInForce, "TIME_IN_FORCE_"),
     ("Status", order_pb2.OrderStatus, "ORDER_STATUS_"), ("SelfTrade", order_pb2.SelfTrade, "SELF_TRADE_"),
     ("SymbolStatus", symbol_pb2.SymbolStatus, "SYMBOL_STATUS_")],
)  # fmt: skip
def test_choices_are_those_of_the_proto(name: str, proto, prefix: str) -> None:
    assert {item.name: item.value for item in getattr(orders, name)} == proto_values(proto, prefix)


def test_post_only_is_that_of_the_proto_and_off_where_not_given() -> None:
    twins = {item.name: item.value for item in orders.PostOnly}
    assert twins == {"OFF": 0, **proto_values(order_pb2.PostOnly, "POST_ONLY_")}


def test_the_life_of_an_order_is_told_for_every_status_and_ends() -> None:
    assert orders.NEXT.keys() == set(orders.Status)
    final = {status for status, following in orders.NEXT.items() if not following}
    assert {status.name for status in final} == {"FILLED", "CANCELLED", "REJECTED", "EXPIRED"}
    assert all(orders.Status.PENDING not in following for following in orders.NEXT.values())


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason])
def test_every_reason_has_a_status_code_and_survives_the_wire(reason: Reason) -> None:
    refused = Refused(reason, field="f", rule="r", detail={"asset": "BTC"})
    assert refused_of(status_of(refused)) == refused
    comment = next(line for line in _reason_comments()[reason.name] if line)
    code = code_of(reason)
    assert code is not grpc.StatusCode.OK
    if "Order outcome" not in comment:
        assert code.name in " ".join(_reason_comments()[reason.name]), f"{reason.name} is documented with another code"


def _reason_comments() -> dict[str, list[str]]:
    comments: dict[str, list[str]] = {}
    collected: list[str] = []
    path = Path(__file__).parents[3] / "protos" / "exchange" / "common" / "v1" / "reason.proto"
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("//"):
            collected.append(text)
        elif text.startswith("REASON_"):
            comments[text.split(" ")[0].removeprefix("REASON_")] = collected
            collected = []
        else:
            collected = []
    return comments


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert all(text[14] == "7" for text in ids)


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 36, "01890a5d-ac96-774b-bcce-b302099a805", "01890A5D-AC96-774B-BCCE-B302099A8057"]
)
def test_what_is_not_a_canonical_uuid_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        parse_id(text, field="user_id")


TEXTS = [
    ("a", True), ("a b", True), ("x" * 100, True), ("x" * 101, False), ("", False), (" a", False), ("a ", False),
    ("a\tb", False), ("\u00e9", False), ("a\n", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fine"), TEXTS)
def test_texts_are_1_to_100_printable_characters(text: str, fine: bool) -> None:
    if fine:
        assert parse_text(text, field="key") == text
    else:
        with pytest.raises(RefusedError):
            parse_text(text, field="key")
