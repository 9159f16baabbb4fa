"""Order books and commands as readable lines, run through the real engine.

A command is `BUY 5 @ 101 alice`, `SELL 5 @ 100 bob IOC`, `BUY 5 MARKET carol`, `BUY MARKET FOR 500 carol [HAS 600]`,
`CANCEL alice#1` or `REDUCE alice#1 TO 3`. `alice#1` is alice's first order. `HAS n` overrides what is reserved.
"""

import uuid
from dataclasses import dataclass, field

from libs.money import UNIT, format_units, parse_units
from libs.orders import OrderType, Side, TimeInForce
from services.matcher.core.engine import Engine
from services.matcher.core.orders import CancelOrder, Command, NewOrder, Outcome, PutSymbol, ReduceOrder, Symbol

SYMBOL = Symbol("BTC/USDT", "BTC", "USDT", UNIT // 100, UNIT // 100, UNIT // 100, 10**6 * UNIT, 0, 10, 20, 500)
_SPACE = uuid.UUID(int=7)
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

    def run(self, text: str) -> list[Outcome]:
        """One outcome per non-empty line."""
        return [self.do(line) for line in text.strip().splitlines() if line.strip()]

    def do(self, line: str) -> Outcome:
        return self.engine.apply(self.command(line), self.now_ns)

    def command(self, line: str) -> Command:
        words = line.split("|", maxsplit=1)[0].split()
        if words[0] in {"CANCEL", "REDUCE"}:
            name = words[1]
            owner = uid(name.split("#")[0])
            if words[0] == "CANCEL":
                return CancelOrder(order_id(name), owner, self.symbol.name)
            return ReduceOrder(order_id(name), owner, self.symbol.name, units(words[3]))
        return self._order(words)

    def _order(self, words: list[str]) -> NewOrder:
        reserved = None
        if "HAS" in words:
            reserved = units(words[words.index("HAS") + 1])
            del words[words.index("HAS") : words.index("HAS") + 2]
        tif = TimeInForce.IOC if words[-1] == "IOC" else TimeInForce.GTC
        if words[-1] == "IOC":
            words.pop()
        side = Side[words[0]]
        user = words[-1]
        self._placed[user] = self._placed.get(user, 0) + 1
        name = f"{user}#{self._placed[user]}"
        self.names[order_id(name)] = name
        if "FOR" in words:
            amount = units(words[words.index("FOR") + 1])
            kind, price, quantity, tif = OrderType.MARKET, 0, 0, TimeInForce.IOC
            needed = amount
        elif "MARKET" in words:
            kind, price, quantity, tif = OrderType.MARKET, 0, units(words[1]), TimeInForce.IOC
            needed = quantity if side is Side.SELL else 10**15
        else:
            kind, price, quantity = OrderType.LIMIT, units(words[3]), units(words[1])
            needed = quantity if side is Side.SELL else price * quantity // UNIT
        return NewOrder(
            order_id(name), uid(user), self.symbol.name, side, kind, tif, price, quantity,
            needed if reserved is None else reserved,
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
        book = self.engine.markets[self.symbol.name].book
        asks = book.resting(Side.SELL)
        lines = [f"SELL {format_units(o.price)} {format_units(o.remaining)} {self.names[o.order_id]}" for o in asks]
        bids = [
            f"BUY {format_units(o.price)} {format_units(o.remaining)} {self.names[o.order_id]}"
            for o in book.resting(Side.BUY)
        ]
        return lines + bids

    def order(self, name: str):
        return self.engine.orders[order_id(name)]
