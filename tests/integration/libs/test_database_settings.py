"""What a database is set to by whoever runs it must not change what the services' statements mean."""

import asyncio

import asyncpg
import pytest
from structlog.testing import capture_logs
from tenacity import AsyncRetrying, stop_after_delay, wait_fixed

from cli.embedded import EmbeddedPostgres
from cli.stack import temporary_folder
from libs.config import Database
from libs.db.pool import open_pool


async def said_by(dsn: str, *names: str) -> list[str]:
    """What a service's session has these settings at."""
    pool = await open_pool(Database(dsn=dsn, role_prefix=""), service="tests")
    values = [await pool.fetchval("SELECT current_setting($1)", name) for name in names]
    await pool.close()
    return values


async def set_to(dsn: str, setting: str, value: str) -> None:
    connection = await asyncpg.connect(dsn)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    await connection.close()


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
async def test_statements_see_what_was_committed_before_them(empty_database: str, isolation: str) -> None:
    await set_to(empty_database, "default_transaction_isolation", isolation)
    assert await said_by(empty_database, "transaction_isolation") == ["read committed"]


@pytest.mark.parametrize(("value", "used"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
async def test_a_commit_is_at_least_flushed(empty_database: str, value: str, used: str) -> None:
    await set_to(empty_database, "synchronous_commit", value)
    assert await said_by(empty_database, "synchronous_commit") == [used]


async def test_a_server_that_does_not_flush_is_complained_about() -> None:
    with temporary_folder("trade-engine-test-") as folder:
        server = EmbeddedPostgres(folder)
        await asyncio.to_thread(server.start)
        try:
            with capture_logs() as logs:
                await said_by(server.dsn)
            assert logs == []
            await stop_flushing(server.dsn)
            with capture_logs() as logs:
                await said_by(server.dsn)
            assert [(line["log_level"], line["setting"]) for line in logs] == [("warning", "fsync")]
        finally:
            await asyncio.to_thread(server.stop)


async def stop_flushing(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    async for attempt in AsyncRetrying(stop=stop_after_delay(10), wait=wait_fixed(0.1)):
        with attempt:
            assert await connection.fetchval("SHOW fsync") == "off"
    await connection.close()
