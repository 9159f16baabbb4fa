"""Why something was refused: the pure twin of the proto enum `exchange.common.v1.Reason`, kept equal by a test.

Pure cores return `Refused` values; where a refusal must cross call frames it travels as `RefusedError`.
"""

import dataclasses
from enum import IntEnum


class Reason(IntEnum):
    """Machine-readable cause; the meaning of each stands in protos/exchange/common/v1/reason.proto and docs/errors.md."""

    NONE = 0
    FIELD_REQUIRED = 1
    FIELD_NOT_ALLOWED = 2
    AMOUNT_MALFORMED = 3
    AMOUNT_NOT_POSITIVE = 4
    AMOUNT_TOO_PRECISE = 5
    AMOUNT_OUT_OF_RANGE = 6
    ID_MALFORMED = 7
    TEXT_MALFORMED = 8
    CHOICE_UNKNOWN = 9
    SYMBOL_UNKNOWN = 10
    ASSET_UNKNOWN = 11
    PRICE_OFF_TICK = 12
    QUANTITY_OFF_LOT = 13
    QUANTITY_TOO_SMALL = 14
    QUANTITY_TOO_LARGE = 15
    NOTIONAL_TOO_SMALL = 16
    BATCH_EMPTY = 17
    BATCH_TOO_LARGE = 18
    KEY_DUPLICATE_IN_BATCH = 19
    SAME_USER = 20
    FEE_TOO_LARGE = 21
    FEE_ASSET_MISMATCH = 22
    PAGE_INVALID = 23
    BODY_MALFORMED = 24
    ASSET_MISMATCH = 25
    INSUFFICIENT_BALANCE = 40
    RESERVATION_EXHAUSTED = 41
    RESERVATION_CLOSED = 42
    ORDER_CLOSED = 43
    REFERENCE_PRICE_MISSING = 44
    AMEND_NOT_REDUCING = 45
    WITHDRAWAL_CLOSED = 46
    AMEND_UNDER_WAY = 47
    API_KEYS_OFF = 48
    TOO_MANY_API_KEYS = 49
    TOO_MANY_CHANGES = 50
    ORDER_NOT_FOUND = 60
    RESERVATION_NOT_FOUND = 61
    ROUTE_NOT_FOUND = 62
    KEY_REUSED = 63
    UNAUTHENTICATED = 64
    SCOPE_MISSING = 65
    OTHER_USER = 66
    RATE_LIMITED = 67
    OVERLOADED = 68
    TOO_MANY_SUBSCRIBERS = 69
    DEPENDENCY_UNAVAILABLE = 70
    OUTCOME_UNKNOWN = 71
    INTERNAL = 72
    WITHDRAWAL_NOT_FOUND = 73
    API_KEY_NOT_FOUND = 74
    CANCELLED_BY_USER = 80
    IOC_REMAINDER = 81
    MARKET_REMAINDER = 82
    SELF_TRADE_PREVENTED = 83
    GIVEN_UP = 84
    TOO_LATE = 85
    BOOK_FULL = 86
    SYMBOL_NOT_TRADING = 87
    TIME_OVER = 88
    FOK_UNFILLABLE = 89
    POST_ONLY_WOULD_TRADE = 90
    PRICE_OUTSIDE_BAND = 91
    TOO_MANY_OPEN_ORDERS = 92
    MARKET_BAND = 93


# What a repeat of the same request may cure.
PASSING = frozenset({Reason.DEPENDENCY_UNAVAILABLE, Reason.OUTCOME_UNKNOWN, Reason.OVERLOADED})


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A valid or invalid request that was not done: why, about which field, under which rule. Nothing has changed."""

    reason: Reason
    field: str = ""
    rule: str = ""
    detail: dict[str, str] = dataclasses.field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """What google.rpc.ErrorInfo.metadata carries."""
        named = {"field": self.field, "rule": self.rule}
        return {key: value for key, value in {**named, **self.detail}.items() if value}

    def __str__(self) -> str:
        """One line for a person: REASON field=... rule=..."""
        return " ".join([self.reason.name, *(f"{key}={value}" for key, value in self.metadata().items())])


class RefusedError(Exception):
    """A refusal on its way up to the one place that translates it into an answer."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused = refused


def away(dependency: str) -> Refused:
    """What has to be asked does not answer; ask again."""
    return Refused(Reason.DEPENDENCY_UNAVAILABLE, detail={"dependency": dependency})


def symbol_unknown(symbol: str) -> Refused:
    """There is no such market."""
    return Refused(Reason.SYMBOL_UNKNOWN, field="symbol", detail={"symbol": symbol[:40]})
