"""What may be placed and what it reserves; rules in the order in which they are checked."""

import pytest

from libs.money import UNIT, parse_units
from libs.orders import OrderType, Side, TimeInForce
from libs.reasons import Reason, Refused
from services.order_gateway.core.admission import (
    Filters,
    OrderRequest,
    Reservation,
    admit,
    difference,
    needs_reference_price,
)

FILTERS = Filters("BTC/USDT", "BTC", "USDT", UNIT // 100, UNIT // 1000, UNIT // 100, 100 * UNIT, 5 * UNIT, 500)
BUY, SELL, LIMIT, MARKET, GTC, IOC = (
    Side.BUY,
    Side.SELL,
    OrderType.LIMIT,
    OrderType.MARKET,
    TimeInForce.GTC,
    TimeInForce.IOC,
)


def request(side=BUY, kind=LIMIT, tif=None, *, price="0", quantity="0", quote_amount="0") -> OrderRequest:
    chosen = tif or (GTC if kind is LIMIT else IOC)
    price, quantity, quote_amount = (parse_units(text, field="") for text in (price, quantity, quote_amount))
    return OrderRequest("BTC/USDT", side, kind, chosen, price, quantity, quote_amount)


REFUSED = [
    ("a limit order has a price", request(quantity="1"), Reason.FIELD_REQUIRED, "price"),
    ("a limit order has no quote amount", request(price="100", quote_amount="50"), Reason.FIELD_NOT_ALLOWED, "quote_amount"),
    ("a market order has no price", request(kind=MARKET, price="1", quantity="1"), Reason.FIELD_NOT_ALLOWED, "price"),
    ("a market order does not rest", request(BUY, MARKET, GTC, quantity="1"), Reason.FIELD_NOT_ALLOWED, "time_in_force"),
    ("a market sell has no quote amount", request(SELL, MARKET, quote_amount="9"), Reason.FIELD_NOT_ALLOWED, "quote_amount"),
    ("one of quantity and quote amount", request(kind=MARKET, quantity="1", quote_amount="9"), Reason.FIELD_NOT_ALLOWED,
     "quote_amount"),
    ("at least one of them", request(kind=MARKET), Reason.FIELD_REQUIRED, "quantity"),
    ("off tick", request(price="100.001", quantity="1"), Reason.PRICE_OFF_TICK, "price"),
    ("off lot", request(price="100", quantity="1.0001"), Reason.QUANTITY_OFF_LOT, "quantity"),
    ("below the minimum", request(price="1000", quantity="0.009"), Reason.QUANTITY_TOO_SMALL, "quantity"),
    ("above the maximum", request(price="1000", quantity="100.001"), Reason.QUANTITY_TOO_LARGE, "quantity"),
    ("notional too small", request(price="4.99", quantity="1"), Reason.NOTIONAL_TOO_SMALL, "quantity"),
    ("quote amount too small", request(kind=MARKET, quote_amount="4.99"), Reason.NOTIONAL_TOO_SMALL, "quote_amount"),
    ("too much money", request(price="999999999999", quantity="2"), Reason.AMOUNT_OUT_OF_RANGE, "quantity"),
    ("no price to reserve at", request(kind=MARKET, quantity="1"), Reason.REFERENCE_PRICE_MISSING, ""),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "reason", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(asked: OrderRequest, reason: Reason, field: str) -> None:
    answer = admit(asked, FILTERS, 0)
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.field) == (reason, field)


ADMITTED = [
    ("a limit buy holds price x quantity", request(price="100", quantity="0.5"), "USDT", "50"),
    ("a limit sell holds its quantity", request(SELL, price="100", quantity="0.5"), "BTC", "0.5"),
    ("a market sell holds its quantity", request(SELL, MARKET, quantity="0.5"), "BTC", "0.5"),
    ("a market buy by amount holds it", request(kind=MARKET, quote_amount="50"), "USDT", "50"),
    ("a market buy by quantity holds it at the band", request(kind=MARKET, quantity="0.5"), "USDT", "52.5"),
    ("exactly the minimum", request(price="500", quantity="0.01"), "USDT", "5"),
    ("exactly the maximum", request(price="1", quantity="100"), "USDT", "100"),
]


@pytest.mark.parametrize(("asked", "asset", "amount"), [row[1:] for row in ADMITTED], ids=[row[0] for row in ADMITTED])
def test_admitted(asked: OrderRequest, asset: str, amount: str) -> None:
    assert admit(asked, FILTERS, 100 * UNIT) == Reservation(asset, parse_units(amount, field=""))


def test_the_band_is_rounded_up_to_a_tick() -> None:
    held = admit(request(kind=MARKET, quantity="1"), FILTERS, parse_units("0.33", field=""))
    assert held == Reservation("USDT", parse_units("0.35", field=""))


def test_only_market_buys_by_quantity_need_a_reference_price() -> None:
    assert needs_reference_price(request(kind=MARKET, quantity="1"))
    assert not needs_reference_price(request(kind=MARKET, quote_amount="1"))
    assert not needs_reference_price(request(SELL, MARKET, quantity="1"))
    assert not needs_reference_price(request(price="1", quantity="1"))


def test_a_difference_is_named() -> None:
    one = request(price="100", quantity="1")
    assert difference(one, request(price="100", quantity="1")) == ""
    assert difference(one, request(price="101", quantity="1")) == "price"
    assert difference(one, request(SELL, price="100", quantity="1")) == "side"
