"""One symbol's book: price-time priority, as ints only.

The orders of a level stand in a queue: each knows its neighbours, so that any can be taken out at once and nothing is looked
up. The prices of a side stand in a sorted list with the best at its end, so that taking the best level is a pop and a new
order near the best moves little.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Final

from mypy_extensions import mypyc_attr

from libs.orders import Side
from services.matcher.core.choices import BUY
from services.matcher.core.orders import Order

NO_PRICE: Final = 0


class Prices:
    """Prices of one side, sorted. `best` is the highest, or the lowest; NO_PRICE where there is none."""

    __slots__ = ("_best_is_highest", "_keys", "best")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._best_is_highest = best_is_highest
        self._keys: list[int] = []  # every price, or its negative: ascending, the best last
        self.best = NO_PRICE

    def add(self, price: int) -> None:
        """Take in a price that is not there."""
        key = price if self._best_is_highest else -price
        if self._keys and key < self._keys[-1]:
            insort(self._keys, key)
        else:
            self._keys.append(key)
            self.best = price

    def remove(self, price: int) -> None:
        """Take out a price that is there."""
        keys = self._keys
        if price == self.best:
            keys.pop()
            self.best = abs(keys[-1]) if keys else NO_PRICE
        else:
            del keys[bisect_left(keys, price if self._best_is_highest else -price)]

    def best_first(self) -> Iterator[int]:
        """Every price, the best first."""
        for key in reversed(self._keys):
            yield abs(key)


@mypyc_attr(acyclic=True)
class Level:
    """All orders at one price, from the first, which is the oldest. `quantity` is what they show."""

    __slots__ = ("first", "ladder", "last", "price", "quantity")

    def __init__(self, ladder: "Ladder", price: int) -> None:
        self.ladder = ladder
        self.price = price
        self.quantity = 0
        self.first: Order | None = None
        self.last: Order | None = None

    def append(self, order: Order) -> None:
        """Put an order at the end of the queue."""
        last = self.last
        order.ahead = last
        if last is None:
            self.first = order
        else:
            last.behind = order
        self.last = order

    def take_out(self, order: Order) -> None:
        """Take an order out of the queue."""
        ahead, behind = order.ahead, order.behind
        if ahead is None:
            self.first = behind
        else:
            ahead.behind = behind
            order.ahead = None
        if behind is None:
            self.last = ahead
        else:
            behind.ahead = ahead
            order.behind = None

    def queue(self) -> Iterator[Order]:
        """Every order, the first first."""
        order = self.first
        while order is not None:
            yield order
            order = order.behind


class Ladder:
    """The levels of one side. `best` is the one to trade with first; None where there is none."""

    __slots__ = ("_prices", "best", "levels")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._prices = Prices(best_is_highest=best_is_highest)
        self.levels: dict[int, Level] = {}  # by price
        self.best: Level | None = None

    def level_at(self, price: int) -> Level:
        """The level of a price, a new one where there is none."""
        level = self.levels.get(price)
        if level is None:
            level = self.levels[price] = Level(self, price)
            self._prices.add(price)
            if self._prices.best == price:
                self.best = level
        return level

    def drop(self, level: Level) -> None:
        """Leave out a level that is empty."""
        del self.levels[level.price]
        self._prices.remove(level.price)
        if level is self.best:
            self.best = self.levels[self._prices.best] if self.levels else None

    def best_first(self) -> Iterator[Level]:
        """Every level, the best first."""
        for price in self._prices.best_first():
            yield self.levels[price]


class Book:
    """Bids and asks of one symbol."""

    __slots__ = ("asks", "bids", "changed", "orders")

    def __init__(self) -> None:
        self.bids = Ladder(best_is_highest=True)
        self.asks = Ladder(best_is_highest=False)
        self.orders = 0
        self.changed = True  # a new book is news

    def side(self, side: Side) -> Ladder:
        """The orders of a side."""
        return self.bids if side is BUY else self.asks

    def against(self, side: Side) -> Ladder:
        """The orders that a side's orders trade with."""
        return self.asks if side is BUY else self.bids

    def best(self, side: Side) -> Level | None:
        """The best level of a side, None where it is empty."""
        return self.side(side).best

    def add(self, order: Order) -> None:
        """Put an order at the end of its price's queue; an iceberg shows only a part."""
        level = (self.bids if order.side is BUY else self.asks).level_at(order.price)
        level.append(order)
        remaining, display = order.remaining, order.display
        order.shown = display if 0 < display < remaining else remaining
        level.quantity += order.shown
        order.level = level
        self.orders += 1
        self.changed = True

    def fill(self, order: Order, quantity: int) -> None:
        """Trade with what an order shows. With nothing left it leaves; an iceberg's next slice goes to the back."""
        level = order.level
        assert level is not None, "only resting orders are filled"
        assert 0 < quantity <= order.shown, "no order gives more than it shows"
        order.remaining -= quantity
        order.shown -= quantity
        level.quantity -= quantity
        self.changed = True
        if order.shown:
            return
        if order.remaining == 0:
            self._leave(order, level)
        else:
            level.take_out(order)
            level.append(order)
            order.shown = min(order.display, order.remaining)
            level.quantity += order.shown

    def reduce(self, order: Order, quantity: int) -> None:
        """Lower what remains of an order in place, first what it does not show; all of it makes it leave."""
        level = order.level
        assert level is not None, "only resting orders are reduced"
        assert 0 < quantity <= order.remaining, "no order loses more than it has"
        order.remaining -= quantity
        level.quantity -= order.shown
        order.shown = min(order.shown, order.remaining)
        level.quantity += order.shown
        self.changed = True
        if order.remaining == 0:
            self._leave(order, level)

    def remove(self, order: Order) -> None:
        """Take an order out with what it has left."""
        level = order.level
        assert level is not None, "only resting orders are removed"
        level.quantity -= order.shown
        self.changed = True
        self._leave(order, level)

    def depth(self, side: Side, levels: int) -> list[tuple[int, int]]:
        """(price, quantity shown) of the best levels, best first."""
        return [(level.price, level.quantity) for level in islice(self.side(side).best_first(), levels)]

    def resting(self, side: Side) -> list[Order]:
        """Every order of a side in priority order."""
        return [order for level in self.side(side).best_first() for order in level.queue()]

    def _leave(self, order: Order, level: Level) -> None:
        order.level = None
        order.shown = 0
        self.orders -= 1
        level.take_out(order)
        if level.first is None:
            level.ladder.drop(level)
