"""Orders of one symbol that wait for a price: stops, the waiting half of an OCO, trailing stops.

A stop is met by the last trade price as it stands after a command: a buy stop at or above, a sell stop at or below it.
The order in which stops that are met at once go is fixed: buy stops from the lowest price up, sell stops from the highest
price down, trailing stops; within each the oldest first.
"""

from typing import Final

from libs.money import BPS
from services.matcher.core.book import Ladder
from services.matcher.core.choices import BUY, SELL, TRAILING_STOP
from services.matcher.core.orders import Order

TRAILING_MAX: Final = 1000  # all of them are looked at whenever the last price moves


class StopBook:
    """Waiting orders."""

    __slots__ = ("_buys", "_sells", "count", "trailing")

    def __init__(self) -> None:
        self._buys = Ladder(best_is_highest=False)
        self._sells = Ladder(best_is_highest=True)
        self.trailing: dict[str, Order] = {}
        self.count = 0

    def add(self, order: Order, last_price: int) -> None:
        """Let an order wait."""
        if order.type is TRAILING_STOP:
            self.trailing[order.order_id] = order
            _trail(order, order.peak or last_price)
        else:
            ladder = self._buys if order.side is BUY else self._sells
            order.stop_level = ladder.add(order, order.stop_price)
        order.waiting = True
        self.count += 1

    def remove(self, order: Order) -> None:
        """Wait no longer."""
        if order.type is TRAILING_STOP:
            del self.trailing[order.order_id]
        else:
            level = order.stop_level
            assert level is not None, "only waiting orders are removed"
            level.ladder.remove(order, level)
            order.stop_level = None
        order.waiting = False
        self.count -= 1

    def take_met(self, last_price: int) -> list[Order]:
        """Take out every order that this price meets, in the fixed order."""
        met: list[Order] = []
        for ladder, reached in ((self._buys, 1), (self._sells, -1)):
            level = ladder.best
            while level is not None and (last_price - level.price) * reached >= 0:
                orders = list(level.orders.values())
                for order in orders:
                    self.remove(order)
                met += orders
                level = ladder.best
        for order in list(self.trailing.values()):
            if order.stop_price and (last_price - order.stop_price) * (1 if order.side is BUY else -1) >= 0:
                self.remove(order)
                met.append(order)
            else:
                _trail(order, last_price)
        return met

    def waiting(self) -> list[Order]:
        """All of them, in an order that the state alone decides."""
        laddered = [
            order
            for ladder in (self._buys, self._sells)
            for level in ladder.best_first()
            for order in level.orders.values()
        ]
        return laddered + list(self.trailing.values())


def _trail(order: Order, last_price: int) -> None:
    """Move a trailing stop after the last price, only ever in the owner's favour; before the first trade it has none."""
    if not last_price:
        return
    if order.side is SELL:
        order.peak = max(order.peak, last_price)
        distance = order.trail or order.peak * order.trail_bps // BPS
        order.stop_price = max(1, order.peak - distance)
    else:
        order.peak = min(order.peak or last_price, last_price)
        order.stop_price = order.peak + (order.trail or order.peak * order.trail_bps // BPS)
