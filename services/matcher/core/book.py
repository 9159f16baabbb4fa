"""One symbol's book: price-time priority, as ints only.

A level's orders stand in a dict, which keeps insertion order: the first is the oldest, and any can be taken out at once.
Prices of a side stand in a sorted list with the best at its end, asks negated, so that taking the best level is a pop.
"""

from bisect import bisect_left, insort

from libs.orders import Side
from services.matcher.core.orders import Order


class Level:
    """All orders at one price."""

    __slots__ = ("key", "orders", "price", "quantity", "side")

    def __init__(self, side: Side, price: int, key: int) -> None:
        self.side = side
        self.price = price
        self.key = key
        self.quantity = 0
        self.orders: dict[str, Order] = {}


class Book:
    """Bids and asks of one symbol."""

    __slots__ = ("_keys", "_levels", "changed", "orders")

    def __init__(self) -> None:
        self._levels: dict[Side, dict[int, Level]] = {Side.BUY: {}, Side.SELL: {}}
        self._keys: dict[Side, list[int]] = {Side.BUY: [], Side.SELL: []}
        self.orders = 0
        self.changed = True  # a new book is news

    def best(self, side: Side) -> Level | None:
        """The best level of a side, None where it is empty."""
        keys = self._keys[side]
        return self._levels[side][keys[-1]] if keys else None

    def add(self, order: Order) -> None:
        """Put an order at the end of its price's queue."""
        side = order.side
        key = order.price if side is Side.BUY else -order.price
        level = self._levels[side].get(key)
        if level is None:
            level = self._levels[side][key] = Level(side, order.price, key)
            insort(self._keys[side], key)
        level.orders[order.order_id] = order
        level.quantity += order.remaining
        order.level = level
        self.orders += 1
        self.changed = True

    def take(self, order: Order, quantity: int) -> None:
        """Lower what an order has in the book; an order with nothing left leaves it."""
        level = order.level
        assert isinstance(level, Level), "only resting orders are taken from"
        assert 0 < quantity <= order.remaining, "no order gives more than it has"
        order.remaining -= quantity
        level.quantity -= quantity
        self.changed = True
        if order.remaining == 0:
            self._leave(order, level)

    def remove(self, order: Order) -> None:
        """Take an order out with what it has left."""
        level = order.level
        assert isinstance(level, Level), "only resting orders are removed"
        level.quantity -= order.remaining
        self.changed = True
        self._leave(order, level)

    def depth(self, side: Side, levels: int) -> list[tuple[int, int]]:
        """(price, quantity) of the best levels, best first."""
        by_key = self._levels[side]
        return [
            (level.price, level.quantity) for level in (by_key[key] for key in self._keys[side][: -levels - 1 : -1])
        ]

    def resting(self, side: Side) -> list[Order]:
        """Every order of a side in priority order."""
        by_key = self._levels[side]
        return [order for key in reversed(self._keys[side]) for order in by_key[key].orders.values()]

    def _leave(self, order: Order, level: Level) -> None:
        del level.orders[order.order_id]
        order.level = None
        self.orders -= 1
        if not level.orders:
            assert level.quantity == 0, "a level is the sum of its orders"
            keys = self._keys[level.side]
            if keys[-1] == level.key:
                keys.pop()
            else:
                del keys[bisect_left(keys, level.key)]
            del self._levels[level.side][level.key]
