"""Open reservations by age, balances as they change, and amounts at the end of the scale."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from exchange.wallet.v1 import ledger_entry_pb2, operation_pb2, reservation_pb2, wallet_pb2

from libs.db.pool import open_pool
from libs.ids import LAST_ID, new_id
from services.wallet.core.operations import Deposit
from tests.support.engine import Engine
from tests.support.ledger import ledgers


@pytest.fixture
async def pool_of_engine(engine: Engine):
    opened = await open_pool(engine.settings.database, service="wallet")
    yield opened
    await opened.close()


async def reserve(engine: Engine, user: str, amount: str, order: str, asset: str = "BTC") -> None:
    request = operation_pb2.ReserveRequest(user_id=user, asset=asset, amount=amount, order_id=order)
    await engine.wallet.Reserve(request, metadata=engine.service)


async def release(engine: Engine, user: str, order: str, amount: str = "", asset: str = "BTC") -> None:
    request = operation_pb2.ReleaseRequest(
        user_id=user, asset=asset, order_id=order, amount=amount, key=f"{order}/{amount or 'close'}"
    )
    await engine.wallet.Release(request, metadata=engine.service)


async def reservations(engine: Engine, **filters) -> list[reservation_pb2.Reservation]:
    found, token = [], ""
    while True:
        asked = reservation_pb2.ListReservationsRequest(page_size=2, page_token=token, **filters)
        page = await engine.wallet.ListReservations(asked, metadata=engine.service)
        assert len(page.reservations) <= 2
        found += page.reservations
        token = page.next_page_token
        if not token:
            return found


async def test_open_reservations_are_listed_by_age_until_they_are_empty(engine: Engine) -> None:
    user = await engine.user(BTC="10")
    orders = [new_id() for _ in range(5)]
    for number, order in enumerate(orders):
        await reserve(engine, user, str(number + 1) if number < 3 else "0.5", order)
    await release(engine, user, orders[0])
    await release(engine, user, orders[1], "0.5")
    mine = [item for item in await reservations(engine) if item.user_id == user]
    assert [item.order_id for item in mine] == orders[1:]
    assert (mine[0].amount, mine[0].remaining, mine[0].purpose) == ("2", "1.5", 1)
    later = mine[-1].created_at.ToDatetime(UTC)
    older = reservation_pb2.ListReservationsRequest()
    older.older_than.FromDatetime(later)
    older_ones = [item for item in await reservations(engine, older_than=older.older_than) if item.user_id == user]
    assert [item.order_id for item in older_ones] == orders[1:-1]
    long_ago = reservation_pb2.ListReservationsRequest()
    long_ago.older_than.FromDatetime(datetime.now(UTC) - timedelta(days=1))
    assert await reservations(engine, older_than=long_ago.older_than) == []


@pytest.mark.parametrize(
    "token", ["x", "BTC", "BTC.0", "btc.1", "BTC.1-", "BTC.99999999999999999999", "2026-01-01_" + LAST_ID, "_", "é"]
)
async def test_a_page_token_of_ones_own_making_is_refused(engine: Engine, token: str) -> None:
    entries = ledger_entry_pb2.ListLedgerEntriesRequest(user_id=new_id(), page_token=token)
    held = reservation_pb2.ListReservationsRequest(page_token=token)
    for call, request in ((engine.wallet.ListLedgerEntries, entries), (engine.wallet.ListReservations, held)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request, metadata=engine.service)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "page_token" in refused.value.details()


async def test_balances_are_told_first_whole_and_then_as_they_change(engine: Engine) -> None:
    user = await engine.user(BTC="10", USDT="5")
    stream = engine.wallet.StreamBalances(
        wallet_pb2.StreamBalancesRequest(user_id=user), metadata=engine.service, timeout=30
    )
    first = await stream.read()
    assert [(item.asset, item.available, item.sequence) for item in first.balances] == [
        ("BTC", "10", 1),
        ("USDT", "5", 1),
    ]
    order = new_id()
    await reserve(engine, user, "4", order)
    second = await stream.read()
    assert [(item.asset, item.available, item.reserved) for item in second.balances] == [("BTC", "6", "4")]
    # Whoever reads late is told the newest state, not each one.
    for number in range(1, 20):
        await release(engine, user, order, f"0.{number:02d}")
    sequences = []
    while not sequences or sequences[-1] < 21:
        sequences += [item.sequence for item in (await stream.read()).balances]
    assert sequences == sorted(set(sequences))
    stream.cancel()


async def test_what_another_wallet_moved_is_told_too(engine: Engine, pool_of_engine) -> None:
    user = await engine.user(BTC="1")
    stream = engine.wallet.StreamBalances(
        wallet_pb2.StreamBalancesRequest(user_id=user), metadata=engine.service, timeout=30
    )
    await stream.read()
    async with ledgers(pool_of_engine, 1) as (other,):
        await other.submit([Deposit(user, "BTC", 2 * 10**8, new_id())])
    news = await asyncio.wait_for(stream.read(), 10)
    assert [(item.asset, item.available) for item in news.balances] == [("BTC", "3")]
    stream.cancel()


async def test_what_another_wallet_moved_is_told_though_this_one_is_never_idle(engine: Engine, pool_of_engine) -> None:
    user, busy = await engine.user(BTC="1"), await engine.user(BTC="1")
    quiet, lively = (
        engine.wallet.StreamBalances(wallet_pb2.StreamBalancesRequest(user_id=one), metadata=engine.service, timeout=30)
        for one in (user, busy)
    )
    await quiet.read()
    await lively.read()

    async def keep_moving() -> None:
        while True:
            await engine.deposit(busy, BTC="1")
            await asyncio.sleep(0.2)

    moving = asyncio.create_task(keep_moving())
    try:
        async with ledgers(pool_of_engine, 1) as (other,):
            await other.submit([Deposit(user, "BTC", 2 * 10**8, new_id())])
        news = await asyncio.wait_for(quiet.read(), 10)
        assert [(item.asset, item.available) for item in news.balances] == [("BTC", "3")]
    finally:
        moving.cancel()
        quiet.cancel()
        lively.cancel()


async def test_amounts_beyond_a_bigint_of_units_are_exact(fresh_core: Engine) -> None:
    engine = fresh_core
    user, order = await engine.user(EUR="999999999999.99999999"), new_id()
    await reserve(engine, user, "999999999999.99999998", order, "EUR")
    assert (await engine.balances(user))["EUR"] == ("0.00000001", "999999999999.99999998")
    await release(engine, user, order, "900000000000.00000001", "EUR")
    assert (await engine.balances(user))["EUR"] == ("900000000000.00000002", "99999999999.99999997")
    deposit = operation_pb2.DepositRequest(user_id=user, asset="EUR", amount="0.00000001", deposit_id=new_id())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.wallet.Deposit(deposit, metadata=engine.service)
    assert refused.value.details().startswith("AMOUNT_OUT_OF_RANGE field=amount")
