import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.money import (
    MAX_UNITS,
    UNIT,
    fee_units,
    format_units,
    notional_units,
    own_units,
    parse_optional,
    parse_positive,
    parse_units,
)
from libs.reasons import Reason, RefusedError

# With whole ones, and ones with few decimals, which hardly any number in the range is.
AMOUNTS = st.one_of(
    st.integers(0, MAX_UNITS),
    st.builds(lambda number, zeros: min(number * 10**zeros, MAX_UNITS), st.integers(0, 10**9), st.integers(1, 11)),
)
BAD = [
    ("", Reason.FIELD_REQUIRED), ("-1", Reason.AMOUNT_MALFORMED), ("+1", Reason.AMOUNT_MALFORMED),
    ("1e3", Reason.AMOUNT_MALFORMED), ("NaN", Reason.AMOUNT_MALFORMED), ("inf", Reason.AMOUNT_MALFORMED),
    (" 1", Reason.AMOUNT_MALFORMED), ("1\n", Reason.AMOUNT_MALFORMED), (".5", Reason.AMOUNT_MALFORMED),
    ("5.", Reason.AMOUNT_MALFORMED), ("1_000", Reason.AMOUNT_MALFORMED), ("\u0661", Reason.AMOUNT_MALFORMED),
    ("0.000000001", Reason.AMOUNT_TOO_PRECISE), ("1234567890123", Reason.AMOUNT_OUT_OF_RANGE),
    ("1234567890123.00000001", Reason.AMOUNT_OUT_OF_RANGE),
    ("0000000000001", Reason.AMOUNT_OUT_OF_RANGE),
]  # fmt: skip
GOOD = [
    ("0", 0),
    ("0.00000001", 1),
    ("1", 10**8),
    ("0.5", 5 * 10**7),
    ("999999999999.99999999", MAX_UNITS),
    ("007", 7 * 10**8),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_what_is_not_a_plain_decimal_is_refused(text: str, reason: Reason) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_units(text, field="price")
    assert (refused.value.refused.reason, refused.value.refused.field) == (reason, "price")


@pytest.mark.parametrize(("text", "units"), GOOD)
def test_plain_decimals_become_units(text: str, units: int) -> None:
    assert parse_units(text, field="") == units


def test_zero_is_not_positive() -> None:
    with pytest.raises(RefusedError, match="AMOUNT_NOT_POSITIVE"):
        parse_positive("0.0", field="price")


@given(
    st.one_of(
        st.text("0123456789.-+_e \n\u00b2\u0661", max_size=24),
        st.from_regex(r"[0-9]{0,13}\.?[0-9]{0,9}", fullmatch=True),
    )
)
def test_an_amount_is_up_to_12_digits_and_up_to_8_after_a_point(text: str) -> None:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,8})?", text):
        assert parse_units(text, field="price") == int(Decimal(text) * 10**8)
    else:
        with pytest.raises(RefusedError):
            parse_units(text, field="price")


@given(AMOUNTS)
def test_the_text_is_the_shortest(units: int) -> None:
    assert format_units(units) == f"{Decimal(units).scaleb(-8).normalize():f}"


@given(AMOUNTS)
def test_texts_and_units_go_there_and_back(units: int) -> None:
    assert parse_units(format_units(units), field="") == units
    assert [own_units(format_units(signed)) for signed in (units, -units)] == [units, -units]
    assert own_units(f"-{Decimal(units).scaleb(-8):.8f}") == -units, "as PostgreSQL writes it"
    assert format_units(-units) == ("-" if units else "") + format_units(units)


@given(AMOUNTS, st.integers(0, 10_000))
def test_a_fee_is_rounded_up_and_never_above_what_is_received(received: int, bps: int) -> None:
    fee = fee_units(received, bps)
    assert 0 <= fee <= received
    assert received * bps <= fee * 10_000 < received * bps + 10_000


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 8))
def test_a_notional_is_the_exact_product(price: int, quantity: int, decimals: int) -> None:
    price, quantity = price * 10 ** (8 - decimals), quantity * 10**decimals
    assert notional_units(price, quantity) * UNIT == price * quantity


def test_an_amount_that_may_be_left_out_is_nothing() -> None:
    assert parse_optional("", field="price") == 0
    assert parse_optional("0.5", field="price") == UNIT // 2
    with pytest.raises(RefusedError):
        parse_optional(" ", field="price")


def test_a_notional_that_is_not_exact_is_a_fault_of_ours() -> None:
    assert notional_units(10**8, 3) == 3
    with pytest.raises(AssertionError):
        notional_units(1, 1)
