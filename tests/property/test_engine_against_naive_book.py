"""Any stream of commands through the engine and through the obvious book: the same trades, orders and queues."""

import json
import os
import subprocess
import sys
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.money import UNIT
from libs.orders import LIVE, NEXT, OrderType, Side
from services.matcher.core.commands import Tick
from services.matcher.core.orders import OrderState, Outcome, Trade
from services.matcher.core.snapshot import dump, load
from tests.support.naive import NaiveBook
from tests.support.tables import SYMBOL, Table

NAMES = ["ann", "bob", "cid"]
EXAMPLES = 1000
PRICES, QUANTITIES = st.integers(97, 103), st.integers(1, 6)
KINDS = ["limit"] * 5 + ["market", "amount", "stop", "stop_limit", "trail", "oco"]
MODES = ["", "", "", " STP CANCEL_OLDEST", " STP CANCEL_BOTH", " STP DECREMENT"]
LIMIT_FLAGS = ["", "", "", " IOC", " FOK", " DAY", " GTD 3", " POST", " REPRICE", " SHOW 1", " SHOW 2", " GTD 9 SHOW 2"]


@st.composite
def orders(draw, user: str) -> str:
    """One order: prices are few, so that orders meet."""
    side, quantity, price = draw(st.sampled_from(["BUY", "SELL"])), draw(QUANTITIES), draw(PRICES)
    mode, stop = draw(st.sampled_from(MODES)), draw(PRICES)
    few = f" HAS {draw(st.integers(100, 700))}" if side == "BUY" and draw(st.booleans()) else ""
    match draw(st.sampled_from(KINDS)):
        case "limit":
            return f"{side} {quantity} @ {price} {user}{draw(st.sampled_from(LIMIT_FLAGS))}{mode}"
        case "market":
            return f"{side} {quantity} MARKET {user}{draw(st.sampled_from(['', ' FOK']))}{few}{mode}"
        case "amount":
            return f"BUY MARKET FOR {draw(st.integers(1, 700))} {user}{mode}"
        case "stop":
            return f"{side} {quantity} STOP {stop} {user}{draw(st.sampled_from(['', ' FOK', ' GTD 5']))}{few}{mode}"
        case "stop_limit":
            flag = draw(st.sampled_from(["", " IOC", " FOK", " DAY", " SHOW 1"]))
            return f"{side} {quantity} @ {price} STOP {stop} {user}{flag}{mode}"
        case "trail":
            return f"{side} {quantity} TRAIL {draw(st.sampled_from(['1', '2', '200bps']))} {user}{few}{mode}"
        case "oco":
            then = f" THEN {draw(PRICES)}" if draw(st.booleans()) else ""
            flag = draw(st.sampled_from(["", " POST", " REPRICE", " SHOW 2", " GTD 4"]))
            return f"{side} {quantity} @ {price} OCO STOP {stop}{then} {user}{flag}{mode}"
    raise AssertionError


@st.composite
def lines(draw) -> list[str]:
    """Commands that meet each other often: few users, cancels and amends of orders that exist."""
    placed: dict[str, int] = dict.fromkeys(NAMES, 0)
    out = []
    for _ in range(draw(st.integers(1, 40))):
        kind = draw(st.sampled_from(["order"] * 7 + ["cancel", "reduce", "amend", "amend", "all"]))
        user = draw(st.sampled_from(NAMES))
        if kind == "order" or not placed[user]:
            placed[user] += 1
            out.append(draw(orders(user)))
            continue
        name = f"{user}#{draw(st.integers(1, placed[user]))}"
        amount = draw(st.sampled_from(["0", "1", "2", "2.5", "2.505", "7"]))
        if kind == "amend":
            parts = [f" TO {amount}", f" @ {draw(PRICES)}", f" STOP {draw(PRICES)}"]
            chosen = draw(st.lists(st.sampled_from(parts), min_size=1, max_size=3, unique=True))
            out.append(f"AMEND {name}{''.join(chosen)} HAS {10**7 * (len(out) + 2)}")
        else:
            rare = draw(st.integers(0, 9)) == 0
            out.append({"cancel": f"CANCEL {name}", "reduce": f"REDUCE {name} TO {amount}",
                        "all": f"CANCELALL {user}" if rare else f"CANCEL {name}"}[kind])  # fmt: skip
    return out


@settings(max_examples=EXAMPLES, deadline=None)
@given(lines(), st.sampled_from([0, 300]))
def test_engine_equals_the_naive_book(commands: list[str], band_bps: int) -> None:
    compare(commands, band_bps)


def compare(commands: list[str], band_bps: int) -> None:
    table = Table(symbol=replace(SYMBOL, price_band_bps=band_bps))
    naive = NaiveBook(table.symbol)
    trades: list[tuple[str, str, int, int]] = []
    for number, line in enumerate(commands):
        table.now_ns += 10**9
        due = [Tick()] if table.engine.is_due(table.now_ns) else []
        shown = depth(table)
        for command in [*due, table.command(line)]:
            outcome = table.engine.apply(command, table.now_ns)
            naive.apply(command, table.now_ns)
            trades += [taker_first(trade) for trade in outcome.trades]
            check_versions(outcome)
        check_book(table)
        assert table.book.changed or depth(table) == shown, "what is shown elsewhere is told"
        table.book.changed = False
        if number % 7 == 0:  # a state that is stored and loaded goes on as if nothing had happened
            stored = json.dumps(dump(table.engine))
            table.engine = load(json.loads(stored))
            assert json.dumps(dump(table.engine)) == stored
    assert trades == naive.trades
    for side in Side:
        assert [(o.order_id, o.price, o.remaining, o.shown) for o in table.book.resting(side)] == naive.queue(side)
    for order_id, expected in naive.orders.items():
        order = table.engine.orders[order_id]
        assert (order.status.name, order.filled) == (expected.status, expected.filled)
    assert not table.engine.markets[SYMBOL.name].triggered


def depth(table: Table) -> list[list[tuple[int, int]]]:
    return [table.book.depth(side, 1000) for side in Side]


def taker_first(trade: Trade) -> tuple[str, str, int, int]:
    sides = (trade.buyer_order_id, trade.seller_order_id)
    taker, maker = sides if trade.maker_side is Side.SELL else sides[::-1]
    return taker, maker, trade.price, trade.quantity


def check_versions(outcome: Outcome) -> None:
    """Updates of an order have versions without gaps, and its life goes only where it may."""
    last: dict[str, OrderState] = {}
    for state in outcome.updates:
        before = last.get(state.order_id)
        if before is not None:
            assert state.version == before.version + 1
            assert state.status in NEXT[before.status]
            assert state.releases[: len(before.releases)] == before.releases
        last[state.order_id] = state


def check_book(table: Table) -> None:
    """Never crossed, levels are sums, every order holds exactly what it needs and nothing when it is closed."""
    market = table.engine.markets[SYMBOL.name]
    book = market.book
    ask, bid = book.best(Side.SELL), book.best(Side.BUY)
    assert ask is None or bid is None or ask.price > bid.price
    for side in Side:
        for price, quantity in book.depth(side, 1000):
            assert quantity == sum(o.shown for o in book.resting(side) if o.price == price) > 0
    live = 0
    for order in table.engine.orders.values():
        spent = order.notional if order.side is Side.BUY else order.filled
        assert order.held + sum(order.releases) + spent == order.reserved_total, "nothing reserved is lost or made"
        assert 0 <= order.shown <= order.remaining
        if order.status not in LIVE:
            assert order.held == 0
            continue
        live += 1
        assert order.remaining + order.filled == order.quantity
        if order.side is Side.SELL:
            assert order.held == order.remaining
        elif order.type in {OrderType.LIMIT, OrderType.STOP_LIMIT} or not order.waiting:
            assert order.held == order.price * order.remaining // UNIT
        elif order.stop_limit_price:
            assert order.held == max(order.price, order.stop_limit_price) * order.remaining // UNIT
    assert live == sum(owner.count for owner in market.open.values())
    assert market.stops.count == len(market.stops.waiting())
    assert book.orders == sum(1 for side in Side for _ in book.resting(side))


PROGRAM = """
import hashlib, random
from services.matcher.core.snapshot import state_hash
from services.matcher.wire import event_messages
from tests.support.tables import NOW_NS, Table
table, dice, events = Table(), random.Random(5), hashlib.sha256()
for number in range(3000):
    user = dice.choice(["ann", "bob", "cid"])
    line = f"{dice.choice(['BUY', 'SELL'])} {dice.randint(1, 9)} @ {dice.randint(95, 105)} {user}"
    if number % 5 == 4:
        line = f"CANCEL {user}#{dice.randint(1, number)}"
    outcome = table.engine.apply(table.command(line), NOW_NS + number)
    for message in event_messages(0, number, [outcome], {table.symbol.name: table.symbol}, items_max=0):
        events.update(message.body)
print(events.hexdigest(), state_hash(table.engine))
"""


def test_processes_with_other_hash_seeds_compiled_and_not_give_the_same_bytes() -> None:
    said = set()
    for seed, pure in (("1", ""), ("2", "1"), ("random", "")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PURE_PYTHON": pure}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        said.add(done.stdout)
    assert len(said) == 1
