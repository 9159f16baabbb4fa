"""The closed choices of an order, pure twins of the proto enums (kept equal by a test), and how symbols are written."""

from enum import IntEnum


class Choice(IntEnum):
    """A closed choice. Hashed as the number it is: Enum's own hash is Python code, which sets and dicts here would feel."""

    __hash__ = int.__hash__


class Side(Choice):
    """Seen from the order's owner."""

    BUY = 1
    SELL = 2


class OrderType(Choice):
    """How an order's price is found."""

    LIMIT = 1
    MARKET = 2
    STOP = 3
    STOP_LIMIT = 4
    TRAILING_STOP = 5
    OCO = 6


class TimeInForce(Choice):
    """How long what cannot trade at once stays.

    Good till cancelled, immediate or cancel, fill or kill, till midnight UTC, good till date.
    """

    GTC = 1
    IOC = 2
    FOK = 3
    DAY = 4
    GTD = 5


class PostOnly(Choice):
    """What becomes of an order that must not take, where it would: nothing special, refused, one tick away."""

    OFF = 0
    REJECT = 1
    REPRICE = 2


class SelfTrade(Choice):
    """What becomes of two orders of one owner that would trade: decided by the incoming one."""

    CANCEL_NEWEST = 1
    CANCEL_OLDEST = 2
    CANCEL_BOTH = 3
    DECREMENT = 4


class SymbolStatus(Choice):
    """What may be done in a market: everything, only cancels, nothing, nothing any more."""

    ACTIVE = 1
    HALTED = 2
    MAINTENANCE = 3
    DELISTED = 4


class Status(Choice):
    """Where an order stands in its life."""

    PENDING = 1
    OPEN = 2
    PARTIALLY_FILLED = 3
    FILLED = 4
    CANCELLED = 5
    REJECTED = 6
    EXPIRED = 7


LIVE = frozenset({Status.OPEN, Status.PARTIALLY_FILLED})
FINAL = frozenset({Status.FILLED, Status.CANCELLED, Status.REJECTED, Status.EXPIRED})
_NOTHING: frozenset[Status] = frozenset()
NEXT = {
    Status.PENDING: frozenset(Status) - {Status.PENDING},
    Status.OPEN: frozenset({*LIVE, Status.FILLED, Status.CANCELLED, Status.EXPIRED}),
    Status.PARTIALLY_FILLED: frozenset({Status.PARTIALLY_FILLED, Status.FILLED, Status.CANCELLED, Status.EXPIRED}),
    Status.FILLED: _NOTHING,
    Status.CANCELLED: _NOTHING,
    Status.REJECTED: _NOTHING,
    Status.EXPIRED: _NOTHING,
}


def symbol_name(text: str) -> str:
    """A symbol's name; where a slash is awkward, as in a path, it may stand as BTC-USDT."""
    return text.replace("-", "/")
