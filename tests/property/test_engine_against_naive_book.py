"""Any stream of commands through the engine and through the obvious book: the same trades, orders and queues."""

import os
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.orders import Side, Status
from tests.support.naive import NaiveBook
from tests.support.tables import NOW_NS, SYMBOL, Table

NAMES = ["ann", "bob", "cid"]
EXAMPLES = 1000


@st.composite
def lines(draw) -> list[str]:
    """Commands that meet each other often: few prices, few users, cancels of orders that exist."""
    placed: dict[str, int] = dict.fromkeys(NAMES, 0)
    out = []
    for _ in range(draw(st.integers(1, 40))):
        kind = draw(st.sampled_from(["limit"] * 6 + ["ioc", "market", "amount", "cancel", "cancel", "reduce"]))
        user = draw(st.sampled_from(NAMES))
        if kind in {"cancel", "reduce"} and placed[user]:
            number = draw(st.integers(1, placed[user]))
            amount = draw(st.sampled_from(["0", "1", "2", "2.5", "2.505", "7"]))
            out.append(f"CANCEL {user}#{number}" if kind == "cancel" else f"REDUCE {user}#{number} TO {amount}")
            continue
        placed[user] += 1
        side = draw(st.sampled_from(["BUY", "SELL"]))
        quantity, price = draw(st.integers(1, 6)), draw(st.integers(97, 103))
        if kind == "amount":
            out.append(f"BUY MARKET FOR {draw(st.integers(1, 700))} {user}")
        elif kind == "market":
            out.append(
                f"{side} {quantity} MARKET {user} HAS {draw(st.integers(100, 700)) if side == 'BUY' else quantity}"
            )
        else:
            out.append(f"{side} {quantity} @ {price} {user}{' IOC' if kind == 'ioc' else ''}")
    return out


@settings(max_examples=EXAMPLES, deadline=None)
@given(lines())
def test_engine_equals_the_naive_book(commands: list[str]) -> None:
    table, naive = Table(), NaiveBook(SYMBOL.lot)
    trades = []
    for line in commands:
        command = table.command(line)
        outcome = table.engine.apply(command, NOW_NS)
        naive.apply(command)
        for trade in outcome.trades:
            sides = (trade.buyer_order_id, trade.seller_order_id)
            taker, maker = sides if trade.maker_side is Side.SELL else sides[::-1]
            trades.append((taker, maker, trade.price, trade.quantity))
    check_book(table)
    assert trades == naive.trades
    book = table.engine.markets[SYMBOL.name].book
    for side in Side:
        assert [(o.order_id, o.price, o.remaining) for o in book.resting(side)] == naive.queue(side)
    for order_id, expected in naive.orders.items():
        order = table.engine.orders[order_id]
        assert (order.status.name, order.filled) == (expected.status, expected.filled)


def check_book(table: Table) -> None:
    """Never crossed, levels are sums, every order holds exactly what it needs and nothing when it is closed."""
    book = table.engine.markets[SYMBOL.name].book
    ask, bid = book.best(Side.SELL), book.best(Side.BUY)
    assert ask is None or bid is None or ask.price > bid.price
    for side in Side:
        for price, quantity in book.depth(side, 1000):
            assert quantity == sum(o.remaining for o in book.resting(side) if o.price == price) > 0
    for order in table.engine.orders.values():
        if order.status in {Status.OPEN, Status.PARTIALLY_FILLED}:
            unit_cost = order.price if order.side is Side.BUY else 10**8
            assert order.held == order.remaining * unit_cost // 10**8
            assert order.remaining + order.filled == order.quantity
        else:
            assert order.held == 0


PROGRAM = """
import hashlib, random
from tests.support.tables import NOW_NS, Table
table, dice, events = Table(), random.Random(5), hashlib.sha256()
for number in range(3000):
    user = dice.choice(["ann", "bob", "cid"])
    line = f"{dice.choice(['BUY', 'SELL'])} {dice.randint(1, 9)} @ {dice.randint(95, 105)} {user}"
    if number % 5 == 4:
        line = f"CANCEL {user}#{dice.randint(1, number)}"
    events.update(repr(table.engine.apply(table.command(line), NOW_NS + number)).encode())
print(events.hexdigest(), table.engine.state_hash())
"""


def test_two_processes_with_other_hash_seeds_give_the_same_bytes() -> None:
    said = set()
    for seed in ("1", "2", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        said.add(done.stdout)
    assert len(said) == 1
