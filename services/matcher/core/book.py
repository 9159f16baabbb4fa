"""One symbol's book: price-time priority, as ints only.

A level's orders stand in a dict, which keeps insertion order: the first is the oldest, and any can be taken out at once.
The prices of a ladder stand in a sorted list with the best at its end, so that taking the best level is a pop and a new
order near the best moves little.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from libs.orders import Side
from services.matcher.core.choices import BUY
from services.matcher.core.orders import Order


class Level:
    """All orders at one price. `quantity` is what they show."""

    __slots__ = ("key", "ladder", "orders", "price", "quantity")

    def __init__(self, ladder: "Ladder", price: int, key: int) -> None:
        self.ladder = ladder
        self.price = price
        self.key = key
        self.quantity = 0
        self.orders: dict[str, Order] = {}


class Ladder:
    """Levels by price, the best last: the highest price is the best, or the lowest."""

    __slots__ = ("_sign", "keys", "levels")

    def __init__(self, *, best_is_highest: bool) -> None:
        self._sign = 1 if best_is_highest else -1
        self.levels: dict[int, Level] = {}  # by key: the price, or its negative
        self.keys: list[int] = []

    def best(self) -> Level | None:
        """The best level; None where there is none."""
        return self.levels[self.keys[-1]] if self.keys else None

    def add(self, order: Order, price: int) -> Level:
        """Put an order at the end of a price's queue."""
        key = price * self._sign
        level = self.levels.get(key)
        if level is None:
            level = self.levels[key] = Level(self, price, key)
            insort(self.keys, key)
        level.orders[order.order_id] = order
        return level

    def remove(self, order: Order, level: Level) -> None:
        """Take an order out, and its level if that was the last."""
        del level.orders[order.order_id]
        if not level.orders:
            keys = self.keys
            if keys[-1] == level.key:
                keys.pop()
            else:
                del keys[bisect_left(keys, level.key)]
            del self.levels[level.key]

    def best_first(self) -> Iterator[Level]:
        """Every level, the best first."""
        for key in reversed(self.keys):
            yield self.levels[key]


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
        return (self.bids if side is BUY else self.asks).best()

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
        ladder = self.side(side)
        best = [ladder.levels[key] for key in ladder.keys[: -levels - 1 : -1]]
        return [(level.price, level.quantity) for level in best]

    def resting(self, side: Side) -> list[Order]:
        """Every order of a side in priority order."""
        return [order for level in self.side(side).best_first() for order in level.orders.values()]

    def _leave(self, order: Order, level: Level) -> None:
        order.level = None
        order.shown = 0
        self.orders -= 1
        level.ladder.remove(order, level)
