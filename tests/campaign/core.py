"""`python -m tests.campaign.core`: one long stream of commands through the engine and through the obvious book.

Trades are compared after every command, queues and orders after every thousand. Exits 1 at the first difference.
"""

import argparse
import random
import sys
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from libs.orders import Side
from services.matcher.core.commands import Tick
from services.matcher.core.orders import Trade
from services.matcher.core.snapshot import state_hash
from tests.support.naive import NaiveBook
from tests.support.tables import SYMBOL, Table

USERS = ("ann", "bob", "cid", "dan")
STEP_NS = 50_000_000
COMPARE_EVERY = 1000
RECENT = 40
LIMIT_FLAGS = (
    "",
    "",
    "",
    "",
    " IOC",
    " FOK",
    " DAY",
    " GTD 3",
    " POST",
    " REPRICE",
    " SHOW 1",
    " SHOW 2",
    " GTD 9 SHOW 2",
)
MODES = ("", "", "", " STP CANCEL_OLDEST", " STP CANCEL_BOTH", " STP DECREMENT")


class Flow:
    """Commands as a day of trading in little: a price that wanders, orders that mostly end by a cancel."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._placed = dict.fromkeys(USERS, 0)
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._middle = 1000
        self._lines = 0

    def line(self) -> str:
        dice = self._random
        self._lines += 1
        self._middle = min(1500, max(500, self._middle + dice.choice((-1, 0, 0, 0, 1))))
        chance = dice.random()
        if chance < 0.55 or not self._recent:
            return self._order()
        name = self._recent[dice.randrange(len(self._recent))]
        if chance < 0.85:
            return f"CANCEL {name}"
        if chance < 0.93:
            parts = (f" TO {dice.choice((0, 1, 2, 2.5, 7))}", f" @ {self._price()}", f" STOP {self._price()}")
            return f"AMEND {name}{''.join(dice.sample(parts, dice.randint(1, 2)))} HAS {10**8 + 10**5 * self._lines}"
        if chance < 0.985:
            return f"REDUCE {name} TO {dice.choice((1, 2, 2.505))}"
        return f"CANCELALL {dice.choice(USERS)}"

    def _price(self) -> int:
        return self._middle + self._random.randint(-4, 4)

    def _order(self) -> str:
        dice = self._random
        user = dice.choice(USERS)
        self._placed[user] += 1
        self._recent.append(f"{user}#{self._placed[user]}")
        side, quantity, mode = dice.choice(("BUY", "SELL")), dice.randint(1, 6), dice.choice(MODES)
        few = f" HAS {dice.randint(1000, 7000)}" if side == "BUY" and dice.random() < 0.5 else ""
        kind = dice.random()
        if kind < 0.7:
            return f"{side} {quantity} @ {self._price()} {user}{dice.choice(LIMIT_FLAGS)}{mode}"
        if kind < 0.78:
            return f"{side} {quantity} MARKET {user}{dice.choice(('', ' FOK'))}{few}{mode}"
        if kind < 0.82:
            return f"BUY MARKET FOR {dice.randint(1, 7000)} {user}{mode}"
        if kind < 0.88:
            return f"{side} {quantity} STOP {self._price()} {user}{dice.choice(('', ' FOK', ' GTD 5'))}{few}{mode}"
        if kind < 0.93:
            flag = dice.choice(("", " IOC", " SHOW 1"))
            return f"{side} {quantity} @ {self._price()} STOP {self._price()} {user}{flag}{mode}"
        if kind < 0.97:
            return f"{side} {quantity} TRAIL {dice.choice(('1', '3', '20bps'))} {user}{few}{mode}"
        then = f" THEN {self._price()}" if dice.random() < 0.5 else ""
        return f"{side} {quantity} @ {self._price()} OCO STOP {self._price()}{then} {user}{dice.choice(('', ' POST'))}{mode}"


class DifferenceError(Exception):
    """The two books are not the same."""


class Comparison:
    """Both books side by side."""

    def __init__(self, seed: int) -> None:
        self._flow = Flow(seed)
        self._table = Table(symbol=SYMBOL)
        self._naive = NaiveBook(SYMBOL)
        self.commands = 0
        self.trades = 0

    @property
    def state_hash(self) -> str:
        return state_hash(self._table.engine)

    def step(self) -> None:
        """One command. Raises DifferenceError."""
        table, naive = self._table, self._naive
        table.now_ns += STEP_NS
        line = self._flow.line()
        due = [Tick()] if table.engine.is_due(table.now_ns) else []
        for command in [*due, table.command(line)]:
            trades = [taker_first(trade) for trade in table.engine.apply(command, table.now_ns).trades]
            naive.apply(command, table.now_ns)
            if trades != naive.trades:
                raise DifferenceError(f"command {self.commands}: {line}: {trades} against {naive.trades}")
            self.trades += len(trades)
            naive.trades.clear()
        self.commands += 1
        if self.commands % COMPARE_EVERY == 0:
            self._compare()

    def _compare(self) -> None:
        book = self._table.engine.markets[SYMBOL.name].book
        for side in Side:
            queue = [(o.order_id, o.price, o.remaining, o.shown) for o in book.resting(side)]
            if queue != self._naive.queue(side):
                raise DifferenceError(f"after command {self.commands}: {side.name} queues differ")
        for order_id, expected in self._naive.orders.items():
            order = self._table.engine.orders[order_id]
            spent = order.notional if order.side is Side.BUY else order.filled
            same = (order.status.name, order.filled) == (expected.status, expected.filled)
            if not same or order.held + sum(order.releases) + spent != order.reserved_total:
                raise DifferenceError(f"after command {self.commands}: order {order_id} differs")
        # What is closed and was compared is done with: the obvious book looks at all it knows, every time.
        self._naive.orders = {key: order for key, order in self._naive.orders.items() if order.live}


def taker_first(trade: Trade) -> tuple[str, str, int, int]:
    sides = (trade.buyer_order_id, trade.seller_order_id)
    taker, maker = sides if trade.maker_side is Side.SELL else sides[::-1]
    return taker, maker, trade.price, trade.quantity


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, help="how long the stream is")
    parser.add_argument("--seed", type=int, default=1, help="decides the stream")
    options = parser.parse_args()
    comparison = Comparison(options.seed)
    columns = (TextColumn("commands"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=options.commands)
        try:
            while comparison.commands < options.commands:
                comparison.step()
                if comparison.commands % COMPARE_EVERY == 0:
                    progress.update(task, completed=comparison.commands)
        except DifferenceError as error:
            print(f"campaign: FAIL seed={options.seed} {error}")
            return 1
    print(
        f"campaign: PASS seed={options.seed} commands={comparison.commands} trades={comparison.trades} "
        f"state={comparison.state_hash[:16]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
