"""One symbol's state, and how two of its orders meet.

What may never live here: who may do what (rules), when (engine).
"""

import zlib
from collections import deque
from math import gcd
from typing import Final

from mypy_extensions import mypyc_attr

from libs.money import BPS, UNIT, fee_units, notional_units
from libs.orders import SelfTrade, Status
from libs.reasons import Reason
from services.matcher.core.book import Book
from services.matcher.core.choices import (
    BUY,
    CANCELLED,
    EXPIRED,
    FILLED,
    FOK,
    IOC,
    IOC_REMAINDER,
    MARKET_BAND,
    NO_REASON,
    OCO,
    OPEN,
    PARTIALLY_FILLED,
    SELF_TRADE_PREVENTED,
    SELL,
    STOP_LIMIT,
    lives,
)
from services.matcher.core.commands import Symbol
from services.matcher.core.orders import Order, OrderState, Owner, Trade
from services.matcher.core.stops import StopBook

_NS_PER_MS: Final = 1_000_000
_SEQUENCE_BITS: Final = 42


@mypyc_attr(acyclic=True, free_list_len=1)
class Step:
    """What one command has done so far."""

    __slots__ = ("at_ns", "trades", "updates")

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns
        self.trades: list[Trade] = []
        self.updates: list[OrderState] = []

    def touch(self, order: Order, status: Status, reason: Reason) -> None:
        """An order has a new state."""
        order.status = status
        order.reason = reason
        order.version += 1
        order.updated_ns = self.at_ns
        self.updates.append(OrderState(order))


class Market:
    """A symbol with its book, its waiting orders and its counters."""

    __slots__ = (
        "_head",
        "_head_at_ns",
        "book",
        "last_price",
        "open",
        "seen_price",
        "stops",
        "symbol",
        "tag",
        "trades",
        "triggered",
    )

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.book = Book()
        self.stops = StopBook()
        self.triggered: deque[Order] = deque()  # met by the last price, not yet gone on
        self.open: dict[str, Owner] = {}  # who has live orders, by user id
        self.trades = 0
        self.last_price = 0
        self.seen_price = 0  # the last price that stops were compared with
        # Makes trade ids of different symbols differ.
        self.tag = zlib.crc32(symbol.name.encode("ascii"))
        self._head_at_ns = -1
        self._head = ""

    def _trade_id(self, at_ns: int) -> str:
        """A UUIDv7 whose random part is the symbol's tag (32 bits) and the trade's number (42 bits): unique and repeatable.

        All but its end is the same for all trades of one commit.
        """
        if at_ns != self._head_at_ns:
            self._head_at_ns, self._head = at_ns, _trade_id_head(at_ns, self.tag)
        # Twelve digits, for the bit before them keeps their zeros; formatting them would take five times as long.
        return self._head + hex(1 << 48 | (self.tag & 63) << _SEQUENCE_BITS | self.trades)[3:]

    def grid(self) -> tuple[int, int]:
        """What prices, and what quantities, of all open orders are multiples of; 0 where there are none."""
        prices = quantities = 0
        for owner in self.open.values():
            for order in owner.orders():
                prices = gcd(prices, order.price, order.stop_price, order.stop_limit_price, order.trail)
                quantities = gcd(quantities, order.quantity, order.remaining, order.display)
        return prices, quantities

    def enter(self, order: Order, step: Step) -> None:
        """Let an order trade as the incoming one, then rest or end, as its type and time in force say."""
        if order.time_in_force is FOK and not self.can_fill(order):
            self.conclude(order, EXPIRED, Reason.FOK_UNFILLABLE, step)
            return
        stopped = self._match(order, step)
        status, reason = _after_entry(order, stopped)
        self.conclude(order, status, reason, step)

    def conclude(self, order: Order, status: Status, reason: Reason, step: Step) -> None:
        """Give an order that is in no book its status, let it rest if it may, free what it will not need."""
        if lives(status):
            self.book.add(order)
        self.settle_hold(order, status)
        step.touch(order, status, reason)
        if lives(status):
            self.remember_open(order)
        else:
            self.forget_open(order)

    def withdraw(self, order: Order, status: Status, reason: Reason, step: Step) -> None:
        """End a live order."""
        if order.level is not None:
            self.book.remove(order)
        if order.waiting:
            self.stops.remove(order)
        self.settle_hold(order, status)
        step.touch(order, status, reason)
        self.forget_open(order)

    def settle_hold(self, order: Order, status: Status) -> None:
        """Free what an order will never need."""
        needed = needs(order) if lives(status) else 0
        assert order.held >= needed, "a live order holds what it needs"
        if order.held > needed:
            order.releases += (order.held - needed,)
            order.held = needed

    def remember_open(self, order: Order) -> None:
        """Count an order among its user's live ones, if it is not yet."""
        if order.owner is not None:
            return
        owner = self.open.get(order.user_id)
        if owner is None:
            owner = self.open[order.user_id] = Owner(order.user_id)
        owner.add(order)

    def forget_open(self, order: Order) -> None:
        """Count an order among its user's live ones no longer."""
        owner = order.owner
        if owner is not None:
            owner.remove(order)
            if not owner.count:
                del self.open[owner.user_id]

    def some_open(self, limit: int) -> list[Order]:
        """At most so many of the live orders, one user's after the other's."""
        some: list[Order] = []
        for owner in self.open.values():
            order = owner.oldest
            while order is not None:
                if len(some) == limit:
                    return some
                some.append(order)
                order = order.newer
        return some

    def would_trade(self, order: Order) -> bool:
        """Whether the best opposite price is within an order's limit."""
        level = self.book.against(order.side).best
        if level is None:
            return False
        return level.price <= order.price if order.side is BUY else level.price >= order.price

    def can_fill(self, order: Order) -> bool:
        """Look whether an order could be filled whole, without touching anything."""
        limit = self._worst_price(order)
        wanted, budget = order.remaining, order.held
        buying = order.side is BUY
        for level in self.book.against(order.side).best_first():
            if limit and (level.price > limit if buying else level.price < limit):
                return False
            for maker in level.queue():
                if maker.user_id == order.user_id:
                    if order.self_trade is SelfTrade.CANCEL_OLDEST:
                        continue
                    return False
                quantity = min(wanted, maker.remaining)
                wanted -= quantity
                budget -= notional_units(level.price, quantity) if buying else quantity
                if budget < 0:
                    return False
                if wanted == 0:
                    return True
        return False

    def _worst_price(self, order: Order) -> int:
        """The limit price; for an order at any price the end of the band around the last trade before it; 0: none."""
        if not order.any_price:
            return order.price
        band, last = self.symbol.market_band_bps, self.last_price
        if not last or not band:
            return 0
        return last + last * band // BPS if order.side is BUY else max(1, last - last * band // BPS)

    def _match(self, order: Order, step: Step) -> Reason:
        """Trade with the other side while prices cross. Returns why it stopped before that, if it did."""
        buying = order.side is BUY
        opposite = self.book.against(order.side)
        any_price = order.any_price
        on_budget = any_price and buying
        by_amount = on_budget and not order.quantity
        limit = self._worst_price(order)
        lot = self.symbol.lot
        while order.remaining or by_amount:
            level = opposite.best
            if level is None:
                break
            price = level.price
            if limit and (price > limit if buying else price < limit):
                return MARKET_BAND if any_price else NO_REASON
            maker = level.first
            assert maker is not None, "no level is empty"
            if maker.user_id == order.user_id:
                if self._prevent_self_trade(order, maker, step, by_amount=by_amount):
                    return SELF_TRADE_PREVENTED
                continue
            quantity = maker.shown if by_amount or maker.shown < order.remaining else order.remaining
            if on_budget:
                affordable = order.held * UNIT // price
                quantity = min(quantity, affordable - affordable % lot)
                if quantity == 0:
                    break
            self._trade(order, maker, price, quantity, step)
        return NO_REASON

    def _prevent_self_trade(self, taker: Order, maker: Order, step: Step, *, by_amount: bool) -> bool:
        """Do what the incoming order wants done; whether it has to stop."""
        mode = taker.self_trade
        if mode is SelfTrade.DECREMENT and not by_amount:
            quantity = min(taker.remaining, maker.remaining)
            for order in (taker, maker):
                order.quantity -= quantity
            taker.remaining -= quantity
            if maker.remaining == quantity:
                self.withdraw(maker, CANCELLED, SELF_TRADE_PREVENTED, step)
            else:
                self.book.reduce(maker, quantity)
                self.settle_hold(maker, maker.status)
                step.touch(maker, maker.status, SELF_TRADE_PREVENTED)
            return taker.remaining == 0
        if mode in {SelfTrade.CANCEL_OLDEST, SelfTrade.CANCEL_BOTH}:
            self.withdraw(maker, CANCELLED, SELF_TRADE_PREVENTED, step)
        return mode is not SelfTrade.CANCEL_OLDEST

    def _trade(self, taker: Order, maker: Order, price: int, quantity: int, step: Step) -> None:
        symbol = self.symbol
        notional = notional_units(price, quantity)
        self.book.fill(maker, quantity)
        if taker.remaining:
            taker.remaining -= quantity
        taker.filled += quantity
        taker.notional += notional
        maker.filled += quantity
        maker.notional += notional
        if taker.side is BUY:
            buyer, seller = taker, maker
            buyer_bps, seller_bps = symbol.taker_fee_bps, symbol.maker_fee_bps
        else:
            buyer, seller = maker, taker
            buyer_bps, seller_bps = symbol.maker_fee_bps, symbol.taker_fee_bps
        buyer.held -= notional
        seller.held -= quantity
        assert buyer.held >= 0, "no order spends more than is reserved"
        assert seller.held >= 0, "no order spends more than is reserved"
        self.trades += 1
        self.last_price = price
        step.trades.append(
            Trade(
                self._trade_id(step.at_ns), self.trades, symbol, price, quantity,
                buyer.user_id, buyer.order_id, seller.user_id, seller.order_id, maker.side,
                fee_units(quantity, buyer_bps), fee_units(notional, seller_bps), step.at_ns,
            )
        )  # fmt: skip
        if maker.waiting:  # an OCO: its first fill ends the waiting
            self.stops.remove(maker)
            self.settle_hold(maker, PARTIALLY_FILLED)
        if maker.remaining:
            step.touch(maker, PARTIALLY_FILLED, NO_REASON)
        else:
            assert maker.held == 0, "a resting order holds exactly what it needs"
            step.touch(maker, FILLED, NO_REASON)
            self.forget_open(maker)


def needs(order: Order) -> int:
    """What a live order may still spend: base asset for a sell, quote asset for a buy."""
    if order.side is SELL:
        return order.remaining
    if order.waiting and order.type is not STOP_LIMIT:
        if order.type is OCO and order.stop_limit_price:
            return notional_units(max(order.price, order.stop_limit_price), order.remaining)
        return order.held  # it goes at any price, as far as this reaches
    return notional_units(order.price, order.remaining)


def _after_entry(order: Order, stopped: Reason) -> tuple[Status, Reason]:
    """Where an incoming order stands after matching, given why that stopped early."""
    if stopped is SELF_TRADE_PREVENTED:
        return CANCELLED, stopped
    if order.any_price:
        if order.quantity == 0 and order.filled:  # by quote amount: spent as far as whole lots, or the band, go
            return FILLED, NO_REASON
        if order.remaining == 0 and order.quantity:
            return FILLED, NO_REASON
        return EXPIRED, stopped if stopped is MARKET_BAND else Reason.MARKET_REMAINDER
    if order.remaining == 0:
        return FILLED, NO_REASON
    if order.time_in_force is IOC:
        return EXPIRED, IOC_REMAINDER
    return (PARTIALLY_FILLED if order.filled else OPEN), NO_REASON


def _trade_id_head(at_ns: int, tag: int) -> str:
    ms = at_ns // _NS_PER_MS
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{tag >> 20:03x}-{0x8000 | (tag >> 6 & 0x3FFF):04x}-"
