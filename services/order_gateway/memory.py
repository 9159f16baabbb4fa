"""What this process remembers of orders, so that their changes, releases and streams need not look into the record."""

from collections.abc import Iterable

from exchange.events.v1 import order_pb2 as order_events_pb2

from libs.bounded import put_bounded
from services.order_gateway.core.records import OrderRow

KNOWN_MAX = 200_000


class OrderMemory:
    """Orders as they were recorded or read at some time: what never changes of one is as it is, the rest is outdated."""

    def __init__(self) -> None:
        self._by_client_id: dict[tuple[str, str], OrderRow] = {}
        self._by_id: dict[str, OrderRow] = {}
        self._released: dict[str, int] = {}

    def remember(self, order: OrderRow) -> None:
        """Remember an order."""
        put_bounded(self._by_client_id, (order.user_id, order.client_order_id), order, limit=KNOWN_MAX)
        put_bounded(self._by_id, order.order_id, order, limit=KNOWN_MAX)

    def by_client_id(self, user_id: str, client_order_id: str) -> OrderRow | None:
        """A user's order of this name, if it is remembered."""
        return self._by_client_id.get((user_id, client_order_id))

    def by_id(self, order_id: str) -> OrderRow | None:
        """The order, if it is remembered."""
        return self._by_id.get(order_id)

    def released(self, order_id: str) -> int:
        """How many releases of an order this process has carried to the wallet."""
        return self._released.get(order_id, 0)

    def note_released(self, updates: Iterable[order_events_pb2.OrderUpdate]) -> None:
        """Remember that the wallet has these releases."""
        for update in updates:
            if update.releases:
                count = max(len(update.releases), self.released(update.order_id))
                put_bounded(self._released, update.order_id, count, limit=KNOWN_MAX)
