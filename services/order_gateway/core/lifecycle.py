"""The life of an order as a table, and orders as the gateway keeps them."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from libs.reasons import Reason
from services.order_gateway.core.admission import OrderRequest, Reservation


class Status(IntEnum):
    """Values as in the proto."""

    PENDING = 1
    OPEN = 2
    PARTIALLY_FILLED = 3
    FILLED = 4
    CANCELLED = 5
    REJECTED = 6
    EXPIRED = 7


_FINAL: frozenset[Status] = frozenset()
NEXT = {
    Status.PENDING: frozenset(Status) - {Status.PENDING},
    Status.OPEN: frozenset({Status.OPEN, Status.PARTIALLY_FILLED, Status.FILLED, Status.CANCELLED, Status.EXPIRED}),
    Status.PARTIALLY_FILLED: frozenset({Status.PARTIALLY_FILLED, Status.FILLED, Status.CANCELLED, Status.EXPIRED}),
    Status.FILLED: _FINAL,
    Status.CANCELLED: _FINAL,
    Status.REJECTED: _FINAL,
    Status.EXPIRED: _FINAL,
}


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order as it is recorded."""

    order_id: str
    user_id: str
    client_order_id: str
    request: OrderRequest
    reservation: Reservation
    status: Status
    reason: Reason
    open_quantity: int
    filled_quantity: int
    filled_notional: int
    version: int
    released: int
    created_at: datetime
    updated_at: datetime
