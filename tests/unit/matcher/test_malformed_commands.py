"""Which fields of an order go together, at the matcher's own door: what the gateway would never send is refused by name."""

from typing import Any

import pytest
from exchange.matcher.v1 import command_pb2

from libs.ids import new_id
from libs.orders import OrderType, PostOnly, Side, TimeInForce
from libs.reasons import Reason, RefusedError
from services.matcher.wire import command_from

LIMIT, MARKET, STOP, STOP_LIMIT, TRAILING, OCO = (
    {"type": OrderType.LIMIT},
    {"type": OrderType.MARKET, "time_in_force": TimeInForce.IOC, "price": ""},
    {"type": OrderType.STOP, "price": "", "stop_price": "9"},
    {"type": OrderType.STOP_LIMIT, "stop_price": "9"},
    {"type": OrderType.TRAILING_STOP, "price": "", "trail": "1"},
    {"type": OrderType.OCO, "stop_price": "11"},
)
IOC, FOK, GTD = ({"time_in_force": time} for time in (TimeInForce.IOC, TimeInForce.FOK, TimeInForce.GTD))
BY_AMOUNT = {**MARKET, "quantity": ""}


def order(**changes: Any) -> command_pb2.Command:
    usual = {
        "order_id": new_id(), "user_id": new_id(), "symbol": "BTC/USDT", "side": Side.BUY, "type": OrderType.LIMIT,
        "time_in_force": TimeInForce.GTC, "price": "10", "quantity": "1", "reserved": "10",
    }  # fmt: skip
    return command_pb2.Command(new_order=command_pb2.NewOrder(**usual | changes))


WELL = [
    LIMIT, LIMIT | IOC, LIMIT | GTD | {"expires_at_ns": 1}, LIMIT | {"display_quantity": "0.5"},
    LIMIT | {"post_only": PostOnly.REPRICE}, MARKET, MARKET | FOK, BY_AMOUNT, STOP, STOP | FOK, STOP_LIMIT,
    STOP_LIMIT | {"display_quantity": "0.5"}, TRAILING, TRAILING | {"trail": "", "trail_bps": 9999}, OCO,
    OCO | {"stop_limit_price": "12"}, OCO | {"post_only": PostOnly.REJECT, "display_quantity": "0.5"},
]  # fmt: skip
NOT_ALLOWED = [
    (LIMIT | {"stop_price": "9"}, "stop_price"),
    (LIMIT | {"stop_limit_price": "9"}, "stop_limit_price"),
    (STOP_LIMIT | {"stop_limit_price": "9"}, "stop_limit_price"),
    (MARKET | {"price": "10"}, "price"),
    (STOP | {"price": "10"}, "price"),
    (LIMIT | {"trail": "1"}, "trail"),
    (LIMIT | {"trail_bps": 5}, "trail"),
    (TRAILING | {"trail": ""}, "trail"),
    (TRAILING | {"trail_bps": 5}, "trail_bps"),
    (TRAILING | {"trail": "", "trail_bps": 10_000}, "trail_bps"),
    (TRAILING | {"trail": "", "trail_bps": -1}, "trail_bps"),
    (LIMIT | IOC | {"display_quantity": "0.5"}, "display_quantity"),
    (LIMIT | FOK | {"display_quantity": "0.5"}, "display_quantity"),
    (MARKET | {"display_quantity": "0.5"}, "display_quantity"),
    (STOP | {"display_quantity": "0.5"}, "display_quantity"),
    (LIMIT | IOC | {"post_only": PostOnly.REJECT}, "post_only"),
    (STOP_LIMIT | {"post_only": PostOnly.REJECT}, "post_only"),
    (OCO | IOC, "time_in_force"),
    (OCO | FOK, "time_in_force"),
    (BY_AMOUNT | FOK, "time_in_force"),
    (LIMIT | GTD, "expires_at_ns"),
    (LIMIT | {"expires_at_ns": 1}, "expires_at_ns"),
    (LIMIT | GTD | {"expires_at_ns": -1}, "expires_at_ns"),
]
REFUSED = [
    (LIMIT | {"price": ""}, Reason.FIELD_REQUIRED, "price"),
    (LIMIT | {"quantity": ""}, Reason.FIELD_REQUIRED, "quantity"),
    (BY_AMOUNT | {"side": Side.SELL}, Reason.FIELD_REQUIRED, "quantity"),
    (STOP | {"stop_price": ""}, Reason.FIELD_REQUIRED, "stop_price"),
    (LIMIT | {"reserved": "0"}, Reason.AMOUNT_NOT_POSITIVE, "reserved"),
    (LIMIT | {"side": 0}, Reason.CHOICE_UNKNOWN, "side, type or time_in_force"),
    (LIMIT | {"type": 99}, Reason.CHOICE_UNKNOWN, "side, type or time_in_force"),
    (LIMIT | {"order_id": "x"}, Reason.ID_MALFORMED, "order_id"),
    (LIMIT | {"session": "x" * 101}, Reason.TEXT_MALFORMED, "session"),
    *((fields, Reason.FIELD_NOT_ALLOWED, name) for fields, name in NOT_ALLOWED),
]


@pytest.mark.parametrize("fields", WELL, ids=str)
def test_what_goes_together_is_taken(fields: dict[str, Any]) -> None:
    assert command_from(order(**fields)).quantity == (0 if fields is BY_AMOUNT else 10**8)  # type: ignore[union-attr]


@pytest.mark.parametrize(("fields", "reason", "name"), REFUSED, ids=str)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], reason: Reason, name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        command_from(order(**fields))
    assert (refused.value.refused.reason, refused.value.refused.field) == (reason, name)


def test_a_command_of_no_kind_is_refused() -> None:
    with pytest.raises(RefusedError, match="FIELD_REQUIRED field=command"):
        command_from(command_pb2.Command())


@pytest.mark.parametrize("symbol", ["", "\x00", "X" * 101, "BTC/\u00dcSDT", " "])
def test_a_tombstone_names_what_can_be_told_to_the_bus(symbol: str) -> None:
    """It is told whether or not there is such a market: a name that no broker takes would be tried again for ever."""
    tombstone = command_pb2.Tombstone(order_id=new_id(), user_id=new_id(), symbol=symbol)
    with pytest.raises(RefusedError) as refused:
        command_from(command_pb2.Command(tombstone=tombstone))
    assert refused.value.refused.field == "symbol"
