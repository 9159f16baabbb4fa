"""What goes through the intake, and what comes of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exchange.common.v1 import order_pb2

from libs.reasons import Refused
from libs.tracing import trace
from services.order_gateway.core.records import Amendment, OrderRow


@dataclass(frozen=True, slots=True)
class Place:
    """Place this order; what is in it has been admitted."""

    order: OrderRow


@dataclass(frozen=True, slots=True)
class Change:
    """Cancel an order, or amend it; what an amend needs is reserved by now. Named by one of the two ids.

    `reserved_total` and `only_less` are the matcher's AmendOrder's.
    """

    user_id: str
    order_id: str
    client_order_id: str
    amendment: Amendment | None  # None: cancel
    reserved_total: int = 0
    only_less: bool = False


Item = Place | Change


@dataclass(frozen=True, slots=True)
class Done:
    """The order after it, and its fills on entry."""

    order: order_pb2.Order
    fills: Sequence[order_pb2.Fill] = ()
    more_fills: bool = False  # than stand here


Answer = Done | Refused


class Batch:
    """Items on their way: what each became, and what is left to do for it."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.answers: list[Answer | None] = [None] * len(items)
        self.orders: list[OrderRow | None] = [None] * len(items)
        # A repeat within the batch waits for the item that came first.
        self.follows: dict[int, int] = {}

    def open(self, kind: type[Item]) -> list[int]:
        """Items of a kind that are neither answered nor following another."""
        return [
            number
            for number, item in enumerate(self.items)
            if isinstance(item, kind) and self.answers[number] is None and number not in self.follows
        ]

    def placed(self, number: int) -> OrderRow:
        """The order that a Place asks for."""
        item = self.items[number]
        assert isinstance(item, Place)
        return item.order

    def change(self, number: int) -> Change:
        """An item that is a Change."""
        item = self.items[number]
        assert isinstance(item, Change)
        return item

    def found(self, number: int) -> OrderRow:
        """The order as it is recorded, of an item that is open after the first step."""
        order = self.orders[number]
        assert order is not None, "open items have their order by now"
        return order

    def order_ids(self) -> Iterator[str]:
        """The orders that are known by now."""
        return (order.order_id for order in self.orders if order is not None)

    def trace(self) -> None:
        """The span that everything about a new order hangs on, from when it was admitted."""
        for item in self.items:
            if isinstance(item, Place):
                started_ns = int(item.order.created_at.timestamp() * 1_000_000_000)
                trace("order", item.order.order_id, started_ns, is_root=True, symbol=item.order.request.symbol)
