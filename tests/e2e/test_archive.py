"""A system that is older than it keeps things for: what is in detached partitions is neither missed nor made again."""

from pathlib import Path

import pytest
from exchange.gateway.v1 import order_requests_pb2
from exchange.settlement.v1 import reconciliation_pb2, settlement_pb2

from cli.audit import run_audit
from tests.support.engine import SHOWING, Engine, engine_in, order_from
from tests.support.servers import Servers

CHECK = "partition_retention_config_retention_months_check"


@pytest.fixture
async def old_engine(servers: Servers, tmp_path: Path):
    async with engine_in(servers, tmp_path, without=SHOWING, TRADE_ENGINE_SETTLEMENT_RECONCILE_GRACE_S="1") as engine:
        yield engine


async def trade(engine: Engine, seller: str, buyer: str, name: str) -> None:
    for user, side in ((seller, "SELL"), (buyer, "BUY")):
        await engine.place(user, f"{side} 0.1 @ 1000", client_order_id=name)


async def detach_all(engine: Engine) -> None:
    """As if all that there is were older than the retention."""
    await engine.query(f"ALTER TABLE operations.partition_retention_config DROP CONSTRAINT {CHECK}")
    await engine.query("UPDATE operations.partition_retention_config SET retention_months = -5")
    done = await engine.query("SELECT action, partition FROM operations.maintain_partitions()")
    assert {row["action"] for row in done} == {"detached"}
    await engine.query("UPDATE operations.partition_retention_config SET retention_months = 60, detached_until = now()")
    assert await engine.query("SELECT FROM settlement.trades") == await engine.query("SELECT FROM orders.orders") == []


async def reconciled(engine: Engine) -> reconciliation_pb2.SymbolReconciliation:
    request = settlement_pb2.ReconcileRequest(symbol="BTC/USDT", deep=True)
    answer = await engine.settlement.Reconcile(request, metadata=engine.service, timeout=60)
    assert answer.clean
    return answer.symbols[0]


@pytest.mark.parametrize("reconciled_before", [False, True])
async def test_what_is_detached_is_neither_missed_nor_made_again(old_engine: Engine, reconciled_before: bool) -> None:
    engine = old_engine
    seller, buyer = await engine.user(BTC="10"), await engine.user(USDT="10000")
    for number in range(3):
        await trade(engine, seller, buyer, f"old-{number}")
    assert (await engine.quiet()).clean
    if reconciled_before:
        assert (await reconciled(engine)).compared == 3
    await detach_all(engine)

    assert (await engine.quiet()).clean
    report = await reconciled(engine)
    assert (report.journaled, report.settled, report.missing, report.compared) == (3, 3, 0, 0)
    await trade(engine, seller, buyer, "new")
    assert (await engine.quiet()).clean
    report = await reconciled(engine)
    assert (report.journaled, report.settled, report.missing, report.compared) == (4, 4, 0, 1)
    assert len(await engine.query("SELECT FROM settlement.trades")) == 1
    status = await engine.settlement.GetStatus(settlement_pb2.GetStatusRequest(), metadata=engine.service, timeout=10)
    assert (status.settled, status.unsettled) == (4, 0)

    await engine.query("DELETE FROM settlement.trades")
    audit = await run_audit(engine.settings.database.dsn.get_secret_value(), show_progress=False)
    assert not audit.clean, "what is kept is missed"


async def test_the_id_of_an_order_in_the_archive_is_taken_and_spoils_no_batch(old_engine: Engine) -> None:
    engine = old_engine
    seller, buyer = await engine.user(BTC="10"), await engine.user(USDT="10000")
    await trade(engine, seller, buyer, "old")
    assert (await engine.quiet()).clean
    await detach_all(engine)
    orders = [
        order_from("BUY 0.1 @ 1000", user_id=buyer, symbol="BTC/USDT", client_order_id=name) for name in ("old", "new")
    ]
    request = order_requests_pb2.PlaceOrdersRequest(orders=orders)
    old, new = (await engine.gateway.PlaceOrders(request, metadata=engine.service, timeout=20)).results
    assert "KEY_REUSED field=client_order_id" in old.error.message
    assert (await engine.order(new.response.order)).client_order_id == "new"
    assert (await engine.quiet()).clean
