"""A book so simple that it is plainly right: lists, searched from end to end every time. Rules as docs/matching.md has them.

It knows nothing of reservations but the budget of a buy at any price.
"""

from dataclasses import dataclass

from libs.money import BPS, UNIT
from libs.orders import OrderType, PostOnly, SelfTrade, Side, TimeInForce
from services.matcher.core.commands import AmendOrder, CancelAll, CancelOrder, NewOrder, PutSymbol, Symbol, Tick

WAITING = {OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP, OrderType.OCO}
DAY_NS = 24 * 3600 * 10**9


@dataclass(eq=False)
class NaiveOrder:
    new: NewOrder
    price: int
    quantity: int
    left: int
    stop: int
    budget: int
    ends_at: int
    reserved: int
    shown: int = 0
    filled: int = 0
    peak: int = 0
    any_price: bool = False
    worst: int = 0
    status: str = "OPEN"

    @property
    def buys(self) -> bool:
        return self.new.side is Side.BUY

    @property
    def live(self) -> bool:
        return self.status in {"OPEN", "PARTIALLY_FILLED"}


class NaiveBook:
    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.last = 0
        self.resting: list[NaiveOrder] = []
        self.waiting: list[NaiveOrder] = []
        self.going_on: list[NaiveOrder] = []
        self.orders: dict[str, NaiveOrder] = {}
        self.trades: list[tuple[str, str, int, int]] = []  # taker, maker, price, quantity

    def apply(self, command, at_ns: int) -> None:  # noqa: C901 - one branch a command
        match command:
            case NewOrder():
                if command.order_id not in self.orders:
                    self.place(command, at_ns)
            case CancelOrder():
                self.cancel(command.order_id, command.user_id)
            case CancelAll():
                for order in list(self.orders.values()):
                    if order.new.user_id == command.user_id and command.session in {"", order.new.session}:
                        self.cancel(order.new.order_id, command.user_id)
            case AmendOrder():
                self.amend(command)
            case PutSymbol():
                self.symbol = command.symbol
            case Tick():
                for order in self.orders.values():
                    if order.live and order.ends_at and order.ends_at <= at_ns:
                        self.end(order, "EXPIRED")
        self.go_on()

    def cancel(self, order_id: str, user_id: str) -> None:
        order = self.orders.get(order_id)
        if order is not None and order.live and order.new.user_id == user_id:
            self.end(order, "CANCELLED")

    def end(self, order: NaiveOrder, status: str) -> None:
        order.status = status
        self.resting = [other for other in self.resting if other is not order]
        self.waiting = [other for other in self.waiting if other is not order]

    def place(self, new: NewOrder, at_ns: int) -> None:
        ends_at = (at_ns // DAY_NS + 1) * DAY_NS if new.time_in_force is TimeInForce.DAY else new.expires_at_ns
        order = NaiveOrder(
            new, new.price, new.quantity, new.quantity, new.stop_price, new.reserved, ends_at, new.reserved
        )
        order.any_price = new.type in {OrderType.MARKET, OrderType.STOP, OrderType.TRAILING_STOP}
        self.orders[new.order_id] = order
        if new.type in {OrderType.LIMIT, OrderType.OCO} and self.is_far(new.price):
            order.status = "REJECTED"
            return
        if new.post_only and self.against(order) and not self.step_aside(order):
            order.status = "REJECTED"
            return
        if new.type not in WAITING or (new.type is OrderType.OCO and self.against(order)):
            self.enter(order)
        else:
            self.wait(order)

    def is_far(self, price: int) -> bool:
        band = self.symbol.price_band_bps
        return bool(self.last and band) and abs(price - self.last) * BPS > self.last * band

    def step_aside(self, order: NaiveOrder) -> bool:
        best = self.against(order)[0].price
        price = best - self.symbol.tick if order.buys else best + self.symbol.tick
        if order.new.post_only is PostOnly.REJECT or price <= 0:
            return False
        order.price = price
        return True

    def wait(self, order: NaiveOrder) -> None:
        self.waiting.append(order)
        if order.new.type is OrderType.OCO:
            self.rest(order)
        if order.new.type is OrderType.TRAILING_STOP:
            self.trail(order)

    def rest(self, order: NaiveOrder) -> None:
        display = order.new.display_quantity
        order.shown = min(display, order.left) if display else order.left
        self.resting.append(order)

    def trail(self, order: NaiveOrder) -> None:
        if not self.last:
            return
        better = max if not order.buys else min
        order.peak = better(order.peak or self.last, self.last)
        distance = order.new.trail or order.peak * order.new.trail_bps // BPS
        order.stop = order.peak + distance if order.buys else max(1, order.peak - distance)

    def go_on(self) -> None:
        """What the last price meets goes on, and what that meets."""
        while True:
            is_met = {
                id(order): bool(self.last and order.stop)
                and (self.last >= order.stop if order.buys else self.last <= order.stop)
                for order in self.waiting
            }
            met = [order for order in self.waiting if is_met[id(order)]]
            trailing = [order for order in met if order.new.type is OrderType.TRAILING_STOP]
            fixed = [order for order in met if order.new.type is not OrderType.TRAILING_STOP]
            self.going_on += sorted((o for o in fixed if o.buys), key=lambda o: o.stop)
            self.going_on += sorted((o for o in fixed if not o.buys), key=lambda o: -o.stop)
            self.going_on += trailing
            self.waiting = [order for order in self.waiting if not is_met[id(order)]]
            self.resting = [order for order in self.resting if not is_met.get(id(order), False)]
            for order in self.waiting:
                if order.new.type is OrderType.TRAILING_STOP:
                    self.trail(order)
            self.going_on = [order for order in self.going_on if order.live]
            if not self.going_on:
                return
            order = self.going_on.pop(0)
            if order.new.type is OrderType.OCO:
                order.price, order.any_price = order.new.stop_limit_price, not order.new.stop_limit_price
            self.enter(order)

    def against(self, order: NaiveOrder) -> list[NaiveOrder]:
        """What an order may trade with, the best first, the oldest first among equals."""
        limit = order.worst if order.any_price else order.price
        others = [o for o in self.resting if o.new.side is not order.new.side]
        within = [o for o in others if not limit or (o.price <= limit if order.buys else o.price >= limit)]
        return sorted(within, key=lambda o: o.price if order.buys else -o.price)

    def fills_whole(self, order: NaiveOrder) -> bool:
        left, budget = order.left, order.budget
        for maker in self.against(order):
            if maker.new.user_id == order.new.user_id:
                if order.new.self_trade is SelfTrade.CANCEL_OLDEST:
                    continue
                return False
            quantity = min(left, maker.left)
            left -= quantity
            budget -= quantity * maker.price // UNIT
            if order.any_price and order.buys and budget < 0:
                return False
            if not left:
                return True
        return False

    def enter(self, order: NaiveOrder) -> None:
        reach = self.last * self.symbol.market_band_bps // BPS  # around the last trade as the order comes
        order.worst = self.last and (self.last + reach if order.buys else max(1, self.last - reach))
        if order.new.time_in_force is TimeInForce.FOK and not self.fills_whole(order):
            order.status = "EXPIRED"
            return
        by_amount = not order.new.quantity
        while (order.left or by_amount) and self.against(order):
            maker = self.against(order)[0]
            if maker.new.user_id == order.new.user_id:
                if self.prevents(order, maker):
                    order.status = "CANCELLED"
                    return
                continue
            quantity = maker.shown if by_amount else min(order.left, maker.shown)
            if order.any_price and order.buys:
                quantity = min(quantity, order.budget * UNIT // maker.price // self.symbol.lot * self.symbol.lot)
            if not quantity:
                break
            self.trade(order, maker, quantity)
        self.conclude(order)

    def prevents(self, order: NaiveOrder, maker: NaiveOrder) -> bool:
        mode = order.new.self_trade
        if mode is SelfTrade.DECREMENT and order.new.quantity:
            less = min(order.left, maker.left)
            for each in (order, maker):
                each.left -= less
                each.quantity -= less
            maker.shown = min(maker.shown, maker.left)
            if not maker.left:
                self.end(maker, "CANCELLED")
            return not order.left
        if mode in {SelfTrade.CANCEL_OLDEST, SelfTrade.CANCEL_BOTH}:
            self.end(maker, "CANCELLED")
        return mode is not SelfTrade.CANCEL_OLDEST

    def trade(self, taker: NaiveOrder, maker: NaiveOrder, quantity: int) -> None:
        self.trades.append((taker.new.order_id, maker.new.order_id, maker.price, quantity))
        self.last = maker.price
        taker.budget -= quantity * maker.price // UNIT
        taker.left -= quantity if taker.new.quantity else 0
        taker.filled += quantity
        maker.filled += quantity
        maker.left -= quantity
        maker.shown -= quantity
        maker.status = "PARTIALLY_FILLED"
        self.waiting = [order for order in self.waiting if order is not maker]
        if not maker.left:
            self.end(maker, "FILLED")
        elif not maker.shown:
            self.resting.remove(maker)
            self.rest(maker)

    def conclude(self, order: NaiveOrder) -> None:
        if (order.new.quantity and not order.left) or (not order.new.quantity and order.filled):
            order.status = "FILLED"
        elif order.any_price or order.new.time_in_force is TimeInForce.IOC:
            order.status = "EXPIRED"
        else:
            order.status = "PARTIALLY_FILLED" if order.filled else "OPEN"
            self.rest(order)

    def amend(self, command: AmendOrder) -> None:
        order = self.orders.get(command.order_id)
        if order is None or not order.live or order.new.user_id != command.user_id:
            return
        price, stop = command.price or order.price, command.stop_price or order.stop
        quantity = order.quantity if command.quantity is None else command.quantity
        waits = order in self.waiting
        extra = max(0, command.reserved_total - order.reserved)
        order.reserved += extra
        if (price, quantity, stop) == (order.price, order.quantity, order.stop):
            return
        if self.amend_is_refused(order, command, quantity, waits=waits):
            return
        order.budget += extra
        if command.quantity is not None and quantity <= order.filled:
            self.end(order, "CANCELLED")
            return
        if quantity < order.quantity and (price, stop) == (order.price, order.stop):
            order.left -= order.quantity - quantity
            order.quantity, order.shown = quantity, min(order.shown, order.left)
            return
        self.end(order, "OPEN")
        order.status = "PARTIALLY_FILLED" if order.filled else "OPEN"
        order.price, order.quantity, order.stop, order.left = price, quantity, stop, quantity - order.filled
        if waits and not (order.new.type is OrderType.OCO and self.against(order)):
            self.wait(order)
        else:
            if not waits and order.new.post_only is PostOnly.REPRICE and self.against(order):
                self.step_aside(order)
            self.enter(order)

    def amend_is_refused(self, order: NaiveOrder, command: AmendOrder, quantity: int, *, waits: bool) -> bool:
        if command.price and not order.price:
            return True
        if command.stop_price and (not waits or order.new.type is OrderType.TRAILING_STOP):
            return True
        if (command.price or 0) % self.symbol.tick or quantity % self.symbol.lot:
            return True
        if command.only_less and quantity > order.quantity:
            return True
        if command.price and self.is_far(command.price):
            return True
        if command.price and order.new.post_only is PostOnly.REJECT and not waits:
            before, order.price = order.price, command.price
            crosses = bool(self.against(order))
            order.price = before
            return crosses
        return False

    def queue(self, side: Side) -> list[tuple[str, int, int, int]]:
        """(order, price, left, shown) in priority order."""
        sign = 1 if side is Side.SELL else -1
        orders = sorted((o for o in self.resting if o.new.side is side), key=lambda o: sign * o.price)
        return [(o.new.order_id, o.price, o.left, o.shown) for o in orders]
