"""What an operator may make of a market: every filter up to its edge, and not one step beyond."""

from typing import Any

import pytest
from exchange.common.v1 import symbol_pb2

from libs.orders import SymbolStatus
from libs.reasons import Reason, RefusedError
from services.matcher.wire import checked_symbol


def symbol(**changes: Any) -> symbol_pb2.Symbol:
    usual = {
        "symbol": "AB/CD", "base_asset": "AB", "quote_asset": "CD", "tick_size": "0.01", "lot_size": "0.001",
        "min_quantity": "0.01", "max_quantity": "100", "min_notional": "5", "maker_fee_bps": 10, "taker_fee_bps": 20,
        "market_band_bps": 500, "price_band_bps": 1000, "max_open_orders": 200,
    }  # fmt: skip
    return symbol_pb2.Symbol(**usual | changes)


EDGES = [
    {}, {"status": SymbolStatus.ACTIVE}, {"status": SymbolStatus.DELISTED}, {"min_quantity": "100"}, {"min_notional": "0"},
    {"maker_fee_bps": 0}, {"maker_fee_bps": 1000}, {"taker_fee_bps": 0}, {"taker_fee_bps": 1000}, {"market_band_bps": 1},
    {"market_band_bps": 10_000}, {"price_band_bps": 0}, {"price_band_bps": 100_000}, {"max_open_orders": 0},
    {"max_open_orders": 1_000_000}, {"tick_size": "0.00001", "lot_size": "0.001"},
]  # fmt: skip
BEYOND = [
    ({"symbol": "ABCD"}, Reason.FIELD_NOT_ALLOWED, "symbol"),
    ({"symbol": "CD/AB"}, Reason.FIELD_NOT_ALLOWED, "symbol"),
    ({"symbol": "AB/AB", "quote_asset": "AB"}, Reason.FIELD_NOT_ALLOWED, "symbol"),
    ({"symbol": "ab/CD", "base_asset": "ab"}, Reason.TEXT_MALFORMED, "base_asset"),
    ({"symbol": "AB/C", "quote_asset": "C"}, Reason.TEXT_MALFORMED, "quote_asset"),
    ({"status": 99}, Reason.CHOICE_UNKNOWN, "status"),
    ({"tick_size": "0"}, Reason.AMOUNT_NOT_POSITIVE, "tick_size"),
    ({"lot_size": ""}, Reason.FIELD_REQUIRED, "lot_size"),
    ({"tick_size": "0.000001", "lot_size": "0.001"}, Reason.AMOUNT_TOO_PRECISE, "tick_size"),
    ({"min_quantity": "100.001"}, Reason.AMOUNT_OUT_OF_RANGE, "max_quantity"),
    ({"maker_fee_bps": 1001}, Reason.AMOUNT_OUT_OF_RANGE, "maker_fee_bps"),
    ({"maker_fee_bps": -1}, Reason.AMOUNT_OUT_OF_RANGE, "maker_fee_bps"),
    ({"taker_fee_bps": 1001}, Reason.AMOUNT_OUT_OF_RANGE, "taker_fee_bps"),
    ({"market_band_bps": 0}, Reason.AMOUNT_OUT_OF_RANGE, "market_band_bps"),
    ({"market_band_bps": 10_001}, Reason.AMOUNT_OUT_OF_RANGE, "market_band_bps"),
    ({"price_band_bps": 100_001}, Reason.AMOUNT_OUT_OF_RANGE, "price_band_bps"),
    ({"max_open_orders": 1_000_001}, Reason.AMOUNT_OUT_OF_RANGE, "max_open_orders"),
]


@pytest.mark.parametrize("changes", EDGES, ids=str)
def test_a_filter_up_to_its_edge(changes: dict[str, Any]) -> None:
    checked = checked_symbol(symbol(**changes))
    assert checked.status is SymbolStatus(changes.get("status", SymbolStatus.ACTIVE))


@pytest.mark.parametrize(("changes", "reason", "field"), BEYOND, ids=str)
def test_beyond_its_edge_a_filter_is_refused_by_name(changes: dict[str, Any], reason: Reason, field: str) -> None:
    with pytest.raises(RefusedError) as refused:
        checked_symbol(symbol(**changes))
    assert (refused.value.refused.reason, refused.value.refused.field) == (reason, f"symbol.{field}")
