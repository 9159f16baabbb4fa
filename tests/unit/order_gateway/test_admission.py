"""What may be placed and what it reserves; rules in the order in which they are checked."""

from dataclasses import replace

import pytest

from libs.money import UNIT, parse_units
from libs.orders import OrderType, PostOnly, Side, TimeInForce
from libs.reasons import Reason, Refused
from services.order_gateway.core.admission import (
    PLAIN,
    Filters,
    OrderRequest,
    Reservation,
    Terms,
    admit,
    admit_amend,
    difference,
    needs_reference_price,
)

NOW = 1_700_000_000_000_000_000
FILTERS = Filters("BTC/USDT", "BTC", "USDT", UNIT // 100, UNIT // 1000, UNIT // 100, 100 * UNIT, 5 * UNIT, 500)
BUY, SELL, LIMIT, MARKET, GTC, IOC = (
    Side.BUY,
    Side.SELL,
    OrderType.LIMIT,
    OrderType.MARKET,
    TimeInForce.GTC,
    TimeInForce.IOC,
)

STOP, STOP_LIMIT, TRAIL, OCO = OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP, OrderType.OCO
FOK, GTD = TimeInForce.FOK, TimeInForce.GTD


def request(side=BUY, kind=LIMIT, tif=None, *, price="0", quantity="0", quote_amount="0", **terms) -> OrderRequest:
    chosen = tif or (IOC if kind is MARKET else GTC)
    price, quantity, quote_amount = (parse_units(text, field="") for text in (price, quantity, quote_amount))
    amounts = {name: parse_units(value, field="") if isinstance(value, str) else value for name, value in terms.items()}
    return OrderRequest(
        "BTC/USDT", side, kind, chosen, price, quantity, quote_amount, Terms(**amounts) if terms else PLAIN
    )


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
    ("a stop has a stop price", request(kind=STOP, quantity="1"), Reason.FIELD_REQUIRED, "stop_price"),
    ("a stop has no price", request(kind=STOP, quantity="1", price="9", stop_price="9"), Reason.FIELD_NOT_ALLOWED, "price"),
    ("a stop-limit has a price", request(kind=STOP_LIMIT, quantity="1", stop_price="100"), Reason.FIELD_REQUIRED, "price"),
    ("a limit has no stop price", request(price="9", quantity="1", stop_price="9"), Reason.FIELD_NOT_ALLOWED, "stop_price"),
    ("a second limit is an OCO's", request(kind=STOP_LIMIT, price="99", quantity="1", stop_price="9", stop_limit_price="9"),
     Reason.FIELD_NOT_ALLOWED, "stop_limit_price"),
    ("an OCO buy's stop is above", request(kind=OCO, price="100", quantity="1", stop_price="90"), Reason.FIELD_NOT_ALLOWED,
     "stop_price"),
    ("an OCO sell's stop is below", request(SELL, OCO, price="100", quantity="1", stop_price="110"),
     Reason.FIELD_NOT_ALLOWED, "stop_price"),
    ("a trailing stop trails", request(SELL, TRAIL, quantity="1"), Reason.FIELD_REQUIRED, "trail"),
    ("... by one of two", request(SELL, TRAIL, quantity="1", trail="1", trail_bps=5), Reason.FIELD_REQUIRED, "trail"),
    ("... by less than all", request(SELL, TRAIL, quantity="1", trail_bps=10_000), Reason.AMOUNT_OUT_OF_RANGE, "trail_bps"),
    ("... and not backwards", request(SELL, TRAIL, quantity="1", trail_bps=-1), Reason.AMOUNT_OUT_OF_RANGE, "trail_bps"),
    ("only it trails", request(SELL, STOP, quantity="1", stop_price="9", trail="1"), Reason.FIELD_NOT_ALLOWED, "trail"),
    ("a stop is not IOC", request(SELL, STOP, IOC, quantity="1", stop_price="9"), Reason.FIELD_NOT_ALLOWED, "time_in_force"),
    ("an OCO is not FOK", request(SELL, OCO, FOK, price="11", quantity="1", stop_price="9"), Reason.FIELD_NOT_ALLOWED,
     "time_in_force"),
    ("FOK goes by quantity", request(BUY, MARKET, FOK, quote_amount="50"), Reason.FIELD_NOT_ALLOWED, "quote_amount"),
    ("an iceberg rests", request(tif=IOC, price="100", quantity="1", display_quantity="0.5"), Reason.FIELD_NOT_ALLOWED,
     "display_quantity"),
    ("an iceberg shows at most all", request(price="100", quantity="1", display_quantity="1.5"), Reason.QUANTITY_TOO_LARGE,
     "display_quantity"),
    ("an iceberg shows whole lots", request(price="100", quantity="1", display_quantity="0.0005"), Reason.QUANTITY_OFF_LOT,
     "display_quantity"),
    ("post-only rests", request(tif=IOC, price="100", quantity="1", post_only=PostOnly.REJECT), Reason.FIELD_NOT_ALLOWED,
     "post_only"),
    ("post-only is not for stops", request(kind=STOP, quantity="1", stop_price="100", post_only=PostOnly.REJECT),
     Reason.FIELD_NOT_ALLOWED, "post_only"),
    ("an iceberg is not a stop's", request(kind=STOP, quantity="1", stop_price="100", display_quantity="0.5"),
     Reason.FIELD_NOT_ALLOWED, "display_quantity"),
    ("one unit more than there can be", request(price="999999999999.99", quantity="1.001"), Reason.AMOUNT_OUT_OF_RANGE,
     "quantity"),
    ("GTD has an end", request(tif=GTD, price="100", quantity="1"), Reason.FIELD_REQUIRED, "expires_at"),
    ("... in the future", request(tif=GTD, price="100", quantity="1", expires_at_ns=NOW), Reason.AMOUNT_OUT_OF_RANGE,
     "expires_at"),
    ("... and nothing else has", request(price="100", quantity="1", expires_at_ns=NOW + 1), Reason.FIELD_NOT_ALLOWED,
     "expires_at"),
    ("stop off tick", request(kind=STOP, quantity="1", stop_price="100.001"), Reason.PRICE_OFF_TICK, "stop_price"),
    ("stop too small", request(kind=STOP, quantity="1", stop_price="4"), Reason.NOTIONAL_TOO_SMALL, "quantity"),
    ("no price to trail from", request(kind=TRAIL, quantity="1", trail="1"), Reason.REFERENCE_PRICE_MISSING, ""),
    ("no price to reserve at", request(kind=MARKET, quantity="1"), Reason.REFERENCE_PRICE_MISSING, ""),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "reason", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(asked: OrderRequest, reason: Reason, field: str) -> None:
    answer = admit(asked, FILTERS, 0, NOW)
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.field) == (reason, field)


ADMITTED = [
    ("a limit buy holds price x quantity", request(price="100", quantity="0.5"), "USDT", "50"),
    ("a limit sell holds its quantity", request(SELL, price="100", quantity="0.5"), "BTC", "0.5"),
    ("a market sell holds its quantity", request(SELL, MARKET, quantity="0.5"), "BTC", "0.5"),
    ("a market buy by amount holds it", request(kind=MARKET, quote_amount="50"), "USDT", "50"),
    ("a market buy by quantity holds it at the band", request(kind=MARKET, quantity="0.5"), "USDT", "52.5"),
    (
        "a stop buy holds it at the band above its stop",
        request(kind=STOP, quantity="1", stop_price="100"),
        "USDT",
        "105",
    ),
    (
        "a stop-limit buy at its limit",
        request(kind=STOP_LIMIT, price="90", quantity="1", stop_price="95"),
        "USDT",
        "90",
    ),
    ("a stop sell holds its quantity", request(SELL, STOP, quantity="1", stop_price="90"), "BTC", "1"),
    (
        "a trailing buy at the band above where it begins",
        request(kind=TRAIL, quantity="1", trail="10"),
        "USDT",
        "115.5",
    ),
    ("... also by basis points", request(kind=TRAIL, quantity="1", trail_bps=1000), "USDT", "115.5"),
    (
        "an OCO buy at its dearer half",
        request(kind=OCO, price="90", quantity="1", stop_price="110", stop_limit_price="112"),
        "USDT",
        "112",
    ),
    ("... which may be the band", request(kind=OCO, price="90", quantity="1", stop_price="110"), "USDT", "115.5"),
    ("exactly the least amount", request(kind=MARKET, quote_amount="5"), "USDT", "5"),
    ("all that there can be", request(price="999999999999.99", quantity="1"), "USDT", "999999999999.99"),
    ("an iceberg that shows all", request(price="100", quantity="1", display_quantity="1"), "USDT", "100"),
    ("exactly the minimum", request(price="500", quantity="0.01"), "USDT", "5"),
    ("exactly the maximum", request(price="1", quantity="100"), "USDT", "100"),
]


@pytest.mark.parametrize(("asked", "asset", "amount"), [row[1:] for row in ADMITTED], ids=[row[0] for row in ADMITTED])
def test_admitted(asked: OrderRequest, asset: str, amount: str) -> None:
    assert admit(asked, FILTERS, 100 * UNIT, NOW) == Reservation(asset, parse_units(amount, field=""))


def test_the_band_is_rounded_up_to_a_tick() -> None:
    held = admit(request(kind=MARKET, quantity="1"), FILTERS, parse_units("0.33", field=""), NOW)
    assert held == Reservation("USDT", parse_units("0.35", field=""))


def test_only_market_buys_by_quantity_need_a_reference_price() -> None:
    assert needs_reference_price(request(kind=MARKET, quantity="1"))
    assert not needs_reference_price(request(kind=MARKET, quote_amount="1"))
    assert not needs_reference_price(request(SELL, MARKET, quantity="1"))
    assert not needs_reference_price(request(price="1", quantity="1"))


# name, before, changed, filled, how much more is held
AMENDED = [
    ("more of it", request(price="100", quantity="1"), request(price="100", quantity="1.5"), "0", "50"),
    ("dearer", request(price="100", quantity="1"), request(price="110", quantity="1"), "0", "10"),
    ("dearer, half of it filled", request(price="100", quantity="1"), request(price="110", quantity="1"), "0.5", "5"),
    ("less of it", request(price="100", quantity="1"), request(price="100", quantity="0.5"), "0", "0"),
    ("cheaper, and more of it", request(price="100", quantity="1"), request(price="50", quantity="3"), "0", "50"),
    ("no more than is filled", request(price="100", quantity="1"), request(price="200", quantity="0.5"), "0.5", "0"),
    ("a sell of more", request(SELL, price="100", quantity="1"), request(SELL, price="90", quantity="1.5"), "0.2", "0.5"),
    ("a sell at another price", request(SELL, price="100", quantity="1"), request(SELL, price="90", quantity="1"), "0", "0"),
    ("a dearer stop", request(kind=STOP, quantity="1", stop_price="100"), request(kind=STOP, quantity="1", stop_price="120"),
     "0", "21"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "changed", "filled", "more"), [row[1:] for row in AMENDED], ids=[row[0] for row in AMENDED]
)
def test_what_a_change_holds_beyond_what_was_held(before, changed, filled: str, more: str) -> None:
    held = admit_amend(
        changed, before, filled=parse_units(filled, field=""), filters=FILTERS, reference_price=100 * UNIT, now_ns=NOW
    )
    assert held == parse_units(more, field="")


def test_a_change_must_be_an_order_that_could_be_placed() -> None:
    before, changed = request(price="100", quantity="1"), request(price="100.001", quantity="1")
    refused = admit_amend(changed, before, filled=0, filters=FILTERS, reference_price=0, now_ns=NOW)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.field) == (Reason.PRICE_OFF_TICK, "price")


def test_the_times_that_there_are_for_a_kind_are_named() -> None:
    refused = admit(request(kind=MARKET, tif=GTC, quantity="1"), FILTERS, 0, NOW)
    assert isinstance(refused, Refused)
    assert refused.rule == "a MARKET order is one of IOC, FOK"


def test_how_far_an_order_may_trail_is_told() -> None:
    refused = admit(request(SELL, TRAIL, quantity="1", trail_bps=10_000), FILTERS, 0, NOW)
    assert isinstance(refused, Refused)
    assert refused.rule == "1 to 9999"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbol", "ETH/USDT"), ("side", SELL), ("type", STOP), ("time_in_force", IOC), ("price", 1), ("quantity", 1),
        ("quote_amount", 1),
    ],
)  # fmt: skip
def test_every_field_of_an_order_makes_a_difference(field: str, value: object) -> None:
    one = request(price="100", quantity="1")
    assert difference(replace(one, **{field: value}), one) == field


@pytest.mark.parametrize("field", ["stop_price", "stop_limit_price", "trail", "trail_bps", "display_quantity"])
def test_every_term_of_an_order_makes_a_difference(field: str) -> None:
    one = request(price="100", quantity="1", stop_price="100")
    assert difference(replace(one, terms=replace(one.terms, **{field: 1})), one) == field


def test_a_difference_is_named() -> None:
    one = request(price="100", quantity="1")
    assert difference(one, request(price="100", quantity="1")) == ""
    assert difference(one, request(price="101", quantity="1")) == "price"
    assert difference(one, request(SELL, price="100", quantity="1")) == "side"
    assert difference(one, request(price="100", quantity="1", post_only=PostOnly.REJECT)) == "post_only"
    assert difference(one, request(price="100", quantity="1", expires_at_ns=5)) == "expires_at"


COARSER = replace(FILTERS, tick=UNIT, lot=UNIT, min_quantity=UNIT, max_quantity=2 * UNIT)


@pytest.mark.parametrize(
    ("why", "before", "changed", "expected"),
    [
        ("its price stays", {"price": "100.5", "quantity": "2"}, {"quantity": "1"}, 0),
        ("its quantity stays", {"price": "100.5", "quantity": "1.5"}, {"price": "101"}, 75_000_000),
        ("a new price", {"price": "100", "quantity": "1"}, {"price": "100.5"}, Reason.PRICE_OFF_TICK),
        ("a new quantity", {"price": "100", "quantity": "1"}, {"quantity": "1.5"}, Reason.QUANTITY_OFF_LOT),
        ("one that is too large", {"price": "100", "quantity": "5"}, {"quantity": "4"}, Reason.QUANTITY_TOO_LARGE),
        ("too little is left", {"price": "2", "quantity": "5"}, {"quantity": "2"}, Reason.NOTIONAL_TOO_SMALL),
    ],
)
def test_what_a_change_leaves_as_it_is_need_not_go_with_newer_filters(
    why: str, before: dict[str, str], changed: dict[str, str], expected: int | Reason
) -> None:
    old, new = request(**before), request(**{**before, **changed})
    found = admit_amend(new, old, filled=0, filters=COARSER, reference_price=0, now_ns=NOW)
    assert (found.reason if isinstance(found, Refused) else found) == expected, why
