"""Migrations: there and back again gives the same schema; what does not fit is refused."""

import asyncio
import shutil
from pathlib import Path

import asyncpg
import pytest

from libs.db.migrations import FOLDER, MigrationError, migrate_down, migrate_up, migration_status, read_migrations

SCHEMA = """
SELECT 'column' AS kind, table_schema || '.' || table_name || '.' || column_name AS name,
       data_type || coalesce(column_default, '') || is_nullable AS what
FROM information_schema.columns WHERE table_schema = ANY ($1)
UNION ALL
SELECT 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace::regnamespace::text = ANY ($1)
UNION ALL
SELECT 'index', schemaname || '.' || indexname, indexdef FROM pg_indexes
WHERE schemaname = ANY ($1)
UNION ALL
SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace::regnamespace::text = ANY ($1)
ORDER BY 1, 2
"""
SCHEMAS = ["wallet", "matcher", "settlement", "orders", "operations", "market_data"]


async def schema_of(dsn: str) -> list[tuple]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row.values()) for row in await connection.fetch(SCHEMA, SCHEMAS)]
    finally:
        await connection.close()


async def test_up_down_up_leaves_the_same_schema(empty_database: str) -> None:
    assert len(await migrate_up(empty_database)) == len(read_migrations())
    first = await schema_of(empty_database)
    assert len(first) > 50
    await migrate_down(empty_database, steps_back=len(read_migrations()))
    assert await schema_of(empty_database) == []
    await migrate_up(empty_database)
    assert await schema_of(empty_database) == first


async def test_up_again_does_nothing_and_status_tells(empty_database: str) -> None:
    assert all(state.applied_at is None for state in await migration_status(empty_database))
    await migrate_up(empty_database)
    assert await migrate_up(empty_database) == []
    assert all(state.applied_at is not None for state in await migration_status(empty_database))


async def test_many_runners_at_once_apply_each_step_once(empty_database: str) -> None:
    done = await asyncio.gather(*(migrate_up(empty_database) for _ in range(4)))
    assert sorted(step.version for steps in done for step in steps) == [step.version for step in read_migrations()]


async def test_a_changed_file_is_refused(empty_database: str, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(FOLDER, folder)
    await migrate_up(empty_database, folder=folder)
    first = next(folder.glob("000001_*.up.sql"))
    first.write_text(first.read_text() + "\n-- changed\n")
    with pytest.raises(MigrationError, match="changed after it was applied"):
        await migrate_up(empty_database, folder=folder)


def test_files_must_be_complete(tmp_path: Path) -> None:
    (tmp_path / "000001_one.up.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="has no"):
        read_migrations(tmp_path)
    (tmp_path / "000001_one.down.sql").write_text("SELECT 1")
    (tmp_path / "000003_three.up.sql").write_text("SELECT 1")
    (tmp_path / "000003_three.down.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="without gaps"):
        read_migrations(tmp_path)


async def test_a_failing_step_leaves_nothing_behind(empty_database: str, tmp_path: Path) -> None:
    (tmp_path / "000001_bad.up.sql").write_text("CREATE TABLE public.half (id int); SELECT 1/0;")
    (tmp_path / "000001_bad.down.sql").write_text("DROP TABLE public.half")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate_up(empty_database, folder=tmp_path)
    assert (await migration_status(empty_database, folder=tmp_path))[0].applied_at is None
