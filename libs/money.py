"""Amounts, prices and quantities: Python ints in units of 10^-8 inside, decimal strings outside. Never a float.

A symbol's price scale + quantity scale is at most 8, so price x quantity is always exact; only fees round.
"""

import re
from typing import Final

from libs.reasons import Reason, Refused, RefusedError

DECIMALS: Final = 8
UNIT: Final = 100_000_000
# NUMERIC(20,8) holds 12 digits before the point.
MAX_UNITS: Final = 99_999_999_999_999_999_999
MAX_WHOLE_DIGITS: Final = 12
BPS: Final = 10_000

_LOOKS_DECIMAL: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?", re.ASCII)


def parse_units(text: str, *, field: str) -> int:
    """Units of 10^-8 in a plain decimal string such as "0.5". May be zero.

    Raises:
        RefusedError: FIELD_REQUIRED, AMOUNT_MALFORMED (sign, exponent, blank, NaN ...), AMOUNT_TOO_PRECISE
            (more than 8 decimals) or AMOUNT_OUT_OF_RANGE (more than 12 digits before the point), naming the field.
    """
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if (
        not 1 <= len(whole) <= MAX_WHOLE_DIGITS
        or len(fraction) > DECIMALS
        or bool(point) != bool(fraction)
        or not (digits.isdigit() and digits.isascii())
    ):
        raise RefusedError(_what_is_wrong(text, field))
    return int(whole + fraction.ljust(DECIMALS, "0"))


def own_units(text: str) -> int:
    """Units of 10^-8 in a string that `format_units` or PostgreSQL made; a sum may have more digits than a user's amount."""
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(DECIMALS, "0"))


def parse_positive(text: str, *, field: str) -> int:
    """As parse_units, and above zero (else RefusedError with AMOUNT_NOT_POSITIVE)."""
    units = parse_units(text, field=field)
    if units == 0:
        raise RefusedError(Refused(Reason.AMOUNT_NOT_POSITIVE, field=field, rule="above zero"))
    return units


def parse_optional(text: str, *, field: str) -> int:
    """As parse_units; an empty text is zero."""
    return parse_units(text, field=field) if text else 0


def format_units(units: int) -> str:
    """The shortest decimal string: 50000000 -> "0.5", 0 -> "0"."""
    if units < 0:
        return "-" + format_units(-units)
    if units % UNIT == 0:
        return str(units // UNIT)
    digits = str(units).rjust(DECIMALS + 1, "0")
    return f"{digits[:-DECIMALS]}.{digits[-DECIMALS:].rstrip('0')}"


def notional_units(price_units: int, quantity_units: int) -> int:
    """Price x quantity in units of the quote asset; exact, which the symbol's scales promise.

    In two parts, because the product of both would nearly always be an int of more than 64 bits.
    """
    fraction = price_units % UNIT * quantity_units
    assert fraction % UNIT == 0, "price x quantity is exact (price scale + quantity scale <= 8)"
    return price_units // UNIT * quantity_units + fraction // UNIT


def fee_units(received_units: int, fee_bps: int) -> int:
    """Fee on what a party receives, rounded up to the unit (DESIGN: in favour of the house, never above received)."""
    return -(-received_units * fee_bps // BPS)


def _what_is_wrong(text: str, field: str) -> Refused:
    if text == "":
        return Refused(Reason.FIELD_REQUIRED, field=field)
    match = _LOOKS_DECIMAL.fullmatch(text)
    if match is None:
        return Refused(Reason.AMOUNT_MALFORMED, field=field, rule="a plain decimal number such as 0.5")
    whole, fraction = match.groups()
    if fraction is not None and len(fraction) > DECIMALS:
        return Refused(Reason.AMOUNT_TOO_PRECISE, field=field, rule=f"at most {DECIMALS} decimals")
    assert len(whole) > MAX_WHOLE_DIGITS
    return Refused(Reason.AMOUNT_OUT_OF_RANGE, field=field, rule=f"at most {MAX_WHOLE_DIGITS} digits before the point")
