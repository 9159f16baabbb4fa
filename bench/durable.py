"""What is stored durably in a second: rows in the partitioned tables, persistent messages that the broker confirms."""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import uvloop
from exchange.events.v1 import trade_pb2
from rich.console import Console

from bench.support import Clock, write_results
from cli.embedded import EmbeddedPostgres
from cli.stack import temporary_folder
from libs.bus import topology
from libs.bus.interface import Message
from libs.bus.rabbitmq import RabbitPublisher
from libs.config import Database, RabbitMq
from libs.db.migrations import migrate_up
from libs.db.pool import open_pool
from libs.ids import new_id
from libs.money import UNIT
from libs.orders import OrderType, Side, Status, TimeInForce
from libs.reasons import Reason
from services.order_gateway.core.admission import OrderRequest, Reservation
from services.order_gateway.core.records import OrderRow
from services.order_gateway.store import OrderStore
from services.settlement.store import SettlementStore
from tests.support.rabbitmq import OwnRabbitMq

CLIENTS = 4
USERS = [new_id() for _ in range(100)]
BODY_BYTES = 300
console = Console(stderr=True)


def order(number: int) -> OrderRow:
    now = datetime.now(UTC)
    request = OrderRequest("BTC/USDT", Side.BUY, OrderType.LIMIT, TimeInForce.GTC, 100 * UNIT, UNIT, 0)
    return OrderRow(
        order_id=new_id(), user_id=USERS[number % len(USERS)], client_order_id=new_id(), request=request,
        reservation=Reservation("USDT", 100 * UNIT), status=Status.PENDING, reason=Reason.NONE, open_quantity=UNIT,
        filled_quantity=0, filled_notional=0, version=0, released=0, created_at=now, updated_at=now, open_price=100 * UNIT,
    )  # fmt: skip


def trade(number: int) -> trade_pb2.Trade:
    return trade_pb2.Trade(
        trade_id=new_id(), symbol="BTC/USDT", sequence=number, base_asset="BTC", quote_asset="USDT", price="100",
        quantity="0.1", buyer_user_id=USERS[number % 50], buyer_order_id=new_id(), seller_user_id=USERS[50 + number % 50],
        seller_order_id=new_id(), maker_side=1, buyer_fee="0.0001", seller_fee="0.01", executed_at_ns=time.time_ns(),
    )  # fmt: skip


async def rows_per_s(
    make: Callable[[int], Any], store: Callable[[list[Any]], Awaitable[Any]], *, rows: int, batch: int
) -> float:
    """Each batch is a commit; as many are under way as there are clients."""
    made = [make(number) for number in range(1, rows + 1)]
    batches = iter([made[start : start + batch] for start in range(0, rows, batch)])

    async def client() -> None:
        for some in batches:
            await store(some)

    clock = Clock()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return rows / clock.seconds()


async def messages_per_s(url: str, messages: int, *, quorum: bool) -> float:
    settings = RabbitMq.model_validate({"url": url, "quorum": quorum, "prefix": "quorum." if quorum else "classic."})
    publisher = RabbitPublisher(settings)
    made = [Message(topology.TRADE_EVENTS, "BTC/USDT", "bench", new_id(), bytes(BODY_BYTES)) for _ in range(messages)]
    await publisher.publish(made[:100])
    clock = Clock()
    for start in range(0, messages, 500):
        await publisher.publish(made[start : start + 500])
    took_s = clock.seconds()
    await publisher.close()
    return messages / took_s


async def measure(postgres: EmbeddedPostgres, broker: OwnRabbitMq, rows: int, messages: int) -> dict[str, float]:
    await migrate_up(postgres.dsn)
    database = Database.model_validate({"dsn": postgres.dsn, "pool_max": CLIENTS})
    figures: dict[str, float] = {}
    orders = await open_pool(database, service="order_gateway")
    trades = await open_pool(database, service="settlement")
    tables: dict[str, tuple[Callable[[int], Any], Callable[[list[Any]], Awaitable[Any]]]] = {
        "orders": (order, OrderStore(orders).insert_pending),
        "trades": (trade, lambda some: SettlementStore(trades).record(some, [])),
    }
    for name, (make, store) in tables.items():
        for batch in (1, 100):
            per_s = await rows_per_s(make, store, rows=rows if batch > 1 else rows // 10, batch=batch)
            figures[f"{name}_per_s_in_batches_of_{batch}"] = round(per_s)
            console.print(f"{name}: {per_s:.0f} rows/s, {batch} a commit")
    stored = rows + rows // 10
    assert await orders.fetchval("SELECT count(*) FROM orders.orders") == stored
    assert await trades.fetchval("SELECT count(*) FROM settlement.trades") == stored
    for pool in (orders, trades):
        await pool.close()
    for kind in ("classic", "quorum"):
        per_s = await messages_per_s(broker.url, messages, quorum=kind == "quorum")
        figures[f"confirmed_messages_per_s_{kind}"] = round(per_s)
        console.print(f"{per_s:.0f} confirmed messages/s, {kind} queues")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="rows into each table in batches; a tenth one by one")
    parser.add_argument("--messages", type=int, default=20_000, help="messages to each kind of queue")
    options = parser.parse_args()
    broker = OwnRabbitMq()
    with temporary_folder("trade-engine-bench-") as folder:
        postgres = EmbeddedPostgres(folder)
        try:
            postgres.start()
            broker.start()
            figures = uvloop.run(measure(postgres, broker, options.rows, options.messages))
        finally:
            postgres.stop()
            broker.stop()
    write_results("durable", figures, {"rows": options.rows, "messages": options.messages, "body_bytes": BODY_BYTES,
                                       "clients": CLIENTS})  # fmt: skip


if __name__ == "__main__":
    main()
