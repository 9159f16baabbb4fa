"""Connection pools: amounts cross the border as ints in units of 10^-8, both ways, also in arrays."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
import structlog
from tenacity import wait_fixed

from libs import patience
from libs.config import Database
from libs.db.arrays import expect_lists
from libs.money import format_units, own_units

T = TypeVar("T")
Pool = asyncpg.Pool
# What makes asyncpg raise while a server is away, or is there but cannot do its work for now (PostgreSQL, appendix A).
DatabaseAway = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting, stopping, a statement cancelled
    asyncpg.InsufficientResourcesError,  # disk full, memory, too many connections
    asyncpg.PostgresSystemError,  # reading or writing a file failed
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a host's answer to a full disk
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that broke at a moment which asyncpg had not foreseen
)
START_PATIENCE_S = 30.0
CONNECT_WITHIN_S = 5.0
_WAIT = wait_fixed(0.3)
# Every statement of the services finds its rows by key. Statistics lag behind tables that grow by thousands of rows a
# second, and a plan that was made for a small table is kept: without this it goes on scanning a table that has grown, or
# (a bitmap has no order) sorts all of it for its first page.
KEYED_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

# The statements rest on it, whatever a database is set to.
_ISOLATION = {"default_transaction_isolation": "read committed"}
# Whoever waits for more than this server's disk goes on doing so.
_FLUSHED = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_UNSAFE = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'"

log = structlog.get_logger()


async def open_pool(settings: Database, *, service: str) -> Pool:
    """A pool for one service, in its role; waits up to 30 s for the server. Raises what asyncpg raises after that.

    Its sessions commit to the disk, whatever the database is set to; a server that never flushes is complained about.
    """
    expect_lists()
    session = {"application_name": f"trade-engine-{service.replace('_', '-')}", "timezone": "UTC"}
    if settings.session_settings:
        session |= _ISOLATION | KEYED_PLANS
        if settings.role_prefix:
            session["role"] = settings.role_prefix + service

    async def connect() -> Pool:
        return await asyncpg.create_pool(
            settings.dsn.get_secret_value(),
            min_size=1,
            max_size=settings.pool_max,
            timeout=CONNECT_WITHIN_S,
            command_timeout=settings.command_timeout_s,
            statement_cache_size=settings.statement_cache_size,
            init=_prepare_session if settings.session_settings else prepare_connection,
            reset=_leave_as_it_is,
            server_settings=session,
        )

    pool = await patiently(connect, patience_s=START_PATIENCE_S)
    for row in await patiently(lambda: pool.fetch(_UNSAFE), patience_s=START_PATIENCE_S):
        log.warning("the server does not flush to disk: what is acknowledged can be lost with it", setting=row["name"])
    return pool


@asynccontextmanager
async def transaction(pool: Pool, **options: Any) -> AsyncIterator[Any]:
    """A connection with an open transaction, which has `options` of asyncpg's `Connection.transaction`.

    A connection on which it could not be ended (the ROLLBACK was cancelled, or not answered) is closed, not used again.
    """
    async with pool.acquire() as connection:
        try:
            async with connection.transaction(**options):
                yield connection
        except BaseException:
            with suppress(asyncpg.InterfaceError):  # it is closed already
                if connection.is_in_transaction():
                    connection.terminate()
            raise


async def patiently(work: Callable[[], Awaitable[T]], *, patience_s: float) -> T:
    """What `work` returns; done again while the database is away. Raises what asyncpg raised when patience is over."""
    return await patience.patiently(work, is_passing=is_away, patience_s=patience_s, wait=_WAIT)


def is_away(error: BaseException) -> bool:
    """Whether the database is away, or cannot do its work for now."""
    return isinstance(error, DatabaseAway)


async def prepare_connection(connection: Any) -> None:
    """Teach a connection that NUMERIC means units."""
    await connection.set_type_codec(
        "numeric", schema="pg_catalog", encoder=format_units, decoder=own_units, format="text"
    )


async def _prepare_session(connection: Any) -> None:
    await prepare_connection(connection)
    await connection.execute(_FLUSHED)


async def _leave_as_it_is(connection: Any) -> None:
    """No statement of ours leaves anything in a session (settings are local to a transaction, LISTEN is taken back).

    asyncpg would send UNLISTEN and RESET ALL after every use of a connection: a second round trip for each statement.
    """
    del connection
