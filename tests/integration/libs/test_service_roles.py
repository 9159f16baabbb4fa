"""What each service may do in the database: its own tables, and of those only what it needs."""

import asyncpg
import pytest

from libs.config import Database
from libs.db.pool import open_pool

SCHEMAS = {
    "wallet": "wallet",
    "matcher": "matcher",
    "settlement": "settlement",
    "order_gateway": "orders",
    "market_data": "market_data",
}
# The embedded bus is read where it stands; the leader's address in its lease.
BUS = {"matcher.outbox", "matcher.outbox_cursors"}
READS = {
    "settlement": {*BUS, "matcher.shards"},
    "order_gateway": {*BUS, "matcher.shards"},
    "market_data": {"matcher.shards"},
}
WRITES = {"settlement": {"matcher.outbox_cursors"}, "order_gateway": {"matcher.outbox_cursors"}}
TABLES = """
SELECT relnamespace::regnamespace || '.' || relname AS name, relnamespace::regnamespace::text AS schemaname
FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
  AND relnamespace::regnamespace::text = ANY ($1) ORDER BY 1
"""
APPEND_ONLY = ["wallet.entries", "wallet.operations", "matcher.journal", "settlement.trades"]


async def is_denied(pool, sql: str) -> bool:
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(sql)
    except asyncpg.InsufficientPrivilegeError as error:
        return "permission denied" in str(error)
    return False


@pytest.mark.parametrize("service", SCHEMAS)
async def test_a_service_reads_its_own_tables_and_no_others(database: str, service: str) -> None:
    pool = await open_pool(Database(dsn=database), service=service)
    looked_at = 0
    for table in await pool.fetch(TABLES, [*SCHEMAS.values(), "operations"]):
        may_read = table["schemaname"] == SCHEMAS[service] or table["name"] in READS.get(service, ())
        assert await is_denied(pool, f"SELECT 1 FROM {table['name']} LIMIT 1") != may_read, table["name"]
        if table["schemaname"] != SCHEMAS[service]:
            looked_at += 1
            assert await is_denied(pool, f"DELETE FROM {table['name']}"), table["name"]
            may_insert = table["name"] in WRITES.get(service, ())
            assert may_insert or await is_denied(pool, f"INSERT INTO {table['name']} DEFAULT VALUES"), table["name"]
    assert looked_at > 5
    await pool.close()


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_what_is_append_only_cannot_be_changed_by_the_service_that_owns_it(database: str, table: str) -> None:
    schema = table.partition(".")[0]
    service = next(name for name, owned in SCHEMAS.items() if owned == schema)
    pool = await open_pool(Database(dsn=database), service=service)
    column = "trade_id" if schema == "settlement" else "created_at"
    for sql in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        assert await is_denied(pool, sql), sql
    await pool.close()


async def test_no_service_can_make_or_drop_tables(database: str) -> None:
    for service, schema in SCHEMAS.items():
        pool = await open_pool(Database(dsn=database), service=service)
        assert await is_denied(pool, f"CREATE TABLE {schema}.more (x int)")
        assert await is_denied(pool, f"CREATE ROLE {service}_more")
        await pool.close()
