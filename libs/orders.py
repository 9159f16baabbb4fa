"""The closed choices of an order, pure twins of the proto enums (kept equal by a test), and how symbols are written."""

from enum import IntEnum


class Side(IntEnum):
    """Seen from the order's owner."""

    BUY = 1
    SELL = 2


class OrderType(IntEnum):
    """How an order's price is found."""

    LIMIT = 1
    MARKET = 2


class TimeInForce(IntEnum):
    """How long what cannot trade at once stays: good till cancelled, immediate or cancel."""

    GTC = 1
    IOC = 2


class Status(IntEnum):
    """Where an order stands in its life."""

    PENDING = 1
    OPEN = 2
    PARTIALLY_FILLED = 3
    FILLED = 4
    CANCELLED = 5
    REJECTED = 6
    EXPIRED = 7


LIVE = frozenset({Status.OPEN, Status.PARTIALLY_FILLED})
_FINAL: frozenset[Status] = frozenset()
NEXT = {
    Status.PENDING: frozenset(Status) - {Status.PENDING},
    Status.OPEN: frozenset({*LIVE, Status.FILLED, Status.CANCELLED, Status.EXPIRED}),
    Status.PARTIALLY_FILLED: frozenset({Status.PARTIALLY_FILLED, Status.FILLED, Status.CANCELLED, Status.EXPIRED}),
    Status.FILLED: _FINAL,
    Status.CANCELLED: _FINAL,
    Status.REJECTED: _FINAL,
    Status.EXPIRED: _FINAL,
}


def symbol_name(text: str) -> str:
    """A symbol's name; where a slash is awkward, as in a path, it may stand as BTC-USDT."""
    return text.replace("-", "/")
