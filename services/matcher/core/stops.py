"""Orders of one symbol that wait for a price: stops, the waiting half of an OCO, trailing stops.

A stop is met by the last trade price as it stands after a command: a buy stop at or above, a sell stop at or below it.
The order in which stops that are met at once go is fixed: buy stops from the lowest price up, sell stops from the highest
price down, trailing stops; within each the oldest first.
"""

from typing import Final

from libs.money import BPS
from services.matcher.core.book import Prices
from services.matcher.core.choices import BUY, SELL, TRAILING_STOP
from services.matcher.core.orders import Order

TRAILING_MAX: Final = 1000  # all of them are looked at whenever the last price moves


class StopLadder:
    """Orders of one side by their stop price; those of one price in a dict, which keeps the order in which they came."""

    __slots__ = ("levels", "prices")

    def __init__(self, *, best_is_highest: bool) -> None:
        self.prices = Prices(best_is_highest=best_is_highest)  # the best is met first
        self.levels: dict[int, dict[str, Order]] = {}

    def add(self, order: Order) -> None:
        """Let an order wait behind those of its price."""
        level = self.levels.get(order.stop_price)
        if level is None:
            level = self.levels[order.stop_price] = {}
            self.prices.add(order.stop_price)
        level[order.order_id] = order

    def remove(self, order: Order) -> None:
        """Take an order out."""
        level = self.levels[order.stop_price]
        del level[order.order_id]
        if not level:
            del self.levels[order.stop_price]
            self.prices.remove(order.stop_price)


class StopBook:
    """Waiting orders."""

    __slots__ = ("_buys", "_sells", "count", "trailing")

    def __init__(self) -> None:
        self._buys = StopLadder(best_is_highest=False)
        self._sells = StopLadder(best_is_highest=True)
        self.trailing: dict[str, Order] = {}
        self.count = 0

    def add(self, order: Order, last_price: int) -> None:
        """Let an order wait."""
        if order.type is TRAILING_STOP:
            self.trailing[order.order_id] = order
            _trail(order, order.peak or last_price)
        else:
            self._ladder(order).add(order)
        order.waiting = True
        self.count += 1

    def remove(self, order: Order) -> None:
        """Wait no longer."""
        if order.type is TRAILING_STOP:
            del self.trailing[order.order_id]
        else:
            assert order.waiting, "only waiting orders are removed"
            self._ladder(order).remove(order)
        order.waiting = False
        self.count -= 1

    def take_met(self, last_price: int) -> list[Order]:
        """Take out every order that this price meets, in the fixed order."""
        met: list[Order] = []
        for ladder, reached in ((self._buys, 1), (self._sells, -1)):
            while ladder.levels and (last_price - ladder.prices.best) * reached >= 0:
                orders = list(ladder.levels[ladder.prices.best].values())
                for order in orders:
                    self.remove(order)
                met += orders
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
            for price in ladder.prices.best_first()
            for order in ladder.levels[price].values()
        ]
        return laddered + list(self.trailing.values())

    def _ladder(self, order: Order) -> StopLadder:
        return self._buys if order.side is BUY else self._sells


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
