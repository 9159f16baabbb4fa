"""Schema changes: files NNNNNN_name.up.sql / .down.sql, each in a transaction of its own, one runner at a time."""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
_FILE = re.compile(r"(\d{6})_([a-z0-9_]+)\.up\.sql")
# Any number will do, as long as every runner takes the same.
_LOCK = 7_226_001

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS public.schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
SELECT_APPLIED = "SELECT version, checksum, applied_at FROM public.schema_migrations ORDER BY version"
INSERT_APPLIED = "INSERT INTO public.schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"
DELETE_APPLIED = "DELETE FROM public.schema_migrations WHERE version = $1"


class MigrationError(Exception):
    """The files and the database do not fit together."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step and the way back."""

    version: int
    name: str
    up: str
    down: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the step, so that a file changed after it was applied is found."""
        return hashlib.sha256(self.up.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A step and when it was applied (None: not yet)."""

    migration: Migration
    applied_at: datetime | None


def read_migrations(folder: Path = FOLDER) -> list[Migration]:
    """All steps in order. Raises MigrationError for gaps or a missing way back."""
    found = []
    for path in sorted(folder.glob("*.up.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named NNNNNN_name.up.sql")
        down = path.with_name(path.name.replace(".up.sql", ".down.sql"))
        if not down.exists():
            raise MigrationError(f"{path.name} has no {down.name}")
        found.append(Migration(int(match[1]), match[2], path.read_text(), down.read_text()))
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise MigrationError("migration numbers must be 1, 2, 3 ... without gaps")
    return found


async def migrate_up(dsn: str, *, folder: Path = FOLDER) -> list[Migration]:
    """Apply what is missing; returns it. Raises MigrationError where an applied file has changed since."""
    steps = read_migrations(folder)
    async with _Locked(dsn) as connection:
        applied = {row["version"]: row for row in await connection.fetch(SELECT_APPLIED)}
        _check_unchanged(steps, applied)
        done = []
        for step in steps:
            if step.version not in applied:
                async with connection.transaction():
                    await connection.execute(step.up)
                    await connection.execute(INSERT_APPLIED, step.version, step.name, step.checksum)
                done.append(step)
        return done


async def migrate_down(dsn: str, *, steps_back: int, folder: Path = FOLDER) -> list[Migration]:
    """Take back the last `steps_back` steps; returns them. Raises MigrationError."""
    known = {step.version: step for step in read_migrations(folder)}
    async with _Locked(dsn) as connection:
        versions = [row["version"] for row in await connection.fetch(SELECT_APPLIED)]
        done = []
        for version in reversed(versions[max(0, len(versions) - steps_back) :]):
            if version not in known:
                raise MigrationError(f"the database has migration {version}, which these files do not know")
            async with connection.transaction():
                await connection.execute(known[version].down)
                await connection.execute(DELETE_APPLIED, version)
            done.append(known[version])
        return done


async def migration_status(dsn: str, *, folder: Path = FOLDER) -> list[MigrationStatus]:
    """Every step and whether it is applied. Raises MigrationError."""
    steps = read_migrations(folder)
    async with _Locked(dsn) as connection:
        applied = {row["version"]: row for row in await connection.fetch(SELECT_APPLIED)}
        _check_unchanged(steps, applied)
        return [MigrationStatus(step, applied[step.version]["applied_at"] if step.version in applied else None)
                for step in steps]  # fmt: skip


def _check_unchanged(steps: list[Migration], applied: dict[int, Any]) -> None:
    for step in steps:
        if step.version in applied and applied[step.version]["checksum"] != step.checksum:
            raise MigrationError(f"migration {step.version}_{step.name} was changed after it was applied")
    if applied and max(applied) > len(steps):
        raise MigrationError(f"the database has migration {max(applied)}, which these files do not know")


class _Locked:
    """A connection that holds the migration lock; not through a transaction pooler, where session locks do not hold."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def __aenter__(self) -> Any:
        self._connection = await asyncpg.connect(self._dsn)
        await self._connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await self._connection.execute(CREATE_TABLE)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
