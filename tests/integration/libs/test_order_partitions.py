"""Orders by months: an id alone leads to one partition; a client's id is unique over all of them; what lives stays."""

import re
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from libs.db.migrations import migrate_down, migrate_up, read_migrations
from libs.db.pool import KEYED_PLANS
from libs.ids import first_id_at, new_id
from services.order_gateway import store
from tests.support.plans import generic_plan
from tests.support.records import insert_orders

OPEN, CANCELLED = 2, 5
BY_MONTH = 18


def id_at(time: datetime) -> str:
    """A UUIDv7 of that time."""
    return f"{first_id_at(time.timestamp())[:13]}{new_id()[13:]}"


@pytest.fixture
async def connection(empty_database: str):
    await migrate_up(empty_database)
    connection = await asyncpg.connect(empty_database, server_settings=KEYED_PLANS)
    yield connection
    await connection.close()


async def partition_of(connection, order_id: str) -> str:
    return await connection.fetchval("SELECT tableoid::regclass::text FROM orders.orders WHERE order_id = $1", order_id)


async def test_an_order_stands_in_the_month_of_its_id(connection) -> None:
    now = datetime.now(UTC)
    for time, partition in (
        (now, f"orders.orders_{now:%Y%m}"),
        (now.replace(day=28) + timedelta(days=4), None),
        (now - timedelta(days=400), "orders.orders_default"),
    ):
        order_id = id_at(time)
        assert await connection.fetchval("SELECT operations.time_of($1)", order_id) == pytest.approx(
            time, abs=timedelta(milliseconds=2)
        )
        await insert_orders(connection.execute, new_id(), [("BTC/USDT", OPEN)], ids=[order_id])
        assert await partition_of(connection, order_id) == (partition or f"orders.orders_{time:%Y%m}")


STATEMENTS = [
    ("by ids", store.SELECT_BY_IDS, lambda ids: [ids]),
    ("progress", store.SELECT_PROGRESS, lambda ids: [ids]),
    ("intent", store.INTEND, lambda ids: [ids[0], "{}", 0]),
    ("end of an intent", store.END_INTENT, lambda ids: [ids[0], 1, 0]),
    (
        "states",
        store.UPDATE_STATES,
        lambda ids: [
            ids, [2], [0], [1], [0], [0], [9], [0], [datetime.now(UTC)], [1], [False], [0], [0],
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "arguments"), [row[1:] for row in STATEMENTS], ids=[row[0] for row in STATEMENTS]
)
async def test_statements_by_id_touch_one_partition(connection, statement: str, arguments) -> None:
    order_id = id_at(datetime.now(UTC))
    await insert_orders(connection.execute, new_id(), [("BTC/USDT", OPEN)], ids=[order_id])
    plan = "\n".join(await generic_plan(connection, statement, arguments([order_id])))
    scanned = {
        partition
        for partition, rest in re.findall(r"(?:Scan|Update)[^\n]* on (orders_\w+)[^\n]*(\([^()]*\))\n", plan)
        if "never executed" not in rest
    }
    assert scanned <= {f"orders_{datetime.now(UTC):%Y%m}"}, plan
    assert "Seq Scan on orders" not in plan


async def test_old_months_leave_but_for_what_still_lives(connection) -> None:
    long_ago = [datetime(2020, month, 15, tzinfo=UTC) for month in (1, 2)]
    for time in long_ago:
        first, after = time.replace(day=1), (time.replace(day=1) + timedelta(days=32)).replace(day=1)
        bounds = [await connection.fetchval("SELECT operations.uuid_from($1)::text", end) for end in (first, after)]
        reach = f"FROM ('{bounds[0]}') TO ('{bounds[1]}')"
        await connection.execute(
            f"CREATE TABLE orders.orders_{time:%Y%m} PARTITION OF orders.orders FOR VALUES {reach}"
        )
    await insert_orders(connection.execute, new_id(), [("BTC/USDT", CANCELLED)], ids=[id_at(long_ago[0])])
    await insert_orders(connection.execute, new_id(), [("BTC/USDT", OPEN)], ids=[id_at(long_ago[1])])
    done = await connection.fetch("SELECT action, partition FROM operations.maintain_partitions()")
    assert [tuple(row) for row in done] == [("detached", "orders.orders_202001")]
    assert await connection.fetchval("SELECT count(*) FROM orders.orders") == 1
    assert await connection.fetchval("SELECT count(*) FROM orders.orders_202001") == 1, "detached, not dropped"


async def test_orders_of_before_keep_their_place_and_their_ids(empty_database: str) -> None:
    await migrate_up(empty_database)
    later = [step for step in read_migrations() if step.version >= BY_MONTH]
    await migrate_down(empty_database, steps_back=len(later))
    connection = await asyncpg.connect(empty_database)
    user, now = new_id(), datetime.now(UTC)
    orders = [id_at(now - timedelta(days=days)) for days in (0, 1, 40, 400)]
    await insert_orders(connection.execute, user, [("BTC/USDT", OPEN)] * len(orders), ids=orders)
    await migrate_up(empty_database)
    for order_id in orders:
        assert "default" not in await partition_of(connection, order_id)
    rows = await connection.fetch(
        "SELECT client_order_id, order_id::text FROM orders.client_ids WHERE user_id = $1", user
    )
    assert {row["order_id"]: row["client_order_id"] for row in rows} == {order_id: order_id for order_id in orders}
    await migrate_down(empty_database, steps_back=len(later))
    assert await connection.fetchval("SELECT count(*) FROM orders.orders") == 4
    await connection.close()
