"""No statement of the hot path reads a whole table, however stale the statistics are."""

from datetime import UTC, datetime, timedelta

from libs.ids import new_id
from services.wallet.core.operations import Deposit, Release, Reserve
from services.wallet.history import History
from tests.support.ledger import ledgers

ROWS_READ = "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'wallet' ORDER BY relname"


async def test_a_growing_ledger_is_never_scanned(pool) -> None:
    users = [new_id() for _ in range(5)]
    async with ledgers(pool, 1) as (wallet,):
        await wallet.submit([Deposit(user, "USDT", 10**12, new_id()) for user in users])
        for _ in range(40):
            orders = [(user, new_id()) for user in users for _ in range(20)]
            await wallet.submit([Reserve(user, "USDT", 100, order) for user, order in orders])
            await wallet.submit([Release(user, "USDT", 40, order, f"{order}/0") for user, order in orders])
            # What a wallet that remembers nothing reads.
            async with ledgers(pool, 1) as (forgetful,):
                await forgetful.submit([Release(user, "USDT", 10, order, f"{order}/1") for user, order in orders])
            history = History(pool)
            moment = datetime.now(UTC) - timedelta(seconds=1)
            for reference in ("", f"{orders[0][1]}/1"):
                await history.entries(
                    users[0], asset="", reference=reference, from_time=moment, to_time=None, page_token="", limit=10
                )
            await history.open_reservations(older_than=datetime.now(UTC), page_token="", limit=10)
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
    for holder in pool._holders:
        if holder._con is not None:
            await holder._con.execute("SELECT pg_stat_force_next_flush()")
    read = {row["relname"]: row["seq_tup_read"] for row in await pool.fetch(ROWS_READ)}
    assert read.keys() >= {"balances", "entries", "operations", "reservations"}
    assert {name: rows for name, rows in read.items() if rows > 100} == {}
