"""Pages of a user's fills: right, and bounded in what one question looks at, however much the user has traded."""

from datetime import UTC, datetime, timedelta

import pytest

from libs.ids import LAST_ID, new_id
from services.settlement import tape
from services.settlement.tape import END_OF_TIME, START_OF_TIME, Tape
from tests.support.plans import generic_plan, rows_passed_over

LOOKED_AT = 10
INSERT = """
INSERT INTO settlement.trades (trade_id, symbol, sequence, base_asset, quote_asset, price, quantity, buyer_user_id,
    buyer_order_id, seller_user_id, seller_order_id, maker_side, buyer_fee, seller_fee, executed_at)
VALUES ($1, $2, $3, 'BTC', 'USDT', 1, 1, $4, $5, $6, $7, 1, 0, 0, $8)
"""


class Market:
    """Trades of one user, some bought and some sold, a second apart over several days' partitions."""

    def __init__(self, pool) -> None:
        self.pool = pool
        self.user = new_id()
        self.time = datetime.now(UTC) - timedelta(days=1)
        self.count = 0

    async def trade(self, symbol: str, *, buys: bool, order_id: str = "", step_s: float = 1) -> str:
        self.count += 1
        self.time += timedelta(seconds=step_s)
        trade_id, mine, theirs = new_id(), (self.user, order_id or new_id()), (new_id(), new_id())
        parties = (*mine, *theirs) if buys else (*theirs, *mine)
        await self.pool.execute(INSERT, trade_id, symbol, self.count, *parties, self.time)
        return trade_id

    async def walk(self, *, symbol: str = "", order_id: str = "", limit: int = 3) -> list[list[str]]:
        """The ids of every page."""
        pages, before = [], (END_OF_TIME, LAST_ID)
        while before is not None:
            rows, before = await Tape(self.pool).fills(
                self.user, symbol=symbol, order_id=order_id, since=START_OF_TIME, until=END_OF_TIME, before=before,
                limit=limit,
            )  # fmt: skip
            pages.append([row["trade_id"] for row in rows])
        return pages


async def test_pages_of_one_symbol_or_order_are_whole_though_each_looks_at_few(
    pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "LOOKED_AT_MAX", LOOKED_AT)
    market, order = Market(pool), new_id()
    wanted, of_order, everything = [], [], []
    for number in range(120):
        # Mostly bought, so that the two sides reach back differently far; same times now and then.
        is_wanted = number < 5 or number % 40 == 0
        buys = number % 9 != 0
        trade_id = await market.trade(
            "BTC/USDT" if is_wanted else "ETH/USDT", buys=buys, order_id=order if number == 7 else "",
            step_s=0 if number % 7 == 0 else 600,
        )  # fmt: skip
        everything.append((market.time, trade_id))
        if is_wanted:
            wanted.append((market.time, trade_id))
        if number == 7:
            of_order.append((market.time, trade_id))

    def newest_first(trades: list[tuple[datetime, str]]) -> list[str]:
        return [trade_id for _, trade_id in sorted(trades, reverse=True)]

    pages = await market.walk(symbol="BTC/USDT")
    assert [trade_id for page in pages for trade_id in page] == newest_first(wanted)
    assert [] in pages, "a page that looked at ten others is empty, and not the last"
    pages = await market.walk(order_id=order)
    assert [trade_id for page in pages for trade_id in page] == newest_first(of_order)
    assert [trade_id for page in await market.walk() for trade_id in page] == newest_first(everything)


async def test_one_question_reads_no_whole_history(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "LOOKED_AT_MAX", 50)
    market = Market(pool)
    for number in range(600):
        await market.trade("ETH/USDT", buys=bool(number % 2))
    last = (END_OF_TIME, LAST_ID)
    end = await pool.fetchrow(tape.SELECT_LAST_LOOKED_AT, market.user, START_OF_TIME, END_OF_TIME, *last, 50)
    values = (market.user, "BTC/USDT", None, end[0], END_OF_TIME, *last, 100, *end)
    async with pool.acquire() as connection:
        plan = await generic_plan(connection, tape.SELECT_FILLS, values)
    assert rows_passed_over(plan) <= 110, "\n".join(plan)


async def test_what_was_traded_long_ago_is_found_below_the_last_days(pool) -> None:
    market = Market(pool)
    ages = [400, 200, 61, 59, 10, 3, 1]
    ids = []
    for age in ages:
        market.time = datetime.now(UTC) - timedelta(days=age)
        ids.append(await market.trade("BTC/USDT", buys=age % 2 == 0))
    for limit in (1, 2, 3, 100):
        pages = await market.walk(limit=limit)
        assert [trade_id for page in pages for trade_id in page] == ids[::-1]
        pages = await market.walk(symbol="BTC/USDT", limit=limit)
        assert [trade_id for page in pages for trade_id in page] == ids[::-1]
    trades, before = [], (END_OF_TIME, 2**62)
    while rows := await Tape(pool).trades("BTC/USDT", since=START_OF_TIME, until=END_OF_TIME, before=before, limit=2):
        trades += [row["trade_id"] for row in rows]
        before = (rows[-1]["executed_at"], rows[-1]["sequence"])
    assert trades == ids[::-1]


async def test_a_stream_goes_on_after_any_trade_however_long_ago(pool) -> None:
    market = Market(pool)
    ages_days = [400, 200, 200, 61, 59, 10, 10, 3, 0.5, 0.5]
    for age in ages_days:
        market.time = datetime.now(UTC) - timedelta(days=age, seconds=1)
        await market.trade("BTC/USDT", buys=True)
    moment = market.time
    for _ in range(3):  # several at once
        market.time = moment
        await market.trade("BTC/USDT", buys=True)
    found = Tape(pool)
    assert await found.newest("BTC/USDT") == (market.time, market.count)
    assert await found.newest("ETH/USDT") == (START_OF_TIME, 0)
    for number in range(market.count + 1):
        place = await found.place_of("BTC/USDT", number)
        after = [row["sequence"] for row in await found.after("BTC/USDT", place, 100)]
        assert after == list(range(number + 1, market.count + 1)), f"after trade {number}"


async def test_nothing_was_traded_in_the_year_1(pool) -> None:
    end = START_OF_TIME + timedelta(seconds=1)
    last = (END_OF_TIME, LAST_ID)
    assert await Tape(pool).fills(
        new_id(), symbol="", order_id="", since=START_OF_TIME, until=end, before=last, limit=9
    ) == ([], None)
    assert not await Tape(pool).trades("BTC/USDT", since=START_OF_TIME, until=end, before=(END_OF_TIME, 9), limit=9)


async def test_a_page_of_the_last_days_looks_into_no_older_day(pool) -> None:
    market = Market(pool)
    for number in range(20):
        await market.trade("BTC/USDT", buys=bool(number % 2))
    asked: list[datetime] = []

    class Watched:
        async def fetch(self, statement: str, *values):
            asked.append(min(value for value in values if isinstance(value, datetime)))
            return await pool.fetch(statement, *values)

    last = (END_OF_TIME, LAST_ID)
    rows, _ = await Tape(Watched()).fills(
        market.user, symbol="", order_id="", since=START_OF_TIME, until=END_OF_TIME, before=last, limit=20
    )
    assert len(rows) == 20
    assert len(asked) == 1
    assert asked[0] > datetime.now(UTC) - timedelta(days=3)
