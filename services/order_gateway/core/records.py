"""Orders as the gateway records them."""

from dataclasses import dataclass
from datetime import datetime

from libs.orders import Status
from libs.reasons import Reason
from services.order_gateway.core.admission import OrderRequest, Reservation


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
