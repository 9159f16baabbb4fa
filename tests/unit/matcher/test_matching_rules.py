"""The rules of matching, each as a table, from both sides."""

from dataclasses import replace

import pytest

from libs.money import UNIT
from libs.orders import Status
from libs.reasons import Reason
from services.matcher.core.commands import AskOrder, Tombstone
from services.matcher.core.snapshot import state_hash
from tests.support.tables import NOW_NS, Table, order_id, told, uid, units

SELLS = """
SELL 5 @ 101 alice
SELL 3 @ 100 bob
SELL 2 @ 100 carol
"""
BUYS = """
BUY 5 @ 99 alice
BUY 3 @ 100 bob
BUY 2 @ 100 carol
"""

CASES = [
    ("a better price goes first", SELLS, "BUY 4 @ 101 dave", ["bob#1 3@100", "carol#1 1@100"],
     ["SELL 100 1 carol#1", "SELL 101 5 alice#1"], Status.FILLED),
    ("... and so when selling", BUYS, "SELL 4 @ 99 dave", ["bob#1 3@100", "carol#1 1@100"],
     ["BUY 100 1 carol#1", "BUY 99 5 alice#1"], Status.FILLED),
    ("an exact fill over several levels empties them", SELLS, "BUY 10 @ 101 dave",
     ["bob#1 3@100", "carol#1 2@100", "alice#1 5@101"], [], Status.FILLED),
    ("what is left rests", SELLS, "BUY 7 @ 100 dave", ["bob#1 3@100", "carol#1 2@100"],
     ["SELL 101 5 alice#1", "BUY 100 2 dave#1"], Status.PARTIALLY_FILLED),
    ("without a match it rests whole", SELLS, "BUY 7 @ 99 dave", [],
     ["SELL 100 3 bob#1", "SELL 100 2 carol#1", "SELL 101 5 alice#1", "BUY 99 7 dave#1"], Status.OPEN),
    ("the rest of an IOC expires", SELLS, "BUY 7 @ 100 dave IOC", ["bob#1 3@100", "carol#1 2@100"],
     ["SELL 101 5 alice#1"], Status.EXPIRED),
    ("an IOC without a match expires whole", SELLS, "BUY 7 @ 99 dave IOC", [],
     ["SELL 100 3 bob#1", "SELL 100 2 carol#1", "SELL 101 5 alice#1"], Status.EXPIRED),
    ("a market order takes any price", SELLS, "BUY 6 MARKET dave",
     ["bob#1 3@100", "carol#1 2@100", "alice#1 1@101"], ["SELL 101 4 alice#1"], Status.FILLED),
    ("the rest of a market order expires", SELLS, "BUY 11 MARKET dave",
     ["bob#1 3@100", "carol#1 2@100", "alice#1 5@101"], [], Status.EXPIRED),
    ("a market order into an empty book expires", "", "SELL 1 MARKET dave", [], [], Status.EXPIRED),
    ("a market sell takes the best bids", BUYS, "SELL 6 MARKET dave",
     ["bob#1 3@100", "carol#1 2@100", "alice#1 1@99"], ["BUY 99 4 alice#1"], Status.FILLED),
    ("a market buy by amount spends it", SELLS, "BUY MARKET FOR 500 dave", ["bob#1 3@100", "carol#1 2@100"],
     ["SELL 101 5 alice#1"], Status.FILLED),
    ("... in whole lots", SELLS, "BUY MARKET FOR 502.02 dave",
     ["bob#1 3@100", "carol#1 2@100", "alice#1 0.02@101"], ["SELL 101 4.98 alice#1"], Status.FILLED),
    ("... and expires where there is nothing", "", "BUY MARKET FOR 500 dave", [], [], Status.EXPIRED),
    ("a market buy by quantity stops where its reservation ends", SELLS, "BUY 9 MARKET dave HAS 601",
     ["bob#1 3@100", "carol#1 2@100", "alice#1 1@101"], ["SELL 101 4 alice#1"], Status.EXPIRED),
    ("own orders are not traded with: the newest goes", SELLS, "BUY 4 @ 101 bob", [],
     ["SELL 100 3 bob#1", "SELL 100 2 carol#1", "SELL 101 5 alice#1"], Status.CANCELLED),
    ("... after what came before them", SELLS, "BUY 10 @ 101 carol", ["bob#1 3@100"],
     ["SELL 100 2 carol#1", "SELL 101 5 alice#1"], Status.CANCELLED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("book", "command", "fills", "left", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_matching(book: str, command: str, fills: list[str], left: list[str], status: Status) -> None:
    table = Table()
    table.run(book)
    outcome = table.do(command)
    assert table.fills(outcome) == fills
    assert table.left() == left
    assert outcome.order.status is status


def test_price_improvement_goes_to_the_taker_and_is_freed() -> None:
    table = Table()
    table.run("SELL 5 @ 100 alice")
    outcome = table.do("BUY 3 @ 110 bob")
    assert outcome.trades[0].price == units("100")
    assert outcome.order.releases == (units("30"),)
    assert table.order("bob#1").held == 0


def test_a_resting_buy_frees_nothing_when_it_is_hit() -> None:
    table = Table()
    table.run("BUY 5 @ 110 bob")
    outcome = table.do("SELL 3 @ 100 alice")
    assert outcome.trades[0].price == units("110")
    assert table.order("bob#1").releases == ()
    assert table.order("bob#1").held == units("220")


@pytest.mark.parametrize("which", ["head#1", "middle#1", "tail#1"])
def test_cancelling_anywhere_in_a_queue_keeps_the_others_in_order(which: str) -> None:
    table = Table()
    table.run("SELL 1 @ 100 head\nSELL 1 @ 100 middle\nSELL 1 @ 100 tail")
    outcome = table.do(f"CANCEL {which}")
    assert (outcome.order.status, outcome.order.releases) == (Status.CANCELLED, (UNIT,))
    left = [f"SELL 100 1 {name}" for name in ("head#1", "middle#1", "tail#1") if name != which]
    assert table.left() == left


CANCELS = [
    ("another user's order is not found", "alice#1", "bob", Reason.ORDER_NOT_FOUND),
    ("an unknown order is not found", "alice#9", "alice", Reason.ORDER_NOT_FOUND),
    ("a filled order is closed", "carol#1", "carol", Reason.ORDER_CLOSED),
]


@pytest.mark.parametrize(("name", "user", "reason"), [row[1:] for row in CANCELS], ids=[row[0] for row in CANCELS])
def test_cancels_that_are_refused_change_nothing(name: str, user: str, reason: Reason) -> None:
    table = Table()
    table.run("SELL 5 @ 100 alice\nSELL 1 @ 99 carol\nBUY 1 @ 99 dave")
    before = state_hash(table.engine)
    outcome = table.engine.apply(replace(table.command(f"CANCEL {name}"), user_id=uid(user)), NOW_NS)
    assert (outcome.refusal, outcome.updates) == (reason, ())
    assert state_hash(table.engine) == before


def test_cancelling_twice_answers_the_same() -> None:
    table = Table()
    table.run("SELL 5 @ 100 alice")
    first = table.do("CANCEL alice#1")
    again = table.do("CANCEL alice#1")
    assert told(again.order) == told(first.order)
    assert again.updates == ()


REDUCES = [
    ("it keeps its place", "REDUCE alice#1 TO 3", Reason.NONE, ["SELL 100 3 alice#1", "SELL 100 5 bob#1"]),
    ("to the same quantity it does nothing", "REDUCE alice#1 TO 5", Reason.NONE, ["SELL 100 5 alice#1", "SELL 100 5 bob#1"]),
    ("never more", "REDUCE alice#1 TO 6", Reason.AMEND_NOT_REDUCING, ["SELL 100 5 alice#1", "SELL 100 5 bob#1"]),
    ("in whole lots", "REDUCE alice#1 TO 4.999", Reason.QUANTITY_OFF_LOT, ["SELL 100 5 alice#1", "SELL 100 5 bob#1"]),
    ("to nothing it cancels", "REDUCE alice#1 TO 0", Reason.NONE, ["SELL 100 5 bob#1"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "reason", "left"), [row[1:] for row in REDUCES], ids=[row[0] for row in REDUCES])
def test_reducing(command: str, reason: Reason, left: list[str]) -> None:
    table = Table()
    table.run("SELL 5 @ 100 alice\nSELL 5 @ 100 bob")
    outcome = table.do(command)
    assert outcome.refusal is reason
    assert table.left() == left


def test_reducing_to_what_is_filled_cancels_the_rest() -> None:
    table = Table()
    table.run("BUY 5 @ 100 alice\nSELL 2 @ 100 bob")
    outcome = table.do("REDUCE alice#1 TO 2")
    assert (outcome.order.status, outcome.order.filled) == (Status.CANCELLED, 2 * UNIT)
    assert outcome.order.releases == (units("300"),)


def test_a_repeated_order_is_answered_and_not_done_again() -> None:
    table = Table()
    table.run("SELL 1 @ 100 alice")
    command = table.command("BUY 3 @ 100 bob")
    first = table.engine.apply(command, NOW_NS)
    again = table.engine.apply(command, NOW_NS)
    assert (told(again.order), again.fills) == (told(first.order), first.fills)
    assert (again.updates, again.trades) == ((), ())
    assert table.left() == ["BUY 100 2 bob#1"]


def test_the_id_of_a_closed_order_is_not_used_again() -> None:
    table = Table()
    command = table.command("BUY 3 @ 100 bob")
    table.engine.apply(command, NOW_NS)
    table.do("CANCEL bob#1")
    again = table.engine.apply(command, NOW_NS)
    assert again.order.status is Status.CANCELLED
    assert table.left() == []
    foreign = table.engine.apply(replace(command, user_id=uid("mallory")), NOW_NS)
    assert foreign.refusal is Reason.KEY_REUSED


def test_a_tombstone_keeps_a_late_order_out_and_leaves_a_known_one_alone() -> None:
    table = Table()
    command = table.command("BUY 3 @ 100 bob")
    dead = table.engine.apply(Tombstone(command.order_id, command.user_id, command.symbol), NOW_NS)
    assert (dead.order.status, dead.order.reason) == (Status.REJECTED, Reason.GIVEN_UP)
    late = table.engine.apply(command, NOW_NS)
    assert (late.order.status, late.updates) == (Status.REJECTED, ())
    assert table.left() == []
    table.run("BUY 1 @ 100 carol")
    known = table.engine.apply(Tombstone(order_id("carol#1"), uid("carol"), "BTC/USDT"), NOW_NS)
    assert known.order.status is Status.OPEN
    assert table.left() == ["BUY 100 1 carol#1"]


def test_closed_orders_are_forgotten_after_a_day_and_then_never_done_again() -> None:
    table = Table()
    command = table.command("BUY 3 @ 100 bob")
    table.engine.apply(command, NOW_NS)
    table.do("CANCEL bob#1")
    day = 24 * 3600 * 10**9
    kept = table.engine.apply(command, NOW_NS + day)
    assert kept.order.status is Status.CANCELLED
    late = table.engine.apply(command, NOW_NS + day + 1)
    assert (late.order.status, late.order.reason) == (Status.REJECTED, Reason.TOO_LATE)
    assert late.order.releases == (units("300"),)
    assert order_id("bob#1") not in table.engine.orders


REJECTED = [
    ("off tick", {"price": units("100.001")}, Reason.PRICE_OFF_TICK),
    ("off lot", {"quantity": units("1.001")}, Reason.QUANTITY_OFF_LOT),
    ("not enough reserved", {"reserved": units("99.99")}, Reason.RESERVATION_EXHAUSTED),
]


@pytest.mark.parametrize(("change", "reason"), [row[1:] for row in REJECTED], ids=[row[0] for row in REJECTED])
def test_orders_that_break_a_rule_are_rejected_and_free_what_they_hold(change: dict, reason: Reason) -> None:
    table = Table()
    command = replace(table.command("BUY 1 @ 100 bob"), **change)
    outcome = table.engine.apply(command, NOW_NS)
    assert (outcome.order.status, outcome.order.reason) == (Status.REJECTED, reason)
    assert outcome.order.releases == (command.reserved,)
    assert table.left() == []


def test_fees_are_taken_from_what_each_party_receives_rounded_up() -> None:
    table = Table()
    table.run("SELL 0.01 @ 0.33 alice")
    trade = table.do("BUY 0.01 @ 0.33 bob").trades[0]
    # taker 0.2 % of 0.01 BTC; maker 0.1 % of 0.0033 USDT = 330000 units: exactly 330
    assert (trade.buyer_fee, trade.seller_fee) == (2000, 330)
    table.run("SELL 0.01 @ 0.07 alice")
    assert table.do("BUY 0.01 @ 0.07 bob").trades[0].seller_fee == 70
    odd = Table(symbol=replace(table.symbol, maker_fee_bps=7))
    odd.run("SELL 0.01 @ 0.01 alice")
    assert odd.do("BUY 0.01 @ 0.01 bob").trades[0].seller_fee == 7  # 0.07 % of 10,000 units


def test_trade_numbers_have_no_gaps_and_ids_come_from_time_and_number() -> None:
    table = Table()
    table.run("SELL 3 @ 100 alice")
    trades = [table.do(f"BUY 1 @ 100 {name}").trades[0] for name in ("bob", "carol", "dave")]
    assert [trade.sequence for trade in trades] == [1, 2, 3]
    assert len({trade.trade_id for trade in trades}) == 3
    assert all(
        (trade.trade_id[14] == "7" and trade.trade_id[19] == "8") or trade.trade_id[19] in "89ab" for trade in trades
    )
    assert all(int(trade.trade_id[:8] + trade.trade_id[9:13], 16) == NOW_NS // 10**6 for trade in trades)


def test_an_order_is_told_to_its_owner_in_its_market_alone() -> None:
    table = Table()
    table.do("SELL 1 @ 100 ann")
    order = table.order("ann#1")
    asked = AskOrder(order.order_id, order.user_id, order.symbol)
    assert table.engine.tell(asked).order.status is Status.OPEN
    for other in ({"order_id": order_id("ann#2")}, {"user_id": uid("bob")}, {"symbol": "ETH/USDT"}):
        assert table.engine.tell(replace(asked, **other)).refusal is Reason.ORDER_NOT_FOUND, other


def test_each_change_of_an_order_has_the_next_number() -> None:
    table = Table()
    versions = [table.do("SELL 5 @ 100 ann").order.version]
    for line in ("BUY 1 @ 100 bob", "AMEND ann#1 TO 3", "AMEND ann#1 TO 3 HAS 9", "AMEND ann#1 @ 101", "CANCEL ann#1"):
        table.do(line)
        versions.append(table.order("ann#1").version)
    assert versions == [1, 2, 3, 4, 5, 6]
