"""What comes while something else is being decided or written, held there on purpose."""

import asyncio

from libs.ids import new_id
from libs.reasons import Reason, Refused
from services.wallet.audit import audit
from services.wallet.core.operations import Applied, Deposit, Reserve
from services.wallet.intake import Intake
from services.wallet.store import LedgerStore


class HeldStore(LedgerStore):
    """Holds writes and locked reads until they are let go."""

    def __init__(self, pool) -> None:
        super().__init__(pool)
        self.writes, self.reads = asyncio.Event(), asyncio.Event()
        self.writes.set()
        self.reads.set()
        self.reading = asyncio.Event()

    async def write(self, columns, connection=None) -> None:
        await self.writes.wait()
        await super().write(columns, connection)

    async def locked(self, *arguments):
        ledger = await super().locked(*arguments)
        self.reading.set()
        await self.reads.wait()
        return ledger


async def test_nothing_is_decided_on_memory_beside_what_is_decided_under_locks(pool) -> None:
    """A refusal is confirmed under locks, which renews what is remembered: an operation on it must not be under way."""
    store = HeldStore(pool)
    intake = Intake(store=store, batch_max=100, queue_max=1000)
    running = asyncio.create_task(intake.run())
    user = new_id()
    await intake.submit([Deposit(user, "USDT", 1000, new_id())])

    store.writes.clear()
    store.reads.clear()
    store.reading.clear()
    first = asyncio.create_task(intake.submit([Reserve(user, "USDT", 100, new_id())]))
    await asyncio.sleep(0.05)
    refused = asyncio.create_task(intake.submit([Reserve(user, "USDT", 10_000, new_id())]))
    await asyncio.sleep(0.05)
    store.writes.set()
    await first
    await store.reading.wait()
    beside = asyncio.create_task(intake.submit([Reserve(user, "USDT", 200, new_id())]))
    await asyncio.sleep(0.05)
    assert not beside.done()
    store.reads.set()
    (outcome,) = await refused
    assert isinstance(outcome, Refused)
    assert outcome.reason is Reason.INSUFFICIENT_BALANCE
    (last,) = await beside
    assert isinstance(last, Applied)
    assert [(at.available, at.reserved, at.sequence) for at in last.balances] == [(700, 300, 3)]
    assert not [item async for item in audit(pool) if item.wrong]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
