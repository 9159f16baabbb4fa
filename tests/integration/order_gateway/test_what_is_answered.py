"""What an owner is told can be read at once; what could not be recorded is not told."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from exchange.common.v1 import order_pb2
from exchange.events.v1 import order_pb2 as order_events_pb2
from exchange.matcher.v1 import command_pb2

from libs.ids import new_id
from libs.reasons import Reason, Refused, RefusedError
from services.order_gateway import memory
from services.order_gateway.core.records import OrderRow
from services.order_gateway.intake import Intake
from services.order_gateway.items import Change
from services.order_gateway.memory import OrderMemory
from services.order_gateway.store import OrderStore, StateChange
from tests.support.records import insert_orders, update_of

OPEN = order_pb2.ORDER_STATUS_OPEN


class Wallet:
    """Takes releases, unless it is away."""

    def __init__(self, *, away: bool) -> None:
        self.away = away

    async def release(self, releases: list[Any]) -> list[None]:
        if self.away:
            raise RefusedError(Refused(Reason.DEPENDENCY_UNAVAILABLE))
        return [None for _ in releases]


class Failing(OrderStore):
    """The real store, whose database is away for the first few updates."""

    def __init__(self, pool: Any, failures: int) -> None:
        super().__init__(pool)
        self.failures = failures

    async def update(self, changes: list[StateChange]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionResetError
        await super().update(changes)


def intake(store: OrderStore, *, away: bool = False, patience_s: float = 10) -> Intake:
    return Intake(store=store, wallet=Wallet(away=away), matcher=None, patience_s=patience_s)  # type: ignore[arg-type]


def reduced(order_id: str, version: int, *, releases: int) -> order_events_pb2.OrderUpdate:
    """An order that has been reduced so often, and has freed something each time."""
    update = update_of(order_id, "", version, OPEN)
    for number in range(releases):
        update.releases.add(asset="USDT", amount="1", key=f"{order_id}/{number}")
    return update


async def an_order(pool: Any) -> str:
    return (await insert_orders(pool.execute, new_id(), [("BTC/USDT", OPEN)]))[0]


async def recorded(pool: Any, order_id: str) -> OrderRow:
    return (await OrderStore(pool).by_ids([order_id]))[order_id]


async def test_the_record_waits_for_the_database(pool) -> None:
    order_id = await an_order(pool)
    await intake(Failing(pool, 2)).record_updates([reduced(order_id, 1, releases=0)])
    assert (await recorded(pool, order_id)).version == 1


async def test_what_is_told_is_on_the_disk(pool) -> None:
    """A server that is killed the moment after must not have forgotten what an owner was told."""
    order_id = await an_order(pool)
    for version in range(1, 20):
        before = await pool.fetchval("SELECT pg_current_wal_insert_lsn()")
        await intake(OrderStore(pool)).record_updates([reduced(order_id, version, releases=0)])
        assert await pool.fetchval("SELECT pg_current_wal_flush_lsn() > $1::pg_lsn", before)


async def test_what_could_not_be_recorded_is_not_told(pool) -> None:
    order_id = await an_order(pool)
    with pytest.raises(ConnectionResetError):
        await intake(Failing(pool, 1_000_000), patience_s=0.1).record_updates([reduced(order_id, 1, releases=0)])
    assert (await recorded(pool, order_id)).version == 0


async def test_a_release_is_due_until_the_wallet_has_it(pool) -> None:
    order_id = await an_order(pool)

    async def after(flow: Intake, version: int, releases: int) -> tuple[int, int, bool]:
        await flow.record_updates([reduced(order_id, version, releases=releases)])
        order = await recorded(pool, order_id)
        return order.version, order.released, order.release_due

    store = OrderStore(pool)
    known, ignorant = intake(store), intake(store, away=True)
    assert await after(known, 1, 1) == (1, 1, False)
    assert await after(ignorant, 2, 1) == (2, 1, False), "another process had it released"
    assert await after(ignorant, 3, 2) == (3, 1, True)
    assert await after(ignorant, 3, 2) == (3, 1, True)
    assert await after(known, 3, 2) == (3, 2, False)
    assert await after(ignorant, 3, 2) == (3, 2, False)
    await pool.execute("UPDATE orders.orders SET status = 6 WHERE order_id = $1", order_id)


class Forgetful(OrderStore):
    """The real store; while it is asked, so many orders come that the memory begins anew."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self.meanwhile = OrderMemory()

    async def by_ids(self, order_ids: Iterable[str]) -> dict[str, OrderRow]:
        found = await super().by_ids(order_ids)
        for order in found.values():
            self.meanwhile.remember(replace(order, order_id=new_id(), client_order_id=new_id()))
        return found


class Asked:
    """A matcher that knows no order: whatever comes to it was found in the record, or remembered."""

    def __init__(self) -> None:
        self.order_ids: set[str] = set()

    async def submit(self, commands: Sequence[command_pb2.Command]) -> list[Refused]:
        self.order_ids |= {command.cancel.order_id for command in commands}
        return [Refused(Reason.ORDER_CLOSED) for _ in commands]


async def test_an_order_that_is_forgotten_while_others_are_read_is_cancelled(pool, monkeypatch) -> None:
    monkeypatch.setattr(memory, "KNOWN_MAX", 1)
    store, matcher, user = Forgetful(pool), Asked(), new_id()
    known, other = await insert_orders(pool.execute, user, [("BTC/USDT", OPEN)] * 2)
    flow = Intake(store=store, wallet=Wallet(away=False), matcher=matcher, patience_s=1)  # type: ignore[arg-type]
    flow.memory.remember(await recorded(pool, known))
    store.meanwhile = flow.memory
    answers = await flow.change([Change(user, order_id, "", amendment=None) for order_id in (known, other)])
    assert [answer.reason for answer in answers if isinstance(answer, Refused)] == [Reason.ORDER_CLOSED] * 2
    assert matcher.order_ids == {known, other}
