"""The matching engine: `apply(command, at) -> outcome`, deterministic.

The same commands give the same trades, order updates and state, on any machine, at any time; the journal depends on it.
What may never live here: I/O, clocks, randomness, iteration over sets, floats.
"""

import heapq
from collections import deque
from typing import Final

from libs.orders import PostOnly, SymbolStatus
from libs.reasons import Reason
from services.matcher.core.choices import (
    ACTIVE,
    BUY,
    CANCELLED,
    CANCELLED_BY_USER,
    DAY,
    EXPIRED,
    GTD,
    LIMIT,
    MAINTENANCE,
    MARKET,
    NO_REASON,
    NOT_POST_ONLY,
    OCO,
    OPEN,
    REJECTED,
    REPRICE,
    SELL,
    lives,
)
from services.matcher.core.commands import (
    AmendOrder,
    AskOrder,
    CancelAll,
    CancelOrder,
    Command,
    NewOrder,
    PutSymbol,
    Tombstone,
)
from services.matcher.core.market import Market, Step
from services.matcher.core.orders import Order, OrderState, Outcome, Trade, never_seen
from services.matcher.core.rules import broken_by_amend, broken_by_order, id_ms

CLOSED_KEPT_NS: Final = 24 * 3600 * 1_000_000_000
NEVER_NS: Final = 2**62 - 1
CLOSED_KEPT_MAX: Final = 1_000_000
CANCELLED_AT_ONCE_MAX: Final = 500
DUE_AT_ONCE_MAX: Final = 500
CLEARED_FROM: Final = 10_000
TRIGGERED_AT_ONCE_MAX: Final = 500
_DAY_NS: Final = 24 * 3600 * 1_000_000_000


class Engine:
    """All symbols of one shard.

    Orders that are closed are remembered for a day (and at most a million of them), so that a repeat is answered and not
    done again. `horizon_ms` is the newest time, taken from the order id, of any order that was forgotten: an unknown
    order that is as old may be one of them and is refused.
    """

    def __init__(self) -> None:
        self.markets: dict[str, Market] = {}
        self.orders: dict[str, Order] = {}
        self.closed: deque[tuple[int, str]] = deque()
        self.expiries: list[tuple[int, str]] = []  # a heap; closed orders are left in it for a while
        self._clear_at_len = CLEARED_FROM
        self.horizon_ms = 0
        self._forget_at_ns = NEVER_NS  # the first of the closed

    def apply(self, command: Command, at_ns: int) -> Outcome:
        """Do one command at a time that never goes back."""
        if at_ns >= self._forget_at_ns or len(self.closed) > CLOSED_KEPT_MAX:
            self._forget_old(at_ns)
        # In a chain, the frequent ones first: compiled, a match takes several times as long to tell classes apart.
        if isinstance(command, NewOrder):
            return self._new_order(command, at_ns)
        if isinstance(command, CancelOrder):
            return self._cancel(command, at_ns)
        if isinstance(command, AmendOrder):
            return self._amend(command, at_ns)
        if isinstance(command, CancelAll):
            return self._cancel_all(command, at_ns)
        if isinstance(command, Tombstone):
            return self._tombstone(command, at_ns)
        if isinstance(command, PutSymbol):
            return self._put_symbol(command)
        return self._tick(at_ns)

    def tell(self, question: AskOrder) -> Outcome:
        """An order as it is, closed ones as long as they are remembered; nothing changes."""
        known = self.orders.get(question.order_id)
        if known is None or known.user_id != question.user_id or known.symbol != question.symbol:
            return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
        return Outcome(order=OrderState(known), fills=known.entry_fills)

    def is_due(self, at_ns: int) -> bool:
        """Whether a Tick would do something at this time; to be done before anything else is."""
        return bool(self.expiries and self.expiries[0][0] <= at_ns) or any(
            (market.triggered and market.symbol.status is ACTIVE)
            or (market.open and market.symbol.status is SymbolStatus.DELISTED)
            for market in self.markets.values()
        )

    def _new_order(self, command: NewOrder, at_ns: int) -> Outcome:
        known = self.orders.get(command.order_id)
        if known is not None:
            if known.user_id != command.user_id or known.symbol != command.symbol:
                return Outcome(refusal=Reason.KEY_REUSED, refused_field="order_id")
            return Outcome(order=OrderState(known), fills=known.entry_fills)
        market = self.markets.get(command.symbol)
        if market is None:
            return Outcome(refusal=Reason.SYMBOL_UNKNOWN, refused_field="symbol")
        order, step = Order(command, command.symbol), Step(at_ns)
        broken = broken_by_order(command, market, horizon_ms=self.horizon_ms, at_ns=at_ns)
        if broken is NO_REASON and order.post_only is not NOT_POST_ONLY:
            broken = _keep_from_taking(order, market)
        if broken is not NO_REASON:
            market.conclude(order, REJECTED, broken, step)
            if broken is not Reason.TOO_LATE:
                self.orders[order.order_id] = order
                self._remember_closed(step)
            state = step.updates[-1]
            return Outcome(order=state, updates=(state,))
        self.orders[order.order_id] = order
        if order.time_in_force is DAY or order.time_in_force is GTD:
            self._schedule_end(order, at_ns)
        if order.type is LIMIT or order.type is MARKET:
            market.enter(order, step)
        else:
            self._wait(order, market, step)
        return self._finish(order, market, step, is_new=True)

    def _wait(self, order: Order, market: Market, step: Step) -> None:
        """Let an order wait for its stop price; an OCO rests meanwhile, unless it trades at once."""
        if order.type is OCO and market.would_trade(order):
            market.enter(order, step)
            return
        market.stops.add(order, market.last_price)
        if order.type is OCO:
            market.conclude(order, OPEN, NO_REASON, step)
        else:
            market.settle_hold(order, OPEN)
            step.touch(order, OPEN, NO_REASON)
            market.remember_open(order)
        market.seen_price = 0  # it may be met already

    def _finish(self, order: Order, market: Market, step: Step, *, is_new: bool = False) -> Outcome:
        """The outcome of a command about one order, after all that it sets off."""
        before = len(step.trades)
        if market.last_price != market.seen_price or market.triggered:
            self._cascade(market, step)
        self._remember_closed(step)
        trades = fills = tuple(step.trades) if step.trades else ()
        if len(trades) > before:  # some are of orders that this one set off
            fills = tuple(trade for trade in trades if _is_taker(order, trade))
        if is_new:
            order.entry_fills = fills
        updates = tuple(step.updates)
        # Usually the last that changed is the order itself.
        state = updates[-1] if updates and updates[-1].order_id == order.order_id else OrderState(order)
        return Outcome(state, fills, updates, trades)

    def _cascade(self, market: Market, step: Step) -> None:
        """Let every stop that the last price meets go on, one after the other; what that meets joins the queue's end.

        At most TRIGGERED_AT_ONCE_MAX in one command; the next command, or a Tick, goes on with the rest.
        """
        if market.symbol.status is not ACTIVE:
            return
        for _ in range(TRIGGERED_AT_ONCE_MAX):
            if market.last_price != market.seen_price:
                market.seen_price = market.last_price
                for order in market.stops.take_met(market.last_price) if market.last_price else ():
                    if order.level is not None:
                        market.book.remove(order)
                    market.triggered.append(order)
            if not market.triggered:
                return
            order = market.triggered.popleft()
            if not lives(order.status):  # cancelled while it stood in the queue
                continue
            if order.type is OCO:
                order.price = order.stop_limit_price
                order.any_price = not order.price
            market.enter(order, step)

    def _cancel(self, command: CancelOrder, at_ns: int) -> Outcome:
        order = self.orders.get(command.order_id)
        if order is None or order.user_id != command.user_id:
            return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
        if order.status is CANCELLED:
            return Outcome(order=OrderState(order))
        if not lives(order.status):
            return Outcome(order=OrderState(order), refusal=Reason.ORDER_CLOSED, refused_field="order_id")
        market = self.markets[order.symbol]
        if market.symbol.status is MAINTENANCE:
            return Outcome(order=OrderState(order), refusal=Reason.SYMBOL_NOT_TRADING, refused_field="symbol")
        return self._take_out(order, market, at_ns)

    def _cancel_all(self, command: CancelAll, at_ns: int) -> Outcome:
        markets = [
            market for market in self.markets.values()
            if command.symbol in {"", market.symbol.name} and market.symbol.status is not MAINTENANCE
        ]  # fmt: skip
        owners = [market.open[command.user_id] for market in markets if command.user_id in market.open]
        mine = [order for owner in owners for order in owner.orders() if command.session in {"", order.session}]
        step = Step(at_ns)
        for order in mine[:CANCELLED_AT_ONCE_MAX]:
            self.markets[order.symbol].withdraw(order, CANCELLED, CANCELLED_BY_USER, step)
        self._remember_closed(step)
        return Outcome(updates=tuple(step.updates), left=max(0, len(mine) - CANCELLED_AT_ONCE_MAX))

    def _take_out(self, order: Order, market: Market, at_ns: int) -> Outcome:
        step = Step(at_ns)
        market.withdraw(order, CANCELLED, CANCELLED_BY_USER, step)
        self.remember_closed(order.order_id, at_ns)
        state = step.updates[-1]
        return Outcome(order=state, updates=(state,))

    def _amend(self, command: AmendOrder, at_ns: int) -> Outcome:
        order = self.orders.get(command.order_id)
        if order is None or order.user_id != command.user_id:
            return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
        step = Step(at_ns)
        extra = max(0, command.reserved_total - order.reserved_total)
        order.reserved_total += extra
        price = command.price or order.price
        quantity = order.quantity if command.quantity is None else command.quantity
        stop_price = command.stop_price or order.stop_price
        if (price, quantity, stop_price) == (order.price, order.quantity, order.stop_price):
            return self._give_back(order, extra, step)
        market = self.markets[order.symbol]
        refusal, field = broken_by_amend(order, command, market, extra)
        if refusal is not NO_REASON:
            outcome = self._give_back(order, extra, step)
            outcome.refusal, outcome.refused_field = refusal, field
            return outcome
        order.held += extra
        if command.quantity is not None and quantity <= order.filled:
            return self._take_out(order, market, at_ns)
        less = order.quantity - quantity
        if less > 0 and (price, stop_price) == (order.price, order.stop_price):
            _lower(order, market, less)
            market.settle_hold(order, order.status)
            step.touch(order, order.status, NO_REASON)
            return self._finish(order, market, step)
        waiting = order.waiting
        if order.level is not None:
            market.book.remove(order)
        if waiting:
            market.stops.remove(order)
        order.price, order.quantity, order.stop_price = price, quantity, stop_price
        order.remaining = quantity - order.filled
        if waiting:
            self._wait(order, market, step)
        else:
            if order.post_only is REPRICE:
                _keep_from_taking(order, market)
            market.enter(order, step)
        return self._finish(order, market, step)

    def _give_back(self, order: Order, extra: int, step: Step) -> Outcome:
        """An amend that changes nothing sets free what was reserved for it."""
        if extra:
            order.releases += (extra,)
            order.version += 1
            order.updated_ns = step.at_ns
            state = OrderState(order)
            return Outcome(order=state, updates=(state,))
        return Outcome(order=OrderState(order))

    def _tombstone(self, command: Tombstone, at_ns: int) -> Outcome:
        known = self.orders.get(command.order_id)
        if known is not None:
            if known.user_id != command.user_id:
                return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
            return Outcome(order=OrderState(known), fills=known.entry_fills)
        order, step = never_seen(command), Step(at_ns)
        self.orders[order.order_id] = order
        step.touch(order, REJECTED, Reason.GIVEN_UP)
        self._remember_closed(step)
        return Outcome(order=OrderState(order), updates=tuple(step.updates))

    def _put_symbol(self, command: PutSymbol) -> Outcome:
        market = self.markets.get(command.symbol.name)
        if market is None:
            market = self.markets[command.symbol.name] = Market(command.symbol)
            assert len({other.tag for other in self.markets.values()}) == len(self.markets), "trade ids must differ"
        else:
            market.symbol = command.symbol
        return Outcome()

    def _tick(self, at_ns: int) -> Outcome:
        """End orders whose time is over, orders of delisted symbols, and go on with stops that were left."""
        step = Step(at_ns)
        left = DUE_AT_ONCE_MAX
        while self.expiries and self.expiries[0][0] <= at_ns and left:
            ends_at_ns, order_id = heapq.heappop(self.expiries)
            order = self.orders.get(order_id)
            if order is not None and lives(order.status) and order.expires_at_ns == ends_at_ns:
                self.markets[order.symbol].withdraw(order, EXPIRED, Reason.TIME_OVER, step)
                left -= 1
        for market in self.markets.values():
            if market.symbol.status is SymbolStatus.DELISTED:
                gone = market.some_open(left)
                for order in gone:
                    market.withdraw(order, CANCELLED, Reason.SYMBOL_NOT_TRADING, step)
                left -= len(gone)
            elif market.triggered:
                self._cascade(market, step)
        self._remember_closed(step)
        return Outcome(updates=tuple(step.updates), trades=tuple(step.trades))

    def _schedule_end(self, order: Order, at_ns: int) -> None:
        if order.time_in_force is DAY:
            order.expires_at_ns = (at_ns // _DAY_NS + 1) * _DAY_NS
        if order.expires_at_ns:
            if len(self.expiries) >= self._clear_at_len:
                self._clear_expiries()
            heapq.heappush(self.expiries, (order.expires_at_ns, order.order_id))

    def _clear_expiries(self) -> None:
        """Leave out what was closed before its time: half of the heap at most, so that an order pays for two at most."""
        kept = []
        for ends_at_ns, order_id in self.expiries:
            order = self.orders.get(order_id)
            if order is not None and lives(order.status) and order.expires_at_ns == ends_at_ns:
                kept.append((ends_at_ns, order_id))
        heapq.heapify(kept)
        self.expiries = kept
        self._clear_at_len = max(CLEARED_FROM, 2 * len(kept))

    def remember_closed(self, order_id: str, at_ns: int) -> None:
        """Keep an order that was closed at this time, which never goes back, for as long as closed ones are kept."""
        if not self.closed:
            self._forget_at_ns = at_ns + CLOSED_KEPT_NS + 1
        self.closed.append((at_ns, order_id))

    def _remember_closed(self, step: Step) -> None:
        for state in step.updates:
            if not lives(state.status):
                self.remember_closed(state.order_id, step.at_ns)

    def _forget_old(self, at_ns: int) -> None:
        closed = self.closed
        while closed and (closed[0][0] < at_ns - CLOSED_KEPT_NS or len(closed) > CLOSED_KEPT_MAX):
            _, order_id = closed.popleft()
            del self.orders[order_id]
            self.horizon_ms = max(self.horizon_ms, id_ms(order_id))
        self._forget_at_ns = closed[0][0] + CLOSED_KEPT_NS + 1 if closed else NEVER_NS


def _keep_from_taking(order: Order, market: Market) -> Reason:
    """Move a post-only order one tick away from the price it would trade at, or say why it cannot stand."""
    if not market.would_trade(order):
        return NO_REASON
    level = market.book.against(order.side).best
    assert level is not None, "there is something to trade with"
    tick = market.symbol.tick
    price = level.price - tick if order.side is BUY else level.price + tick
    if order.post_only is PostOnly.REJECT or price <= 0:
        return Reason.POST_ONLY_WOULD_TRADE
    order.price = price
    return NO_REASON


def _is_taker(order: Order, trade: Trade) -> bool:
    taker_id = trade.buyer_order_id if trade.maker_side is SELL else trade.seller_order_id
    return taker_id == order.order_id


def _lower(order: Order, market: Market, less: int) -> None:
    order.quantity -= less
    if order.level is not None:
        market.book.reduce(order, less)
    else:
        order.remaining -= less
