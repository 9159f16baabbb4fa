"""No statement of the hot path reads a whole table, however stale the statistics are."""

from libs.ids import new_id
from services.wallet.core.operations import Deposit, Release, Reserve
from services.wallet.intake import Intake
from services.wallet.store import LedgerStore

ROWS_READ = "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'wallet' ORDER BY relname"


async def test_a_growing_ledger_is_never_scanned(pool) -> None:
    wallet = Intake(store=LedgerStore(pool))
    users = [new_id() for _ in range(5)]
    await wallet.apply([Deposit(user, "USDT", 10**12, new_id()) for user in users])
    for _ in range(40):
        orders = [(user, new_id()) for user in users for _ in range(20)]
        await wallet.apply([Reserve(user, "USDT", 100, order) for user, order in orders])
        await wallet.apply([Release(user, "USDT", 40, order, f"{order}/0") for user, order in orders])
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_stat_force_next_flush()")
    for holder in pool._holders:
        if holder._con is not None:
            await holder._con.execute("SELECT pg_stat_force_next_flush()")
    read = {row["relname"]: row["seq_tup_read"] for row in await pool.fetch(ROWS_READ)}
    assert read.keys() >= {"balances", "entries", "operations", "reservations"}
    assert {name: rows for name, rows in read.items() if rows > 100} == {}
