"""How many may listen at once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from prometheus_client import Gauge

from libs.reasons import Reason, Refused, RefusedError


class Seats:
    """A limit on subscribers, shown by a gauge."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self._limit = limit
        self._gauge = gauge
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a seat for as long as this lasts. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        if self._taken >= self._limit:
            raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=f"at most {self._limit}"))
        self._taken += 1
        self._gauge.set(self._taken)
        try:
            yield
        finally:
            self._taken -= 1
            self._gauge.set(self._taken)


class HolderSeats:
    """A limit for each holder, such as a user or an address; `of` says of what, to who is refused."""

    def __init__(self, each: int, *, of: str) -> None:
        self._each = each
        self._of = of
        self._held: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many all holders have together."""
        return self._held.total()

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """Count one more of a holder's for as long as this lasts. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        if self._held[holder] >= self._each:
            raise RefusedError(Refused(Reason.TOO_MANY_SUBSCRIBERS, rule=f"at most {self._each} {self._of}"))
        self._held[holder] += 1
        try:
            yield
        finally:
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]


S = TypeVar("S")


class Audience(Generic[S]):
    """Subscribers by user, as many in all as there are seats."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self._seats = Seats(limit, gauge)
        self.by_user: dict[str, set[S]] = {}

    @contextmanager
    def joined(self, user_id: str, subscriber: S) -> Iterator[S]:
        """Have it among the user's for as long as this lasts. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        with self._seats.one():
            self.by_user.setdefault(user_id, set()).add(subscriber)
            try:
                yield subscriber
            finally:
                remaining = self.by_user[user_id]
                remaining.discard(subscriber)
                if not remaining:
                    del self.by_user[user_id]
