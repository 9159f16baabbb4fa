"""A book so simple that it is plainly right: one list, searched from end to end every time."""

from dataclasses import dataclass, field

from libs.money import UNIT
from libs.orders import OrderType, Side, TimeInForce
from services.matcher.core.orders import NewOrder, ReduceOrder


@dataclass
class NaiveOrder:
    order_id: str
    user_id: str
    side: Side
    price: int
    quantity: int
    left: int
    filled: int = 0
    status: str = "OPEN"


@dataclass
class NaiveBook:
    lot: int
    resting: list[NaiveOrder] = field(default_factory=list)
    orders: dict[str, NaiveOrder] = field(default_factory=dict)
    trades: list[tuple[str, str, int, int]] = field(default_factory=list)  # taker, maker, price, quantity

    def apply(self, command) -> None:
        if isinstance(command, NewOrder):
            if command.order_id not in self.orders:
                self.place(command)
        elif command.order_id in self.orders and self.orders[command.order_id].user_id == command.user_id:
            order = self.orders[command.order_id]
            reduces = isinstance(command, ReduceOrder)
            if order not in self.resting or (reduces and command.quantity % self.lot):
                return
            if not reduces or command.quantity <= order.filled:
                self.resting.remove(order)
                order.status = "CANCELLED"
            elif command.quantity < order.quantity:
                order.left -= order.quantity - command.quantity
                order.quantity = command.quantity

    def place(self, new: NewOrder) -> None:
        order = NaiveOrder(new.order_id, new.user_id, new.side, new.price, new.quantity, new.quantity)
        self.orders[new.order_id] = order
        funds = new.reserved
        stopped = ""
        while order.left or not new.quantity:
            maker = self.best_against(new)
            if maker is None:
                break
            if maker.user_id == new.user_id:
                stopped = "CANCELLED"
                break
            quantity = min(order.left, maker.left) if new.quantity else maker.left
            if new.type is OrderType.MARKET and new.side is Side.BUY:
                quantity = min(quantity, funds * UNIT // maker.price // self.lot * self.lot)
                funds -= quantity * maker.price // UNIT
            if not quantity:
                break
            self.trades.append((order.order_id, maker.order_id, maker.price, quantity))
            order.filled += quantity
            order.left -= quantity if new.quantity else 0
            maker.filled += quantity
            maker.left -= quantity
            maker.status = "PARTIALLY_FILLED"
            if not maker.left:
                maker.status = "FILLED"
                self.resting.remove(maker)
        self.conclude(new, order, stopped)

    def conclude(self, new: NewOrder, order: NaiveOrder, stopped: str) -> None:
        if stopped:
            order.status = stopped
        elif (new.quantity and not order.left) or (not new.quantity and order.filled):
            order.status = "FILLED"
        elif new.type is OrderType.MARKET or new.time_in_force is TimeInForce.IOC:
            order.status = "EXPIRED"
        else:
            order.status = "PARTIALLY_FILLED" if order.filled else "OPEN"
            self.resting.append(order)

    def best_against(self, new: NewOrder) -> NaiveOrder | None:
        """The oldest among the best-priced orders of the other side that the new one may trade with."""
        best = None
        for order in self.resting:
            if order.side is new.side:
                continue
            if new.price and (order.price > new.price if new.side is Side.BUY else order.price < new.price):
                continue
            better = best is not None and (
                order.price < best.price if new.side is Side.BUY else order.price > best.price
            )
            if best is None or better:
                best = order
        return best

    def queue(self, side: Side) -> list[tuple[str, int, int]]:
        """(order, price, left) in priority order."""
        sign = 1 if side is Side.SELL else -1
        orders = sorted((order for order in self.resting if order.side is side), key=lambda order: sign * order.price)
        return [(order.order_id, order.price, order.left) for order in orders]
