"""The audit of a large ledger: how long it takes, and how much memory it needs beside the database."""

import argparse
import resource

import asyncpg
import uvloop
from rich.progress import Progress

from bench.support import Clock, write_results
from cli.embedded import EmbeddedPostgres
from cli.stack import temporary_folder
from libs.config import Database
from libs.db.migrations import migrate_up
from libs.db.pool import open_pool
from services.wallet.audit import audit

USERS = 10_000
STEP = 1_000_000
# A deposit per user, then reserve and release in turn: valid books of any size, made where they lie.
DEPOSIT = """
INSERT INTO wallet.entries (account_id, asset, sequence, entry_id, operation_id, kind, reference, available_delta,
    reserved_delta, available_after, reserved_after)
SELECT account, 'BTC', 1, gen_random_uuid(), operation, 'DEPOSIT', 'made', delta, 0, delta, 0
FROM (SELECT gen_random_uuid() AS operation, md5('user' || n)::uuid AS account, 1.5 AS delta
      FROM generate_series(1, $1::int) AS n) AS deposits
"""
OUTSIDE = """
INSERT INTO wallet.entries (account_id, asset, sequence, entry_id, operation_id, kind, reference, available_delta,
    reserved_delta, available_after, reserved_after)
SELECT '00000000-0000-0000-0000-000000000001', 'BTC', row_number() OVER (), gen_random_uuid(), operation_id, 'DEPOSIT',
       'made', -1.5, 0, -1.5 * row_number() OVER (), 0
FROM wallet.entries
"""
TURNS = """
INSERT INTO wallet.entries (account_id, asset, sequence, entry_id, operation_id, kind, reference, available_delta,
    reserved_delta, available_after, reserved_after)
SELECT account, 'BTC', 2 + 2 * turn + leg, gen_random_uuid(), gen_random_uuid(),
       CASE leg WHEN 0 THEN 'RESERVE' ELSE 'RELEASE' END::wallet.operation_kind, 'made',
       0.5 * (2 * leg - 1), 0.5 * (1 - 2 * leg), 1 + 0.5 * leg, 0.5 - 0.5 * leg
FROM (SELECT md5('user' || n)::uuid AS account FROM generate_series(1, $1::int) AS n) AS users,
     generate_series($2::int, $3::int - 1) AS turn, generate_series(0, 1) AS leg
"""
BALANCES = """
INSERT INTO wallet.balances (account_id, asset, kind, available, reserved, sequence)
SELECT account_id, asset,
       CASE account_id WHEN '00000000-0000-0000-0000-000000000001' THEN 'EXTERNAL' ELSE 'USER' END::wallet.account_kind,
       sum(available_delta), sum(reserved_delta), count(*)
FROM wallet.entries GROUP BY account_id, asset
"""


async def build(connection: asyncpg.Connection, entries: int, progress: Progress) -> int:
    turns = max(1, (entries - 2 * USERS) // (2 * USERS))
    task = progress.add_task("making entries", total=turns)
    await connection.execute(DEPOSIT, USERS)
    await connection.execute(OUTSIDE)
    per_step = max(1, STEP // (2 * USERS))
    for first in range(0, turns, per_step):
        last = min(turns, first + per_step)
        await connection.execute(TURNS, USERS, first, last)
        progress.update(task, completed=last)
    await connection.execute(BALANCES)
    await connection.execute("VACUUM ANALYZE")
    return int(await connection.fetchval("SELECT count(*) FROM wallet.entries"))


async def measure(dsn: str, entries: int) -> dict[str, object]:
    await migrate_up(dsn)
    with Progress() as progress:
        connection = await asyncpg.connect(dsn, command_timeout=3600)
        made = await build(connection, entries, progress)
        await connection.close()
        pool = await open_pool(Database(dsn=dsn), service="wallet")  # type: ignore[arg-type]  # pydantic makes it a secret
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tasks, clock, wrong, took = {}, Clock(), 0, {}
        async for result in audit(pool):
            task = tasks.setdefault(result.check, None) or progress.add_task(result.check, total=1.0)
            tasks[result.check] = task
            progress.update(task, completed=result.done)
            if result.done == 1:
                wrong += result.wrong
                took[result.check] = round(clock.seconds(), 1)
        seconds = clock.seconds()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await pool.close()
    assert wrong == 0, "the books were made right"
    return {
        "entries": made,
        "seconds": round(seconds, 1),
        "done_after_s": took,
        "client_memory_grew_mb": round((after - before) / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000, help="how many entries the ledger has, about")
    entries = parser.parse_args().entries
    with temporary_folder("trade-engine-bench-") as folder:
        postgres = EmbeddedPostgres(folder)
        postgres.start()
        try:
            figures = uvloop.run(measure(postgres.dsn, entries))
        finally:
            postgres.stop()
    per_s = round(figures["entries"] / figures["seconds"])  # type: ignore[operator]  # both are numbers
    write_results("audit", {"entries_per_s": per_s}, figures)


if __name__ == "__main__":
    main()
