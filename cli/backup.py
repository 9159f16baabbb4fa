"""`trade-engine backup` and `restore`: PostgreSQL holds everything that matters, so it is saved and brought back as one."""

import subprocess
from pathlib import Path

import asyncpg

from cli.embedded import libpq_environment, postgres_program

ROLES = ("wallet", "matcher", "settlement", "order_gateway", "market_data", "operator")
_CREATE_ROLES = """
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[{names}] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        IF NOT pg_has_role(current_user, role, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
END $$
"""
_OURS = """
SELECT count(*) FROM pg_namespace
WHERE nspname IN ('wallet', 'matcher', 'settlement', 'orders', 'operations', 'market_data')
"""


class BackupError(Exception):
    """It was not saved, or not brought back; the text says why."""


def save(dsn: str, path: Path) -> int:
    """Save the whole database, as of one moment, while it is used; returns the file's size. Raises BackupError."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    _run("pg_dump", dsn, "--format=custom", "--no-owner", f"--file={unfinished}")
    unfinished.rename(path)
    return path.stat().st_size


async def bring_back(dsn: str, path: Path) -> None:
    """Bring a saved database back into one that has none of our schemas. Raises BackupError."""
    if not path.is_file():  # noqa: ASYNC240 - asked once, before anything else
        raise BackupError(f"there is no file {path}")
    connection = await asyncpg.connect(dsn)
    try:
        if await connection.fetchval(_OURS):
            raise BackupError("the database is not empty: bring it back into a new one")
        names = ", ".join(f"'trade_engine_{role}'" for role in ROLES)
        await connection.execute(_CREATE_ROLES.format(names=names))
    finally:
        await connection.close()
    _run(
        "pg_restore",
        dsn,
        f"--dbname={libpq_environment(dsn)['PGDATABASE']}",
        "--no-owner",
        "--exit-on-error",
        "--single-transaction",
        str(path),
    )


def _run(name: str, dsn: str, *arguments: str) -> None:
    program, environment = postgres_program(name, dsn)
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupError(f"{name} failed: {done.stderr.strip()[-2000:]}")
