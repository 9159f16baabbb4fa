"""Order flow as markets have it, for benchmarks and for the compiler to see what is usual: `python -m cli.flow`."""

import argparse
import random
import time

from libs.ids import new_id
from libs.money import UNIT, format_units, parse_units
from libs.orders import OrderType, SelfTrade, Side, TimeInForce
from services.matcher.core.commands import AmendOrder, CancelOrder, Command, NewOrder, PutSymbol, Symbol
from services.matcher.core.engine import Engine
from services.matcher.core.fingerprint import fingerprint
from services.matcher.core.parsing import new_order
from services.matcher.core.snapshot import dump, load
from services.wallet.core.books import Balance
from services.wallet.core.ledger import Ledger
from services.wallet.core.operations import FEES_ACCOUNT, Release, Reserve, SettleTrade, contents_of

SYMBOL = Symbol("BTC/USDT", "BTC", "USDT", UNIT // 100, UNIT // 1000, UNIT // 1000, 10**6 * UNIT, 0, 10, 20, 500)
TICK = SYMBOL.tick
USERS = [new_id() for _ in range(500)]
NOW_NS = time.time_ns()


class Flow:
    """Makes commands against a model of which orders live, so that cancels and amends mostly find one."""

    def __init__(self, seed: int, *, spread_ticks: int, drift_per_order: float, live_target: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - repeatable is what it has to be
        self.mid = 50_000.0 * 100
        self.spread_ticks = spread_ticks
        self.drift = drift_per_order
        self.live_target = live_target
        self.live: list[NewOrder] = []
        self.engine = Engine()
        self.engine.apply(PutSymbol(SYMBOL), NOW_NS)

    def order(self, *, ioc: bool = False) -> NewOrder:
        """The next order."""
        dice = self.dice
        self.mid += self.drift * dice.choice((-1, 1)) if self.drift < 1 else self.drift * dice.choice((-3, 1))
        side = dice.choice((Side.BUY, Side.SELL))
        away = int(dice.expovariate(1 / self.spread_ticks)) + 1
        # An IOC order reaches over the spread, a few others do, too.
        if ioc or dice.random() < 0.03:
            away = -int(dice.expovariate(1 / 5)) - 1
        price = max(1, int(self.mid) - away if side is Side.BUY else int(self.mid) + away) * TICK
        quantity = dice.randint(1, 500) * SYMBOL.lot
        reserved = quantity if side is Side.SELL else price * quantity // UNIT
        tif = TimeInForce.IOC if ioc else TimeInForce.GTC
        return NewOrder(
            new_id(), dice.choice(USERS), SYMBOL.name, side, OrderType.LIMIT, tif, price, quantity, reserved,
            self_trade=SelfTrade.CANCEL_OLDEST,
        )  # fmt: skip

    def commands(self, count: int) -> list[Command]:
        """The next commands; 15 % of the orders are IOC, of the others 20 % are amended and all but 5 % cancelled."""
        dice, out = self.dice, list[Command]()
        while len(out) < count:
            if len(self.live) < self.live_target or dice.random() < 0.45:
                new = self.order(ioc=dice.random() < 0.15)
                out.append(new)
                if new.time_in_force is TimeInForce.GTC:
                    self.live.append(new)
                continue
            place = dice.randrange(len(self.live))
            chosen = self.live[place]
            if dice.random() < 0.18:
                lots = chosen.quantity // SYMBOL.lot
                out.append(
                    AmendOrder(chosen.order_id, chosen.user_id, chosen.symbol, quantity=max(1, lots // 2) * SYMBOL.lot)
                )
                continue
            self.live[place] = self.live[-1]
            self.live.pop()
            if dice.random() < 0.95:
                out.append(CancelOrder(chosen.order_id, chosen.user_id, chosen.symbol))
        return out

    def fill_up(self) -> None:
        """Let as many orders live as are wanted."""
        for command in self.commands(self.live_target):
            self.engine.apply(command, NOW_NS)


def main() -> None:
    """Put some tens of thousands of messages through the cores."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for seed, drift in enumerate((0.2, 0.9, 1.0)):
        flow = Flow(seed, spread_ticks=150, drift_per_order=drift, live_target=3_000)
        flow.fill_up()
        for command in flow.commands(20_000):
            outcome = flow.engine.apply(command, NOW_NS)
            fingerprint([outcome])
            for state in outcome.updates:
                parse_units(format_units(state.price), field="price")
            if isinstance(command, NewOrder):
                new_order(
                    command.order_id, command.user_id, command.symbol, command.side, command.type, command.time_in_force,
                    format_units(command.price), format_units(command.quantity), format_units(command.reserved), "", "", "",
                    0, "", 0, command.self_trade, 0, "",
                )  # fmt: skip
        load(dump(flow.engine))
    book_trades()


def book_trades() -> None:
    """Hold money for pairs of orders, settle their trades, and free what is left."""
    accounts = [*USERS, FEES_ACCOUNT]
    balances = {(account, asset): Balance(10**15, 0, 1) for account in accounts for asset in ("BTC", "USDT")}
    ledger = Ledger(balances, {}, {})
    for number in range(5_000):
        buyer, seller = USERS[number % 499], USERS[number % 499 + 1]
        bid, ask = new_id(), new_id()
        operations = (
            Reserve(buyer, "USDT", 3 * UNIT, bid),
            Reserve(seller, "BTC", UNIT // 50, ask),
            SettleTrade(
                new_id(), buyer, seller, bid, ask, "BTC", "USDT", UNIT // 50, 100 * UNIT, 2 * UNIT, 4_000, 200_000
            ),
            Release(buyer, "USDT", None, bid, f"{bid}/close"),
        )
        for operation in operations:
            ledger.apply(operation, new_id()[:-1] + "0")
            contents_of(operation)
        if number % 50 == 0:
            ledger.take_changes().entries.columns()


if __name__ == "__main__":
    main()
