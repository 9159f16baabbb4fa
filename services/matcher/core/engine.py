"""The matching engine: `apply(command, at) -> outcome`, deterministic.

The same commands give the same trades, order updates and state, on any machine, at any time; the journal depends on it.
What may never live here: I/O, clocks, randomness, iteration over sets, floats.
"""

import hashlib
import json
import zlib
from collections import deque
from typing import Any

from libs.money import UNIT, fee_units
from libs.orders import LIVE, OrderType, Side, Status, TimeInForce
from libs.reasons import Reason
from services.matcher.core.book import Book
from services.matcher.core.orders import (
    CancelOrder,
    Command,
    NewOrder,
    Order,
    OrderState,
    Outcome,
    PutSymbol,
    ReduceOrder,
    Symbol,
    Tombstone,
    Trade,
    state_of,
)

CLOSED_KEPT_NS = 24 * 3600 * 1_000_000_000
CLOSED_KEPT_MAX = 1_000_000
ORDERS_PER_BOOK_MAX = 2_000_000
_NS_PER_MS = 1_000_000
_SEQUENCE_BITS = 42
_OPPOSITE = {Side.BUY: Side.SELL, Side.SELL: Side.BUY}


class Market:
    """A symbol with its book and counters."""

    __slots__ = ("book", "last_price", "symbol", "tag", "trades")

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.book = Book()
        self.trades = 0
        self.last_price = 0
        # Makes trade ids of different symbols differ.
        self.tag = zlib.crc32(symbol.name.encode("ascii"))


class Engine:
    """All symbols of one shard.

    Orders that are closed are remembered for a day (and at most a million of them), so that a repeat is answered and not
    done again. `horizon_ms` is the newest time, taken from the order id, of any order that was forgotten: an unknown
    order that is as old may be one of them and is refused.
    """

    def __init__(self) -> None:
        self.markets: dict[str, Market] = {}
        self.orders: dict[str, Order] = {}
        self._closed: deque[tuple[int, str]] = deque()
        self.horizon_ms = 0

    def apply(self, command: Command, at_ns: int) -> Outcome:
        """Do one command at a time that never goes back."""
        self._forget_old(at_ns)
        match command:
            case NewOrder():
                return self._new_order(command, at_ns)
            case CancelOrder():
                return self._cancel(command, at_ns)
            case ReduceOrder():
                return self._reduce(command, at_ns)
            case Tombstone():
                return self._tombstone(command, at_ns)
            case PutSymbol():
                return self._put_symbol(command)

    def _new_order(self, command: NewOrder, at_ns: int) -> Outcome:
        known = self.orders.get(command.order_id)
        if known is not None:
            if known.user_id != command.user_id or known.symbol != command.symbol:
                return Outcome(refusal=Reason.KEY_REUSED, refused_field="order_id")
            return Outcome(order=state_of(known), fills=known.entry_fills)
        market = self.markets.get(command.symbol)
        if market is None:
            return Outcome(refusal=Reason.SYMBOL_UNKNOWN, refused_field="symbol")
        order = Order(command, command.symbol)
        broken = self._broken_rule(command, market)
        if broken is not Reason.NONE:
            return self._closed_outcome(order, Status.REJECTED, broken, at_ns, remember=broken is not Reason.TOO_LATE)
        trades, updates, stopped = self._match(order, command, market, at_ns)
        status, reason = _after_entry(order, command, stopped)
        self._conclude(order, market, status, reason, at_ns)
        order.entry_fills = tuple(trades)
        self.orders[order.order_id] = order
        state = state_of(order)
        return Outcome(state, order.entry_fills, (*updates, state), order.entry_fills)

    def _broken_rule(self, command: NewOrder, market: Market) -> Reason:
        """What only the matcher can know for sure; everything else the gateway has told its user already."""
        symbol = market.symbol
        if _id_ms(command.order_id) <= self.horizon_ms:
            return Reason.TOO_LATE
        if command.price % symbol.tick:
            return Reason.PRICE_OFF_TICK
        if command.quantity % symbol.lot:
            return Reason.QUANTITY_OFF_LOT
        if market.book.orders >= ORDERS_PER_BOOK_MAX:
            return Reason.BOOK_FULL
        if command.side is Side.SELL:
            needed = command.quantity
        elif command.type is OrderType.LIMIT:
            needed = command.price * command.quantity // UNIT
        else:
            needed = 1
        return Reason.RESERVATION_EXHAUSTED if command.reserved < needed else Reason.NONE

    def _match(
        self, order: Order, command: NewOrder, market: Market, at_ns: int
    ) -> tuple[list[Trade], list[OrderState], Reason]:
        """Trade against the other side while prices cross; returns also why it stopped early, if it did."""
        trades: list[Trade] = []
        updates: list[OrderState] = []
        book, buying = market.book, order.side is Side.BUY
        opposite = _OPPOSITE[order.side]
        by_amount = command.type is OrderType.MARKET and buying
        limit = command.price
        while order.remaining or (by_amount and not command.quantity):
            level = book.best(opposite)
            if level is None or (limit and (level.price > limit if buying else level.price < limit)):
                break
            maker = next(iter(level.orders.values()))
            if maker.user_id == order.user_id:
                return trades, updates, Reason.SELF_TRADE_PREVENTED
            quantity = min(order.remaining, maker.remaining) if command.quantity else maker.remaining
            if by_amount:
                affordable = order.held * UNIT // level.price
                quantity = min(quantity, affordable - affordable % market.symbol.lot)
                if quantity == 0:
                    break
            trades.append(self._trade(order, maker, quantity, market, at_ns))
            updates.append(state_of(maker))
        return trades, updates, Reason.NONE

    def _trade(self, taker: Order, maker: Order, quantity: int, market: Market, at_ns: int) -> Trade:
        price, symbol = maker.price, market.symbol
        notional, rest = divmod(price * quantity, UNIT)
        assert rest == 0, "price x quantity is exact"
        market.book.take(maker, quantity)
        if taker.remaining:
            taker.remaining -= quantity
        for order in (taker, maker):
            order.filled += quantity
            order.notional += notional
            order.held -= notional if order.side is Side.BUY else quantity
            assert order.held >= 0, "no order spends more than is reserved"
        self._touch(maker, Status.PARTIALLY_FILLED if maker.remaining else Status.FILLED, Reason.NONE, at_ns)
        assert maker.status is not Status.FILLED or maker.held == 0, "a resting order holds exactly what it needs"
        buyer, seller = (taker, maker) if taker.side is Side.BUY else (maker, taker)
        buyer_bps, seller_bps = symbol.taker_fee_bps, symbol.maker_fee_bps
        if maker is buyer:
            buyer_bps, seller_bps = seller_bps, buyer_bps
        market.trades += 1
        market.last_price = price
        return Trade(
            _trade_id(at_ns, market.tag, market.trades), market.trades, symbol, price, quantity,
            buyer.user_id, buyer.order_id, seller.user_id, seller.order_id, maker.side,
            fee_units(quantity, buyer_bps), fee_units(notional, seller_bps), at_ns,
        )  # fmt: skip

    def _conclude(self, order: Order, market: Market, status: Status, reason: Reason, at_ns: int) -> None:
        """Give the incoming order its status, free what it will not need, and let it rest if it may."""
        if status in LIVE:
            needed = order.remaining if order.side is Side.SELL else order.price * order.remaining // UNIT
            market.book.add(order)
        else:
            needed = 0
        if order.held > needed:
            order.releases += (order.held - needed,)
            order.held = needed
        self._touch(order, status, reason, at_ns)

    def _cancel(self, command: CancelOrder, at_ns: int) -> Outcome:
        order = self.orders.get(command.order_id)
        if order is None or order.user_id != command.user_id:
            return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
        if order.status is Status.CANCELLED:
            return Outcome(order=state_of(order))
        if order.status not in LIVE:
            return Outcome(order=state_of(order), refusal=Reason.ORDER_CLOSED, refused_field="order_id")
        return self._take_out(order, at_ns)

    def _reduce(self, command: ReduceOrder, at_ns: int) -> Outcome:
        order = self.orders.get(command.order_id)
        if order is None or order.user_id != command.user_id:
            return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
        if command.quantity == order.quantity:
            return Outcome(order=state_of(order))
        if order.status not in LIVE:
            return Outcome(order=state_of(order), refusal=Reason.ORDER_CLOSED, refused_field="order_id")
        market = self.markets[order.symbol]
        if command.quantity > order.quantity:
            return Outcome(order=state_of(order), refusal=Reason.AMEND_NOT_REDUCING, refused_field="quantity")
        if command.quantity % market.symbol.lot:
            return Outcome(order=state_of(order), refusal=Reason.QUANTITY_OFF_LOT, refused_field="quantity")
        if command.quantity <= order.filled:
            return self._take_out(order, at_ns)
        less = order.quantity - command.quantity
        freed = less if order.side is Side.SELL else order.price * less // UNIT
        market.book.take(order, less)
        order.quantity = command.quantity
        order.held -= freed
        order.releases += (freed,)
        self._touch(order, order.status, Reason.NONE, at_ns)
        state = state_of(order)
        return Outcome(order=state, updates=(state,))

    def _take_out(self, order: Order, at_ns: int) -> Outcome:
        self.markets[order.symbol].book.remove(order)
        order.releases += (order.held,)
        order.held = 0
        self._touch(order, Status.CANCELLED, Reason.CANCELLED_BY_USER, at_ns)
        state = state_of(order)
        return Outcome(order=state, updates=(state,))

    def _tombstone(self, command: Tombstone, at_ns: int) -> Outcome:
        known = self.orders.get(command.order_id)
        if known is not None:
            if known.user_id != command.user_id:
                return Outcome(refusal=Reason.ORDER_NOT_FOUND, refused_field="order_id")
            return Outcome(order=state_of(known), fills=known.entry_fills)
        order = Order(command, command.symbol)
        return self._closed_outcome(order, Status.REJECTED, Reason.GIVEN_UP, at_ns, remember=True)

    def _closed_outcome(self, order: Order, status: Status, reason: Reason, at_ns: int, *, remember: bool) -> Outcome:
        if order.held:
            order.releases = (order.held,)
            order.held = 0
        if remember:
            self.orders[order.order_id] = order
            self._touch(order, status, reason, at_ns)
        else:
            order.status, order.reason, order.version, order.updated_ns = status, reason, 1, at_ns
        state = state_of(order)
        return Outcome(order=state, updates=(state,))

    def _put_symbol(self, command: PutSymbol) -> Outcome:
        market = self.markets.get(command.symbol.name)
        if market is None:
            market = self.markets[command.symbol.name] = Market(command.symbol)
            assert len({other.tag for other in self.markets.values()}) == len(self.markets), "trade ids must differ"
        else:
            market.symbol = command.symbol
        return Outcome()

    def _touch(self, order: Order, status: Status, reason: Reason, at_ns: int) -> None:
        order.status = status
        order.reason = reason
        order.version += 1
        order.updated_ns = at_ns
        if status not in LIVE:
            self._closed.append((at_ns, order.order_id))

    def _forget_old(self, at_ns: int) -> None:
        closed = self._closed
        while closed and (closed[0][0] < at_ns - CLOSED_KEPT_NS or len(closed) > CLOSED_KEPT_MAX):
            _, order_id = closed.popleft()
            del self.orders[order_id]
            self.horizon_ms = max(self.horizon_ms, _id_ms(order_id))

    def dump(self) -> list[Any]:
        """The whole state as plain lists, in an order that the state alone decides."""
        markets = [
            [list(market.symbol), market.trades, market.last_price,
             [_dump_order(order) for side in Side for order in market.book.resting(side)]]
            for _, market in sorted(self.markets.items())
        ]  # fmt: skip
        closed = [[at_ns, _dump_order(self.orders[order_id])] for at_ns, order_id in self._closed]
        return [self.horizon_ms, markets, closed]

    def state_hash(self) -> str:
        """SHA-256 of the whole state, hex. Costs time in proportion to the state."""
        text = json.dumps(self.dump(), separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def _after_entry(order: Order, command: NewOrder, stopped: Reason) -> tuple[Status, Reason]:
    """Where an incoming order stands after matching."""
    if stopped is Reason.SELF_TRADE_PREVENTED:
        return Status.CANCELLED, stopped
    if command.type is OrderType.MARKET:
        if command.quantity == 0:  # by quote amount: spent as far as whole lots go
            return (Status.FILLED, Reason.NONE) if order.filled else (Status.EXPIRED, Reason.MARKET_REMAINDER)
        return (Status.EXPIRED, Reason.MARKET_REMAINDER) if order.remaining else (Status.FILLED, Reason.NONE)
    if order.remaining == 0:
        return Status.FILLED, Reason.NONE
    if command.time_in_force is TimeInForce.IOC:
        return Status.EXPIRED, Reason.IOC_REMAINDER
    return (Status.PARTIALLY_FILLED if order.filled else Status.OPEN), Reason.NONE


def _dump_order(order: Order) -> list[Any]:
    return [
        order.order_id, order.user_id, order.symbol, int(order.side), order.price, order.quantity, order.remaining,
        order.filled, order.notional, order.held, int(order.status), int(order.reason), order.version,
        list(order.releases), order.updated_ns, [trade.trade_id for trade in order.entry_fills],
    ]  # fmt: skip


def _id_ms(order_id: str) -> int:
    """The time in a UUIDv7, milliseconds since 1970 (RFC 9562, section 5.7)."""
    return int(order_id[:8] + order_id[9:13], 16)


def _trade_id(at_ns: int, tag: int, sequence: int) -> str:
    """A UUIDv7 whose random part is the symbol's tag (32 bits) and the trade's number (42 bits): unique and repeatable."""
    tail = tag << _SEQUENCE_BITS | sequence
    high, low = tail >> 62, tail & (1 << 62) - 1
    text = f"{(at_ns // _NS_PER_MS) << 80 | 7 << 76 | high << 64 | 2 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
