"""Whatever happens to a transaction, its connection is used again, or another one takes its place; and nobody is alarmed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from libs.config import Database
from libs.db import pool as pools
from libs.db.pool import Pool, is_away, open_pool, transaction
from tests.support.proxy import Proxy, proxy_before, through


class RollbackError(Exception):
    """A reason to roll back."""


@pytest.fixture
async def network(empty_database: str) -> AsyncIterator[Proxy]:
    """What lies between the pool and the server."""
    async with proxy_before(empty_database, usual_port=5432) as (proxy, _):
        yield proxy


@pytest.fixture
async def one_connection(empty_database: str, network: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    """A pool that comes to a stop as soon as one connection is lost to it."""
    monkeypatch.setattr(pools, "CONNECT_WITHIN_S", 1.0)
    dsn = through(empty_database, network.port)
    pool = await open_pool(Database(dsn=dsn, role_prefix="", pool_max=1), service="tests")
    await pool.execute("CREATE TABLE kept (number int)")
    yield pool
    pool.terminate()


@pytest.fixture
async def alarms() -> AsyncIterator[list[str]]:
    """What reached the loop's handler of last resort: services log it as an error."""
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: heard.append(context["message"]))
    yield heard
    loop.set_exception_handler(before)


def hold(network: Proxy) -> None:
    """From now on nothing passes; somewhat later it does again."""
    network.hold()
    asyncio.get_running_loop().call_later(0.6, network.release)


async def inserts(pool: Pool, then: Callable[[], Awaitable[object]], *, within_s: float | None = None) -> None:
    """A transaction which inserts, then does that; TimeoutError if it is not begun and ended within that time."""
    async with asyncio.timeout(within_s), transaction(pool) as connection:
        await connection.execute("INSERT INTO kept VALUES (1)")
        await then()


async def works(pool: Pool, network: Proxy, *, kept: tuple[int, ...] = (0,)) -> None:
    """The pool has its connection, and nothing of an earlier transaction is left but what may have been committed."""
    await network.passing.wait()
    async with transaction(pool) as connection:
        assert await connection.fetchval("SELECT count(*) FROM kept") in kept


async def test_one_that_cannot_be_begun(one_connection: Pool, network: Proxy, alarms: list[str]) -> None:
    for _ in range(3):
        hold(network)
        with pytest.raises(TimeoutError):
            await inserts(one_connection, asyncio.Event().wait, within_s=0.3)
        await works(one_connection, network)
    assert not alarms


async def test_one_that_cannot_be_rolled_back(one_connection: Pool, network: Proxy, alarms: list[str]) -> None:
    async def fail() -> None:
        hold(network)
        raise RollbackError

    for _ in range(3):
        with pytest.raises(TimeoutError):
            await inserts(one_connection, fail, within_s=0.3)
        await works(one_connection, network)
    assert not alarms


async def test_one_whose_rollback_is_cancelled_by_the_server(
    one_connection: Pool, network: Proxy, alarms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = asyncpg.Connection.execute

    async def cancelled(self: asyncpg.Connection, query: str, *args: object) -> str:
        if query == "ROLLBACK;":  # a server does so, but not on demand
            raise asyncpg.QueryCanceledError("canceling statement due to user request")
        return await execute(self, query, *args)

    async def fail() -> None:
        raise RollbackError

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "execute", cancelled)
        with pytest.raises(asyncpg.QueryCanceledError):
            await inserts(one_connection, fail)
    await works(one_connection, network)
    assert not alarms


async def test_one_whose_commit_is_not_heard_of(one_connection: Pool, network: Proxy, alarms: list[str]) -> None:
    async def go_on() -> None:
        hold(network)

    with pytest.raises(TimeoutError):
        await inserts(one_connection, go_on, within_s=0.3)
    await works(one_connection, network, kept=(0, 1))
    assert not alarms


async def test_one_whose_connection_breaks(one_connection: Pool, network: Proxy, alarms: list[str]) -> None:
    async def go_on() -> None:
        network.cut()

    with pytest.raises((asyncpg.InterfaceError, asyncpg.ConnectionDoesNotExistError)):
        await inserts(one_connection, go_on)
    await works(one_connection, network)
    assert not alarms


async def test_one_that_is_cancelled(one_connection: Pool, network: Proxy, alarms: list[str]) -> None:
    with pytest.raises(TimeoutError):
        await inserts(one_connection, asyncio.Event().wait, within_s=0.3)
    await works(one_connection, network)
    assert not alarms


async def test_a_server_that_does_not_greet_is_given_up(one_connection: Pool, network: Proxy) -> None:
    """As one whose machine is gone: asyncpg by itself would wait for a minute, and not look whether another is there now."""
    network.cut()
    with pytest.raises((asyncpg.InterfaceError, asyncpg.ConnectionDoesNotExistError, OSError)):
        await one_connection.execute("SELECT 1")
    network.hold()
    asking = asyncio.create_task(one_connection.execute("SELECT 1"))
    done, _ = await asyncio.wait({asking}, timeout=20)
    assert done, "asyncpg waits for 60 s"
    assert is_away(asking.exception())
    network.release()
    await works(one_connection, network)
