"""What operators ask the database: every view and function on an engine that has traded."""

from exchange.common.v1 import order_pb2
from exchange.gateway.v1 import order_requests_pb2

from tests.support.engine import Engine
from tests.support.trading import Pair


async def test_views_and_functions_tell_what_is_there(fresh_core: Engine) -> None:
    engine = fresh_core
    pair = await Pair(engine).fund()
    await pair.trade(3)
    user = await engine.user(USDT="100000", BTC="10")
    for price in (50, 50, 51):
        await engine.place(user, f"BUY 2 @ {price}")
    await engine.place(user, "SELL 1 @ 900")
    stop = order_requests_pb2.PlaceOrderRequest(
        user_id=user, client_order_id="stop", symbol="BTC/USDT", side=order_pb2.SIDE_SELL, type=order_pb2.ORDER_TYPE_STOP,
        quantity="1", stop_price="40",
    )  # fmt: skip
    await engine.gateway.PlaceOrder(stop, metadata=engine.service)
    assert (await engine.quiet()).clean

    active = await engine.query("SELECT type, status FROM operations.v_active_orders WHERE user_id = $1", user)
    assert len(active) == 5
    assert {row["status"] for row in active} == {"OPEN"}
    stops = await engine.query("SELECT type, stop_price FROM operations.stop_orders_watchlist")
    assert [(row["type"], row["stop_price"]) for row in stops] == [("STOP", 40 * 10**8)]
    volume = await engine.query("SELECT symbol, trades, volume FROM operations.v_trade_volume_24h")
    assert [tuple(row) for row in volume] == [("BTC/USDT", 3, 3 * 10**7)]
    shares = await engine.query("SELECT status, orders FROM operations.v_order_status_distribution")
    assert {row["status"]: row["orders"] for row in shares} == {"OPEN": 5, "FILLED": 6}

    await engine.query("SELECT operations.refresh_order_book_snapshot()")
    levels = await engine.query(
        "SELECT side, price, quantity, orders FROM operations.mv_order_book_snapshot ORDER BY 2"
    )
    unit = 10**8
    assert [tuple(row) for row in levels] == [
        ("BUY", 50 * unit, 4 * unit, 2), ("BUY", 51 * unit, 2 * unit, 1), ("SELL", 900 * unit, unit, 1),
    ]  # fmt: skip
    connections = await engine.query("SELECT * FROM operations.check_db_connections()")
    assert {"trade-engine-wallet", "trade-engine-matcher"} <= {row["application"] for row in connections}
    sizes = {row["table_name"]: row for row in await engine.query("SELECT * FROM operations.check_table_sizes()")}
    assert sizes["orders.orders"]["partitions"] >= 4
    assert sizes["wallet.entries"]["total_bytes"] > 0
    assert sizes["settlement.trades"]["partitions"] >= 8
    health = await engine.query("SELECT * FROM operations.check_partition_health()")
    assert {row["parent"]: (row["ahead"], row["rows_in_default"]) for row in health} == {
        "orders.orders": (3, 0), "settlement.trades": (7, 0)
    }  # fmt: skip
    await engine.query("SELECT * FROM operations.order_book_snapshots")
