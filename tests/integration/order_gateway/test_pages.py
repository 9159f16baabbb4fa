"""Pages of a user's orders: right, and bounded in what one question looks at, however long the history is."""

import time

import pytest

from libs.ids import FIRST_ID, LAST_ID, first_id_at, new_id
from services.order_gateway import store
from services.order_gateway.store import OrderStore
from tests.support.plans import generic_plan, rows_passed_over
from tests.support.records import insert_orders

LOOKED_AT = 10
OPEN, CANCELLED = 2, 5


async def walk(pool, user: str, *, symbol: str = "", open_only: bool = False, limit: int = 4) -> list[list[str]]:
    """The ids of every page."""
    pages, before = [], LAST_ID
    while before:
        orders, before = await OrderStore(pool).page(
            user, before=before, symbol=symbol, open_only=open_only, limit=limit
        )
        pages.append([order.order_id for order in orders])
    return pages


async def test_pages_of_one_symbol_are_whole_though_each_looks_at_few(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOOKED_AT_MAX", LOOKED_AT)
    user, other = new_id(), new_id()
    symbols = ["BTC/USDT"] * 3 + ["ETH/USDT"] * 25 + ["BTC/USDT", "ETH/USDT"] * 6
    mine = await insert_orders(pool.execute, user, [(symbol, CANCELLED) for symbol in symbols])
    await insert_orders(pool.execute, other, [("BTC/USDT", CANCELLED)] * 5)
    wanted = [order_id for order_id, symbol in zip(mine, symbols, strict=True) if symbol == "BTC/USDT"][::-1]
    pages = await walk(pool, user, symbol="BTC/USDT")
    assert [order_id for page in pages for order_id in page] == wanted
    assert [] in pages, "a page that looked at ten others is empty, and not the last"
    assert len(pages) > len(mine) / LOOKED_AT
    assert [order_id for page in await walk(pool, user) for order_id in page] == mine[::-1]


async def test_open_orders_are_found_below_any_number_of_closed_ones(pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOOKED_AT_MAX", LOOKED_AT)
    user = new_id()
    orders = [("BTC/USDT", OPEN), ("ETH/USDT", OPEN)] * 3 + [("BTC/USDT", CANCELLED)] * 50
    ids = await insert_orders(pool.execute, user, orders)
    assert await walk(pool, user, open_only=True) == [ids[5:1:-1], ids[1::-1]]
    assert await walk(pool, user, open_only=True, symbol="ETH/USDT") == [[ids[5], ids[3], ids[1]]]


async def test_the_sweep_looks_at_old_orders_alone_and_in_pages(pool) -> None:
    user = new_id()
    old = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)] * 7 + [("BTC/USDT", CANCELLED)])
    long_ago = [f"00{order_id[2:]}" for order_id in old]  # ids of decades ago
    for before, after in zip(old, long_ago, strict=True):
        await pool.execute("UPDATE orders.orders SET order_id = $2 WHERE order_id = $1", before, after)
    await pool.execute("UPDATE orders.orders SET updated_at = now() - interval '1 hour'")
    changed_lately = long_ago.pop(3)
    await pool.execute("UPDATE orders.orders SET updated_at = now() WHERE order_id = $1", changed_lately)
    await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)] * 300)
    sweep, pages = OrderStore(pool), [await OrderStore(pool).live(after=FIRST_ID, quiet_s=60, limit=4)]
    pages.append(await sweep.live(after=pages[0][-1].order_id, quiet_s=60, limit=4))
    assert [[order.order_id for order in page] for page in pages] == [long_ago[:4], long_ago[4:6]]
    async with pool.acquire() as connection:
        plan = await generic_plan(connection, store.SELECT_LIVE, (FIRST_ID, first_id_at(time.time() - 60), 60, 4))
    assert rows_passed_over(plan) <= 1, "\n".join(plan)


@pytest.mark.parametrize("name", ["SELECT_OPEN_PAGE", "SELECT_PAGE", "SELECT_LAST_LOOKED_AT"])
async def test_no_page_reads_a_whole_history(pool, name: str) -> None:
    user = new_id()
    await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)] + [("ETH/USDT", CANCELLED)] * 3000)
    last = LAST_ID
    page = await pool.fetchval(store.SELECT_LAST_LOOKED_AT, user, last, 100)
    values = {
        "SELECT_OPEN_PAGE": (user, last, "", 100),
        "SELECT_PAGE": (user, last, page, "BTC/USDT", 100),
        "SELECT_LAST_LOOKED_AT": (user, last, 100),
    }[name]
    async with pool.acquire() as connection:
        plan = await generic_plan(connection, getattr(store, name), values)
    assert rows_passed_over(plan) <= 100, "\n".join(plan)
