"""One symbol's book: price-time priority, as ints only.

A level's orders stand in a dict, which keeps insertion order: the first is the oldest, and any can be taken out at once.
The prices of a ladder stand in a sorted list with the best at its end, so that taking the best level is a pop and a new
order near the best moves little.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice

from libs.orders import Side
from services.matcher.core.choices import BUY
from services.matcher.core.orders import Order


class Level:
    """All orders at one price. `quantity` is what they show."""

    __slots__ = ("ladder", "orders", "price", "quantity")

    def __init__(self, ladder: "Ladder", price: int) -> None:
        self.ladder = ladder
        self.price = price
        self.quantity = 0
        self.orders: dict[str, Order] = {}


class Ladder:
    """Levels by price. `best` is the one with the highest price, or the lowest; None where there is none."""

    __slots__ = ("_best_is_highest", "_keys", "best", "levels")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._best_is_highest = best_is_highest
        self._keys: list[int] = []  # of every level its price, or the price's negative: ascending, the best last
        self.levels: dict[int, Level] = {}  # by price
        self.best: Level | None = None

    def add(self, order: Order, price: int) -> Level:
        """Put an order at the end of a price's queue."""
        level = self.levels.get(price)
        if level is None:
            level = self.levels[price] = Level(self, price)
            self._put(level)
        level.orders[order.order_id] = order
        return level

    def remove(self, order: Order, level: Level) -> None:
        """Take an order out, and its level if that was the last."""
        del level.orders[order.order_id]
        if not level.orders:
            del self.levels[level.price]
            self._drop(level)

    def best_first(self) -> Iterator[Level]:
        """Every level, the best first."""
        for key in reversed(self._keys):
            yield self.levels[abs(key)]

    def _key(self, level: Level) -> int:
        return level.price if self._best_is_highest else -level.price

    def _put(self, level: Level) -> None:
        key = self._key(level)
        if self._keys and key < self._keys[-1]:
            insort(self._keys, key)
        else:
            self._keys.append(key)
            self.best = level

    def _drop(self, level: Level) -> None:
        keys = self._keys
        if level is self.best:
            keys.pop()
            self.best = self.levels[abs(keys[-1])] if keys else None
        else:
            del keys[bisect_left(keys, self._key(level))]


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
        level = (self.bids if order.side is BUY else self.asks).add(order, order.price)
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
            del level.orders[order.order_id]
            level.orders[order.order_id] = order
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
        return [order for level in self.side(side).best_first() for order in level.orders.values()]

    def _leave(self, order: Order, level: Level) -> None:
        order.level = None
        order.shown = 0
        self.orders -= 1
        level.ladder.remove(order, level)
