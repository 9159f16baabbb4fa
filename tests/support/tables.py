"""Order books and commands as readable lines, run through the real engine.

A command is `BUY 5 @ 101 alice`, `SELL 5 @ 100 bob IOC`, `BUY 5 MARKET carol`, `BUY MARKET FOR 500 carol [HAS 600]`,
`CANCEL alice#1` or `REDUCE alice#1 TO 3`. `alice#1` is alice's first order. `HAS n` overrides what is reserved.
"""

import uuid
from dataclasses import dataclass, field, replace

from libs.money import UNIT, format_units, parse_units
from libs.orders import OrderType, PostOnly, SelfTrade, Side, TimeInForce
from services.matcher.core.book import Book
from services.matcher.core.commands import (
    AmendOrder,
    CancelAll,
    CancelOrder,
    Command,
    NewOrder,
    PutSymbol,
    Symbol,
    Tick,
)
from services.matcher.core.engine import Engine
from services.matcher.core.orders import OrderState, Outcome

SYMBOL = Symbol("BTC/USDT", "BTC", "USDT", UNIT // 100, UNIT // 100, UNIT // 100, 10**6 * UNIT, 0, 10, 20, 500)
_SPACE = uuid.UUID(int=7)
OF_STATE = (
    "order_id", "user_id", "symbol", "side", "version", "status", "reason", "price", "quantity", "filled", "notional",
    "releases", "at_ns", "stop_price", "waiting",
)  # fmt: skip
NOW_NS = 1_700_000_000_000_000_000


def uid(name: str) -> str:
    return str(uuid.uuid5(_SPACE, name))


def order_id(name: str) -> str:
    """A UUIDv7-like id for a name, of the present."""
    text = uuid.uuid5(_SPACE, f"order/{name}").hex
    stamp = f"{NOW_NS // 1_000_000:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{text[13:16]}-8{text[17:20]}-{text[20:]}"


def units(text: str) -> int:
    return parse_units(text, field="")


@dataclass
class Table:
    """An engine that is spoken to in lines."""

    symbol: Symbol = SYMBOL
    engine: Engine = field(default_factory=Engine)
    now_ns: int = NOW_NS
    _placed: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine.apply(PutSymbol(self.symbol), self.now_ns)

    @property
    def book(self) -> Book:
        return self.engine.markets[self.symbol.name].book

    def run(self, text: str) -> list[Outcome]:
        """One outcome per non-empty line."""
        return [self.do(line) for line in text.strip().splitlines() if line.strip()]

    def do(self, line: str) -> Outcome:
        return self.engine.apply(self.command(line), self.now_ns)

    def command(self, line: str) -> Command:
        words = line.split("|", maxsplit=1)[0].split()
        if words[0] in {"BUY", "SELL"}:
            return self._order(words)
        if words[0] == "CANCELALL":
            return CancelAll(uid(words[1]), session=option(words, "SESSION"))
        if words[0] == "TICK":
            return Tick()
        name = words[1]
        named = (order_id(name), uid(name.split("#")[0]), self.symbol.name)
        if words[0] == "CANCEL":
            return CancelOrder(*named)
        quantity = option(words, "TO")
        return AmendOrder(
            *named,
            price=units(option(words, "@") or "0"),
            quantity=units(quantity) if quantity else None,
            stop_price=units(option(words, "STOP") or "0"),
            reserved_total=units(option(words, "HAS") or "0"),
            only_less=words[0] == "REDUCE",
        )

    def _order(self, words: list[str]) -> NewOrder:
        side = Side[words[0]]
        user = next(word for word in words[1:] if word[0].islower())
        self._placed[user] = self._placed.get(user, 0) + 1
        name = f"{user}#{self._placed[user]}"
        self.names[order_id(name)] = name
        flags = {word for word in words[1:] if word in {"IOC", "FOK", "DAY", "POST", "REPRICE", "MARKET"}}
        price, stop, then = (units(option(words, key) or "0") for key in ("@", "STOP", "THEN"))
        amount, trail = option(words, "FOR"), option(words, "TRAIL")
        quantity = 0 if amount else units(words[1])
        kind = _kind(words, price)
        times = [item for item in TimeInForce if item.name in flags]
        if kind is OrderType.MARKET and not times:
            times = [TimeInForce.IOC]
        if "GTD" in words:
            times = [TimeInForce.GTD]
        dearest = max(price, then, stop if kind is OrderType.OCO else 0)
        needed = quantity if side is Side.SELL else dearest * quantity // UNIT if dearest else 10**15
        reserved = units(amount) if amount else needed
        return NewOrder(
            order_id(name), uid(user), self.symbol.name, side, kind, times[0] if times else TimeInForce.GTC, price,
            quantity, units(option(words, "HAS")) if "HAS" in words else reserved,
            stop_price=stop, stop_limit_price=then,
            trail=units(trail) if trail and not trail.endswith("bps") else 0,
            trail_bps=int(trail.removesuffix("bps")) if trail.endswith("bps") else 0,
            display_quantity=units(option(words, "SHOW") or "0"),
            post_only=PostOnly.REJECT if "POST" in flags else PostOnly.REPRICE if "REPRICE" in flags else PostOnly.OFF,
            self_trade=SelfTrade[option(words, "STP") or "CANCEL_NEWEST"],
            expires_at_ns=self.now_ns + int(option(words, "GTD")) * 10**9 if "GTD" in words else 0,
            session=option(words, "SESSION"),
        )  # fmt: skip

    def fills(self, outcome: Outcome) -> list[str]:
        """`bob#1 3@100` for each trade: the maker, quantity, price."""
        lines = []
        for trade in outcome.trades:
            maker = trade.buyer_order_id if trade.maker_side is Side.BUY else trade.seller_order_id
            lines.append(f"{self.names[maker]} {format_units(trade.quantity)}@{format_units(trade.price)}")
        return lines

    def left(self) -> list[str]:
        """The book: asks from the dearest down, then bids, each `SELL 101 4 alice#1`, priority within a level kept."""
        book = self.book
        asks = book.resting(Side.SELL)
        lines = [f"SELL {format_units(o.price)} {format_units(o.remaining)} {self.names[o.order_id]}" for o in asks]
        bids = [
            f"BUY {format_units(o.price)} {format_units(o.remaining)} {self.names[o.order_id]}"
            for o in book.resting(Side.BUY)
        ]
        return lines + bids

    def tick(self, seconds: float = 0) -> list[Outcome]:
        """Let time pass, and do what it has made due."""
        self.now_ns += int(seconds * 10**9)
        outcomes = []
        while self.engine.is_due(self.now_ns):
            outcomes.append(self.engine.apply(Tick(), self.now_ns))
        return outcomes

    def put_symbol(self, **changes) -> None:
        self.symbol = replace(self.symbol, **changes)
        self.engine.apply(PutSymbol(self.symbol), self.now_ns)

    def stops(self) -> list[str]:
        """Waiting orders: `SELL 95 4 alice#1`, in the order in which they would go."""
        waiting = self.engine.markets[self.symbol.name].stops.waiting()
        return [
            f"{o.side.name} {format_units(o.stop_price)} {format_units(o.remaining)} {self.names[o.order_id]}"
            for o in waiting
        ]

    def status(self, name: str) -> str:
        """`EXPIRED TIME_OVER`, `OPEN`, ..."""
        order = self.order(name)
        return f"{order.status.name} {order.reason.name}".removesuffix(" NONE")

    def order(self, name: str):
        return self.engine.orders[order_id(name)]


def told(state: OrderState) -> dict[str, object]:
    """What a state says, to be compared with what another one says."""
    return {name: getattr(state, name) for name in OF_STATE}


def option(words: list[str], key: str) -> str:
    """The word after a keyword; empty where it is not there."""
    return words[words.index(key) + 1] if key in words else ""


def _kind(words: list[str], price: int) -> OrderType:
    if "TRAIL" in words:
        return OrderType.TRAILING_STOP
    if "OCO" in words:
        return OrderType.OCO
    if "STOP" in words:
        return OrderType.STOP_LIMIT if price else OrderType.STOP
    return OrderType.LIMIT if price else OrderType.MARKET
