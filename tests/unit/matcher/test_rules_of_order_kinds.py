"""Every kind of order beyond limit and market, each rule as a table: what was done before, the command, what it led to."""

from dataclasses import replace

import pytest

from libs.orders import Status, SymbolStatus
from libs.reasons import Reason
from services.matcher.core.engine import CLEARED_FROM, DUE_AT_ONCE_MAX
from tests.support.tables import Table, told, units

LADDER = """
SELL 2 @ 102 ann
SELL 2 @ 101 ann
BUY 2 @ 99 ann
BUY 2 @ 98 ann
"""
TRADED_AT_100 = "SELL 1 @ 100 x\nBUY 1 @ 100 y"

# name, lines before, command, what stands in the book, who waits, what became of whom
CASES = [
    # fill or kill
    ("FOK fills whole", "SELL 2 @ 100 ann\nSELL 2 @ 101 ann", "BUY 4 @ 101 bob FOK", [], [], {"bob#1": "FILLED"}),
    ("FOK looks before it leaps", "SELL 2 @ 100 ann\nSELL 2 @ 101 ann", "BUY 5 @ 101 bob FOK",
     ["SELL 100 2 ann#1", "SELL 101 2 ann#2"], [], {"bob#1": "EXPIRED FOK_UNFILLABLE", "ann#1": "OPEN"}),
    ("FOK counts only what is within its price", "SELL 2 @ 100 ann\nSELL 2 @ 101 ann", "BUY 3 @ 100 bob FOK",
     ["SELL 100 2 ann#1", "SELL 101 2 ann#2"], [], {"bob#1": "EXPIRED FOK_UNFILLABLE"}),
    ("FOK counts what an iceberg hides", "SELL 5 @ 100 ann SHOW 1", "BUY 5 @ 100 bob FOK", [], [], {"bob#1": "FILLED"}),
    ("FOK does not count own orders", "SELL 2 @ 100 bob\nSELL 2 @ 100 ann", "BUY 4 @ 100 bob FOK STP CANCEL_OLDEST",
     ["SELL 100 2 bob#1", "SELL 100 2 ann#1"], [], {"bob#2": "EXPIRED FOK_UNFILLABLE"}),
    ("a market FOK may not spend more than it has", "SELL 2 @ 100 ann", "BUY 2 MARKET bob FOK HAS 199",
     ["SELL 100 2 ann#1"], [], {"bob#1": "EXPIRED FOK_UNFILLABLE"}),
    # post only
    ("post-only rests where it does not trade", LADDER, "BUY 1 @ 100 bob POST",
     ["SELL 101 2 ann#2", "SELL 102 2 ann#1", "BUY 100 1 bob#1", "BUY 99 2 ann#3", "BUY 98 2 ann#4"], [],
     {"bob#1": "OPEN"}),
    ("post-only is rejected where it would trade", "SELL 2 @ 101 ann", "BUY 1 @ 101 bob POST",
     ["SELL 101 2 ann#1"], [], {"bob#1": "REJECTED POST_ONLY_WOULD_TRADE"}),
    ("... also with an own order", "SELL 2 @ 101 bob", "BUY 1 @ 101 bob POST",
     ["SELL 101 2 bob#1"], [], {"bob#2": "REJECTED POST_ONLY_WOULD_TRADE"}),
    ("post-only steps one tick aside on request", "SELL 2 @ 101 ann", "BUY 1 @ 105 bob REPRICE",
     ["SELL 101 2 ann#1", "BUY 100.99 1 bob#1"], [], {"bob#1": "OPEN"}),
    ("... and so when selling", "BUY 2 @ 101 ann", "SELL 1 @ 95 bob REPRICE",
     ["SELL 101.01 1 bob#1", "BUY 101 2 ann#1"], [], {"bob#1": "OPEN"}),
    ("... unless there is no price below", "SELL 2 @ 0.01 ann", "BUY 1 @ 1 bob REPRICE",
     ["SELL 0.01 2 ann#1"], [], {"bob#1": "REJECTED POST_ONLY_WOULD_TRADE"}),
    # iceberg
    ("a refreshed slice goes to the back", "SELL 5 @ 100 ann SHOW 2\nSELL 2 @ 100 cid", "BUY 3 @ 100 bob",
     ["SELL 100 1 cid#1", "SELL 100 3 ann#1"], [], {"ann#1": "PARTIALLY_FILLED"}),
    ("a slice that is not used up keeps its place", "SELL 5 @ 100 ann SHOW 2\nSELL 2 @ 100 cid", "BUY 1 @ 100 bob",
     ["SELL 100 4 ann#1", "SELL 100 2 cid#1"], [], {"ann#1": "PARTIALLY_FILLED"}),
    ("one order can eat every slice", "SELL 5 @ 100 ann SHOW 2", "BUY 5 @ 100 bob", [], [], {"ann#1": "FILLED"}),
    # self-trade prevention
    ("cancel newest is the default", "SELL 1 @ 100 bob", "BUY 1 @ 100 bob",
     ["SELL 100 1 bob#1"], [], {"bob#2": "CANCELLED SELF_TRADE_PREVENTED"}),
    ("cancel oldest goes on with the next", "SELL 1 @ 100 bob\nSELL 1 @ 100 ann", "BUY 1 @ 100 bob STP CANCEL_OLDEST",
     [], [], {"bob#1": "CANCELLED SELF_TRADE_PREVENTED", "bob#2": "FILLED", "ann#1": "FILLED"}),
    ("cancel both", "SELL 1 @ 100 bob\nSELL 1 @ 100 ann", "BUY 2 @ 100 bob STP CANCEL_BOTH", ["SELL 100 1 ann#1"], [],
     {"bob#1": "CANCELLED SELF_TRADE_PREVENTED", "bob#2": "CANCELLED SELF_TRADE_PREVENTED"}),
    ("decrement takes the smaller from both", "SELL 3 @ 100 bob", "BUY 1 @ 100 bob STP DECREMENT",
     ["SELL 100 2 bob#1"], [], {"bob#1": "OPEN SELF_TRADE_PREVENTED", "bob#2": "CANCELLED SELF_TRADE_PREVENTED"}),
    ("... and goes on where the incoming is larger", "SELL 1 @ 100 bob\nSELL 1 @ 100 ann", "BUY 3 @ 100 bob STP DECREMENT",
     ["BUY 100 1 bob#2"], [], {"bob#1": "CANCELLED SELF_TRADE_PREVENTED", "bob#2": "PARTIALLY_FILLED"}),
    # stops
    ("a stop waits", TRADED_AT_100, "SELL 1 STOP 95 bob", [], ["SELL 95 1 bob#1"], {"bob#1": "OPEN"}),
    ("a sell stop goes at its price", f"{TRADED_AT_100}\nSELL 1 STOP 95 bob\nBUY 5 @ 95 ann", "SELL 1 @ 95 cid",
     ["BUY 95 3 ann#1"], [], {"bob#1": "FILLED"}),
    ("... and not above it", f"{TRADED_AT_100}\nSELL 1 STOP 95 bob\nBUY 5 @ 95.01 ann", "SELL 1 @ 95.01 cid",
     ["BUY 95.01 4 ann#1"], ["SELL 95 1 bob#1"], {"bob#1": "OPEN"}),
    ("a buy stop goes at its price", f"{TRADED_AT_100}\nBUY 1 STOP 105 bob\nSELL 5 @ 105 ann", "BUY 1 @ 105 cid",
     ["SELL 105 3 ann#1"], [], {"bob#1": "FILLED"}),
    ("a stop that is met already goes at once", f"{TRADED_AT_100}\nBUY 5 @ 99 ann", "SELL 1 STOP 100 bob",
     ["BUY 99 4 ann#1"], [], {"bob#1": "FILLED"}),
    ("without any trade nothing is met", "BUY 5 @ 99 ann", "SELL 1 STOP 100 bob",
     ["BUY 99 5 ann#1"], ["SELL 100 1 bob#1"], {"bob#1": "OPEN"}),
    ("a stop-limit rests at its limit", f"{TRADED_AT_100}\nSELL 2 @ 96 STOP 95 bob\nBUY 1 @ 95 ann", "SELL 1 @ 95 cid",
     ["SELL 96 2 bob#1"], [], {"bob#1": "OPEN"}),
    ("a stop into an empty book expires", f"{TRADED_AT_100}\nSELL 1 STOP 95 bob\nBUY 1 @ 95 ann", "SELL 1 @ 95 cid",
     [], [], {"bob#1": "EXPIRED MARKET_REMAINDER"}),
    ("a stop is triggered by its own cascade",
     f"{TRADED_AT_100}\nSELL 1 STOP 96 bob\nSELL 1 STOP 95 cid\nBUY 2 @ 96 ann\nBUY 1 @ 95 ann\nBUY 1 @ 94 ann",
     "SELL 2 @ 96 dan", [], [], {"bob#1": "FILLED", "cid#1": "FILLED", "dan#1": "FILLED"}),
    ("sell stops go from the highest price down",
     f"{TRADED_AT_100}\nSELL 1 STOP 95 low\nSELL 1 STOP 97 high\nBUY 1 @ 94 ann\nBUY 1 @ 93 ann", "SELL 1 @ 94 dan",
     [], [], {"high#1": "FILLED", "low#1": "EXPIRED MARKET_REMAINDER"}),
    ("buy stops go before sell stops, whose band is then another",
     "SELL 1 STOP 99 sell\nBUY 1 STOP 99 buy\nBUY 1 @ 99 ann\nBUY 1 @ 94.3 ann\nSELL 1 @ 99.5 ann", "SELL 1 @ 99 dan",
     ["BUY 94.3 1 ann#2"], [], {"buy#1": "FILLED", "sell#1": "EXPIRED MARKET_BAND"}),
    ("equal stops go by age", f"{TRADED_AT_100}\nSELL 1 STOP 95 old\nSELL 1 STOP 95 new\nBUY 2 @ 95 ann", "SELL 1 @ 95 dan",
     [], [], {"old#1": "FILLED", "new#1": "EXPIRED MARKET_REMAINDER"}),
    # trailing stops
    ("a trailing stop follows the price up", f"{TRADED_AT_100}\nSELL 1 TRAIL 3 bob\nSELL 1 @ 105 x", "BUY 1 @ 105 y",
     [], ["SELL 102 1 bob#1"], {"bob#1": "OPEN"}),
    ("... and not down, but goes", f"{TRADED_AT_100}\nSELL 1 TRAIL 3 bob\nBUY 2 @ 97 ann", "SELL 1 @ 97 y",
     [], [], {"bob#1": "FILLED"}),
    ("... by basis points of the best price", f"{TRADED_AT_100}\nSELL 1 TRAIL 250bps bob\nSELL 1 @ 104 x", "BUY 1 @ 104 y",
     [], ["SELL 101.4 1 bob#1"], {"bob#1": "OPEN"}),
    ("a buying one follows down", f"{TRADED_AT_100}\nBUY 1 TRAIL 3 bob\nBUY 1 @ 96 x", "SELL 1 @ 96 y",
     [], ["BUY 99 1 bob#1"], {"bob#1": "OPEN"}),
    ("before the first trade it has no stop price", "", "SELL 1 TRAIL 3 bob", [], ["SELL 0 1 bob#1"], {"bob#1": "OPEN"}),
    # one cancels the other
    ("an OCO rests and waits", TRADED_AT_100, "SELL 2 @ 110 OCO STOP 95 bob",
     ["SELL 110 2 bob#1"], ["SELL 95 2 bob#1"], {"bob#1": "OPEN"}),
    ("its first fill ends the waiting", f"{TRADED_AT_100}\nSELL 2 @ 104 OCO STOP 95 bob", "BUY 1 @ 104 cid",
     ["SELL 104 1 bob#1"], [], {"bob#1": "PARTIALLY_FILLED"}),
    ("its trigger ends the resting", f"{TRADED_AT_100}\nSELL 2 @ 104 OCO STOP 95 bob\nBUY 3 @ 95 ann", "SELL 1 @ 95 cid",
     [], [], {"bob#1": "FILLED"}),
    ("... and it goes on at its second limit", f"{TRADED_AT_100}\nSELL 2 @ 104 OCO STOP 95 THEN 94.5 bob\nBUY 1 @ 95 ann",
     "SELL 1 @ 95 cid", ["SELL 94.5 2 bob#1"], [], {"bob#1": "OPEN"}),
    ("one that trades at once waits for nothing", f"{TRADED_AT_100}\nBUY 1 @ 101 ann", "SELL 2 @ 101 OCO STOP 95 bob",
     ["SELL 101 1 bob#1"], [], {"bob#1": "PARTIALLY_FILLED"}),
    ("cancelling one cancels both halves", f"{TRADED_AT_100}\nSELL 2 @ 104 OCO STOP 95 bob", "CANCEL bob#1",
     [], [], {"bob#1": "CANCELLED CANCELLED_BY_USER"}),
    # bands
    ("a market order stops at the band", f"{TRADED_AT_100}\nSELL 1 @ 105 ann\nSELL 1 @ 105.01 ann", "BUY 2 MARKET bob",
     ["SELL 105.01 1 ann#2"], [], {"bob#1": "EXPIRED MARKET_BAND"}),
    ("... and so when selling", f"{TRADED_AT_100}\nBUY 1 @ 95 ann\nBUY 1 @ 94.99 ann", "SELL 2 MARKET bob",
     ["BUY 94.99 1 ann#2"], [], {"bob#1": "EXPIRED MARKET_BAND"}),
    ("by amount it has then spent what it could", f"{TRADED_AT_100}\nSELL 1 @ 105 ann\nSELL 1 @ 106 ann",
     "BUY MARKET FOR 200 bob", ["SELL 106 1 ann#2"], [], {"bob#1": "FILLED"}),
    # amends
    ("more quantity goes to the back", "SELL 1 @ 100 ann\nSELL 1 @ 100 bob", "AMEND ann#1 TO 2 HAS 2",
     ["SELL 100 1 bob#1", "SELL 100 2 ann#1"], [], {"ann#1": "OPEN"}),
    ("another price goes to the back there", "SELL 1 @ 100 ann\nSELL 1 @ 101 bob", "AMEND ann#1 @ 101",
     ["SELL 101 1 bob#1", "SELL 101 1 ann#1"], [], {"ann#1": "OPEN"}),
    ("less quantity keeps its place", "SELL 2 @ 100 ann\nSELL 1 @ 100 bob", "AMEND ann#1 TO 1",
     ["SELL 100 1 ann#1", "SELL 100 1 bob#1"], [], {"ann#1": "OPEN"}),
    ("an amend into a cross trades", "SELL 1 @ 100 ann\nBUY 2 @ 99 bob", "AMEND ann#1 @ 99",
     ["BUY 99 1 bob#1"], [], {"ann#1": "FILLED", "bob#1": "PARTIALLY_FILLED"}),
    ("an iceberg loses what it hides first", "SELL 5 @ 100 ann SHOW 2\nSELL 1 @ 100 bob", "AMEND ann#1 TO 3",
     ["SELL 100 3 ann#1", "SELL 100 1 bob#1"], [], {"ann#1": "OPEN"}),
    ("a stop's price can move", f"{TRADED_AT_100}\nSELL 1 STOP 95 bob", "AMEND bob#1 STOP 96",
     [], ["SELL 96 1 bob#1"], {"bob#1": "OPEN"}),
    ("... into being met", f"{TRADED_AT_100}\nSELL 1 STOP 95 bob\nBUY 1 @ 99 ann", "AMEND bob#1 STOP 101",
     [], [], {"bob#1": "FILLED"}),
    ("a post-only amend steps aside again", "BUY 1 @ 98 ann REPRICE\nSELL 1 @ 100 bob", "AMEND ann#1 @ 101 HAS 101",
     ["SELL 100 1 bob#1", "BUY 99.99 1 ann#1"], [], {"ann#1": "OPEN"}),
    # cancel all
    ("all of a user go, with what waits", f"{LADDER}SELL 1 STOP 90 ann\nBUY 1 @ 97 bob", "CANCELALL ann",
     ["BUY 97 1 bob#1"], [], {"ann#1": "CANCELLED CANCELLED_BY_USER", "ann#5": "CANCELLED CANCELLED_BY_USER"}),
    ("only those of a session", "SELL 1 @ 100 ann SESSION one\nSELL 1 @ 101 ann SESSION two", "CANCELALL ann SESSION one",
     ["SELL 101 1 ann#2"], [], {"ann#1": "CANCELLED CANCELLED_BY_USER", "ann#2": "OPEN"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "command", "left", "waiting", "statuses"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_rule(before: str, command: str, left: list[str], waiting: list[str], statuses: dict[str, str]) -> None:
    table = Table()
    table.run(before)
    outcome = table.do(command)
    assert outcome.refusal is Reason.NONE
    assert table.left() == left
    assert table.stops() == waiting
    assert {name: table.status(name) for name in statuses} == statuses


REFUSED_AMENDS = [
    ("a market stop has no limit price", "SELL 1 STOP 95 ann", "AMEND ann#1 @ 96", Reason.FIELD_NOT_ALLOWED, "price"),
    ("a limit order has no stop price", "SELL 1 @ 100 ann", "AMEND ann#1 STOP 96", Reason.FIELD_NOT_ALLOWED, "stop_price"),
    ("a trailing stop's price is the market's", "SELL 1 TRAIL 5 ann", "AMEND ann#1 STOP 96", Reason.FIELD_NOT_ALLOWED,
     "stop_price"),
    ("off tick", "SELL 1 @ 100 ann", "AMEND ann#1 @ 100.001", Reason.PRICE_OFF_TICK, "price"),
    ("off lot", "SELL 1 @ 100 ann", "AMEND ann#1 TO 1.001", Reason.QUANTITY_OFF_LOT, "quantity"),
    ("more than is reserved", "SELL 1 @ 100 ann", "AMEND ann#1 TO 2", Reason.RESERVATION_EXHAUSTED, "quantity"),
    ("dearer than is reserved", "BUY 1 @ 100 ann", "AMEND ann#1 @ 101", Reason.RESERVATION_EXHAUSTED, "price"),
    ("post-only into a cross", "BUY 1 @ 98 ann POST\nSELL 1 @ 100 bob", "AMEND ann#1 @ 100 HAS 100",
     Reason.POST_ONLY_WOULD_TRADE, "price"),
    ("another's order", "SELL 1 @ 100 ann", "AMEND ann#2 TO 2", Reason.ORDER_NOT_FOUND, "order_id"),
    ("a closed order", "SELL 1 @ 100 ann\nCANCEL ann#1", "AMEND ann#1 TO 2", Reason.ORDER_CLOSED, "order_id"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "command", "reason", "field"),
    [row[1:] for row in REFUSED_AMENDS],
    ids=[row[0] for row in REFUSED_AMENDS],
)
def test_amends_that_are_refused_leave_the_order_as_it_is(
    before: str, command: str, reason: Reason, field: str
) -> None:
    table = Table()
    table.run(before)
    book, waiting = table.left(), table.stops()
    outcome = table.do(command)
    assert (outcome.refusal, outcome.refused_field) == (reason, field)
    assert (table.left(), table.stops()) == (book, waiting)


def test_what_was_reserved_for_a_refused_amend_is_set_free() -> None:
    table = Table()
    table.run("BUY 1 @ 100 ann")
    refused = table.do("AMEND ann#1 @ 100.001 HAS 130")
    assert refused.refusal is Reason.PRICE_OFF_TICK
    assert refused.order.releases == (units("30"),)
    assert refused.updates == (refused.order,)
    assert told(table.do("AMEND ann#1 @ 100.001 HAS 130").order) == told(refused.order), (
        "a repeat reserves nothing more"
    )
    table.do("CANCEL ann#1")
    late = table.do("AMEND ann#1 @ 101 HAS 150")
    assert (late.refusal, late.order.releases) == (Reason.ORDER_CLOSED, (units("30"), units("100"), units("20")))


def test_a_repeated_amend_is_done_once() -> None:
    table = Table()
    table.run("BUY 1 @ 100 ann\nBUY 1 @ 101 bob")
    first = table.do("AMEND ann#1 TO 2 @ 101 HAS 202")
    again = table.do("AMEND ann#1 TO 2 @ 101 HAS 202")
    assert (told(again.order), again.updates) == (told(first.order), ())
    assert table.order("ann#1").held == units("202")
    assert table.left() == ["BUY 101 1 bob#1", "BUY 101 2 ann#1"]


STATES = [
    (SymbolStatus.HALTED, "REJECTED SYMBOL_NOT_TRADING", Reason.SYMBOL_NOT_TRADING, Reason.NONE),
    (SymbolStatus.MAINTENANCE, "REJECTED SYMBOL_NOT_TRADING", Reason.SYMBOL_NOT_TRADING, Reason.SYMBOL_NOT_TRADING),
]


@pytest.mark.parametrize(("state", "placed", "amended", "cancelled"), STATES)
def test_a_market_that_does_not_trade(state: SymbolStatus, placed: str, amended: Reason, cancelled: Reason) -> None:
    table = Table()
    table.run(f"{TRADED_AT_100}\nSELL 2 @ 101 ann\nSELL 1 STOP 95 bob")
    table.put_symbol(status=state)
    table.do("BUY 1 @ 101 cid")
    assert table.status("cid#1") == placed
    assert table.do("AMEND ann#1 TO 1").refusal is amended
    assert table.do("CANCEL ann#1").refusal is cancelled
    assert table.stops() == ["SELL 95 1 bob#1"], "a resting stop waits on"
    table.put_symbol(status=SymbolStatus.ACTIVE)
    table.run("BUY 2 @ 95 dan\nSELL 1 @ 95 eve")
    assert table.status("bob#1") == "FILLED"


def test_orders_of_a_delisted_market_are_cancelled_in_steps_and_set_free() -> None:
    table = Table()
    table.run("\n".join(f"SELL 1 @ {100 + number} ann" for number in range(600)) + "\nSELL 1 STOP 95 bob")
    table.put_symbol(status=SymbolStatus.DELISTED)
    outcomes = table.tick()
    assert [len(outcome.updates) for outcome in outcomes] == [500, 101]
    assert (table.left(), table.stops()) == ([], [])
    assert table.status("ann#600") == "CANCELLED SYMBOL_NOT_TRADING"
    assert all(order.held == 0 for order in table.engine.orders.values())
    table.do("SELL 1 @ 100 ann")
    assert table.status("ann#601") == "REJECTED SYMBOL_NOT_TRADING"


def test_day_orders_end_at_midnight_and_dated_ones_at_their_time() -> None:
    table = Table()
    table.run("SELL 1 @ 100 day DAY\nSELL 1 @ 101 dated GTD 60\nSELL 1 STOP 95 stop GTD 60\nSELL 1 @ 102 good")
    assert table.tick(59.999) == []
    (outcome,) = table.tick(0.001)
    assert len(outcome.updates) == 2
    assert table.status("dated#1") == table.status("stop#1") == "EXPIRED TIME_OVER"
    to_midnight = 86_400 - table.now_ns / 10**9 % 86_400
    table.tick(to_midnight - 0.01)
    assert table.status("day#1") == "OPEN"
    table.tick(0.01)
    assert table.status("day#1") == "EXPIRED TIME_OVER"
    assert table.left() == ["SELL 102 1 good#1"]
    table.run("SELL 1 @ 100 late GTD 0")
    assert table.status("late#1") == "REJECTED TIME_OVER"


def test_orders_whose_time_is_over_end_in_steps() -> None:
    table = Table()
    table.run("\n".join(f"SELL 1 @ {100 + number} ann GTD 60" for number in range(600)))
    outcomes = table.tick(60)
    assert [len(outcome.updates) for outcome in outcomes] == [DUE_AT_ONCE_MAX, 600 - DUE_AT_ONCE_MAX]
    assert table.left() == []


def test_orders_that_were_closed_before_their_time_are_not_remembered_until_then() -> None:
    table = Table()
    table.run("SELL 1 @ 99 stays GTD 60\nSELL 1 @ 98 moves GTD 60\nAMEND moves#1 @ 101")
    for number in range(1, 2 * CLEARED_FROM):
        table.run(f"SELL 1 @ 100 ann GTD 86400\nCANCEL ann#{number}")
    assert len(table.engine.expiries) <= CLEARED_FROM
    table.tick(60)
    assert table.status("stays#1") == table.status("moves#1") == "EXPIRED TIME_OVER"


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ("110", "OPEN"),
        ("110.01", "REJECTED PRICE_OUTSIDE_BAND"),
        ("90", "OPEN"),
        ("89.99", "REJECTED PRICE_OUTSIDE_BAND"),
    ],
)
def test_the_edges_of_the_price_band_are_inside(price: str, expected: str) -> None:
    table = Table(symbol=replace(Table().symbol, price_band_bps=1000))
    table.run(f"BUY 1 @ 200 first\nCANCEL first#1\n{TRADED_AT_100}")
    side = "SELL" if units(price) > units("100") else "BUY"
    table.do(f"{side} 1 @ {price} bob")
    assert table.status("bob#1") == expected
    table.do(f"{side} 1 @ 100.5 cid" if side == "SELL" else f"{side} 1 @ 99.5 cid")
    assert table.do(f"AMEND cid#1 @ {price} HAS 200").refusal is (
        Reason.NONE if expected == "OPEN" else Reason.PRICE_OUTSIDE_BAND
    )


def test_nobody_has_more_open_orders_than_the_market_allows() -> None:
    table = Table(symbol=replace(Table().symbol, max_open_orders=2))
    table.run("SELL 1 @ 100 ann\nSELL 1 STOP 95 ann\nSELL 1 @ 101 ann\nSELL 1 @ 101 bob")
    assert table.status("ann#3") == "REJECTED TOO_MANY_OPEN_ORDERS"
    table.run("CANCEL ann#2\nSELL 1 @ 101 ann")
    assert table.status("ann#4") == table.status("bob#1") == "OPEN"


def test_a_long_cascade_is_done_in_steps_that_a_tick_goes_on_with() -> None:
    table = Table()
    table.run(TRADED_AT_100)
    table.run("\n".join("SELL 1 STOP 95 ann" for _ in range(1200)))
    table.run("BUY 1201 @ 95 bob")
    outcome = table.do("SELL 1 @ 95 cid")
    assert len(outcome.trades) == 1 + 500
    assert outcome.fills == outcome.trades[:1], "the others are not of the order that set them off"
    assert table.engine.is_due(table.now_ns)
    table.put_symbol(status=SymbolStatus.HALTED)
    assert not table.engine.is_due(table.now_ns), "while it is halted nothing goes on"
    table.put_symbol(status=SymbolStatus.ACTIVE)
    assert table.do("CANCEL ann#1200").order.status is Status.CANCELLED, "one that stands in the queue can be cancelled"
    assert table.do("AMEND ann#1199 TO 0.5").refusal is Reason.ORDER_CLOSED
    assert [len(outcome.trades) for outcome in table.tick()] == [500, 199]
    assert table.left() == ["BUY 95 1 bob#1"]


def test_a_cancel_of_all_is_done_in_steps_and_tells_how_many_are_left() -> None:
    table = Table()
    table.run("\n".join(f"SELL 1 @ {100 + number} ann" for number in range(600)))
    first, second = table.do("CANCELALL ann"), table.do("CANCELALL ann")
    assert (len(first.updates), first.left, len(second.updates), second.left) == (500, 100, 100, 0)
    assert table.left() == []


def test_what_a_triggered_or_moved_order_no_longer_needs_is_set_free_at_once() -> None:
    table = Table()
    table.run(f"{TRADED_AT_100}\nBUY 1 @ 98 OCO STOP 105 THEN 106 ann")
    assert table.order("ann#1").held == units("106"), "the dearer half decides"
    table.do("SELL 0.5 @ 98 bob")
    assert table.order("ann#1").releases == (units("8"),)
    assert table.order("ann#1").held == units("49")
    moved = table.do("BUY 1 @ 105 cid REPRICE")
    assert moved.order.releases == ()
    table.run("SELL 1 @ 105.5 dan")
    assert table.do("BUY 1 @ 106 eve REPRICE").order.releases == (units("0.51"),)
