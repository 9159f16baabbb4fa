"""What PostgreSQL does to those who use one of its databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def cancel_statements(dsn: str, *, times: int) -> None:
    """Cancel what everybody is just doing, so many times, 30 ms apart."""
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(times):
            await connection.execute(f"SELECT pg_cancel_backend(pid) {_OTHERS}")
            await asyncio.sleep(0.03)
    finally:
        await connection.close()


@asynccontextmanager
async def read_only(dsn: str) -> AsyncIterator[None]:
    """Let nobody write, as some hosts do where a disk is full; all connect anew at both ends."""
    connection = await asyncpg.connect(dsn)
    try:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.execute(f"SELECT pg_terminate_backend(pid) {_OTHERS}")
        yield
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await connection.execute(f"SELECT pg_terminate_backend(pid) {_OTHERS}")
    finally:
        await connection.close()
