"""Orders as the gateway records them."""

from dataclasses import dataclass
from datetime import datetime

from libs.orders import Status
from libs.reasons import Reason
from services.order_gateway.core.admission import OrderRequest, Reservation


@dataclass(frozen=True, slots=True)
class Amendment:
    """What an owner wants changed: prices of 0 and a quantity of None stay as they are."""

    price: int = 0
    quantity: int | None = None
    stop_price: int = 0


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that needs more money, recorded before the wallet is asked for it.

    `increase` is what is asked for, `reserved_total` all that was ever asked for the order, this included.
    """

    number: int
    amendment: Amendment
    increase: int
    reserved_total: int


@dataclass(slots=True)
class OrderRow:
    """An order as it is recorded. Nobody changes one; but frozen, making it would take 2.8 us instead of 0.6."""

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
    open_price: int = 0
    waiting: bool = False
    open_stop_price: int = 0
    release_due: bool = False  # the wallet lacks some of what this order has freed
    intent: Intent | None = None
    session: str = ""  # it is cancelled with this session; not recorded
