"""A matcher's book to a depth, as its stream tells it."""

from collections.abc import Iterable

from libs.orders import Side

Level = tuple[int, int]


class MirrorBook:
    """Price and quantity per level, in units; the stream keeps it to the depth that was asked for."""

    def __init__(self) -> None:
        self.changed = False
        self._sides: dict[Side, dict[int, int]] = {Side.SELL: {}, Side.BUY: {}}

    def replace(self, asks: Iterable[Level], bids: Iterable[Level]) -> None:
        """Forget what was: this is the book."""
        self._sides = {Side.SELL: dict(asks), Side.BUY: dict(bids)}
        self.changed = True

    def change(self, asks: Iterable[Level], bids: Iterable[Level]) -> None:
        """Levels that are other now; a quantity of 0 takes the level away."""
        for side, levels in ((Side.SELL, asks), (Side.BUY, bids)):
            known = self._sides[side]
            for price, quantity in levels:
                if quantity:
                    known[price] = quantity
                else:
                    known.pop(price, None)
        self.changed = True

    def depth(self, side: Side, levels: int) -> list[Level]:
        """(price, quantity) of the best levels, best first."""
        return sorted(self._sides[side].items(), reverse=side is Side.BUY)[:levels]
