"""The broker is full, or has forgotten its queues: orders go on, and every trade is settled afterwards."""

import asyncio
from pathlib import Path

import aio_pika
import grpc
import pytest
from exchange.common.v1 import order_pb2
from exchange.settlement.v1 import settlement_pb2

from cli.definitions import PATH as DEFINITIONS
from libs.bus import topology
from libs.bus.rabbitmq import declare_topology
from libs.config import RabbitMq
from tests.support.engine import SHOWING, Engine, engine_in
from tests.support.rabbitmq import OwnRabbitMq
from tests.support.servers import Servers
from tests.support.trading import Pair, until


@pytest.fixture(scope="module")
def broker():
    own = OwnRabbitMq()
    own.start()
    yield own
    own.stop()


@pytest.fixture
async def engine_on_own_broker(servers: Servers, broker: OwnRabbitMq, tmp_path: Path):
    async with engine_in(servers, tmp_path, without=SHOWING, TRADE_ENGINE_RABBITMQ_URL=broker.url) as engine:
        yield engine


async def test_a_broker_that_blocks_publishers_blocks_no_orders(
    engine_on_own_broker: Engine, broker: OwnRabbitMq
) -> None:
    engine = engine_on_own_broker
    pair = await Pair(engine).fund()
    await pair.trade(5)
    assert (await engine.quiet()).clean
    await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "absolute", "1")  # the memory alarm
    await pair.trade(20)
    assert len(await engine.tape("BTC/USDT")) < 25, "what is published now waits"
    await asyncio.sleep(12)  # longer than a publisher waits for its confirm
    await pair.trade(5)
    await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.4")
    report = await engine.quiet()
    assert report.clean, [finding for finding in report.findings if finding.wrong]
    assert len(await engine.tape("BTC/USDT")) == 30


async def test_a_message_that_no_queue_wants_is_published_again_until_one_does(
    engine_on_own_broker: Engine, broker: OwnRabbitMq
) -> None:
    engine = engine_on_own_broker
    pair = await Pair(engine).fund()
    await pair.trade(2)
    assert (await engine.quiet()).clean
    prefix = engine.settings.rabbitmq.prefix
    connection = await aio_pika.connect(broker.url)
    channel = await connection.channel()
    for queue in (topology.settlement_queue(), topology.notification_queue()):
        await channel.queue_delete(prefix + queue.name)
    await connection.close()
    await pair.trade(10)
    report = await engine.quiet()
    assert report.clean, [finding for finding in report.findings if finding.wrong]
    assert len(await engine.tape("BTC/USDT")) == 12


async def test_the_broker_takes_the_definitions_and_then_our_declarations(broker: OwnRabbitMq) -> None:
    await asyncio.to_thread(broker.control, "import_definitions", str(DEFINITIONS))
    listed = await asyncio.to_thread(broker.control, "list_queues", "name", "type", "--silent")
    for queue in topology.ALL_QUEUES:
        assert f"{queue.name}\tquorum" in listed
    consumer = aio_pika.connect(broker.url)
    async with await consumer as connection:
        channel = await connection.channel()
        await declare_topology(channel, RabbitMq(url=broker.url, quorum=True))

    async def bound() -> bool:
        return "wallet.service.trades" in await asyncio.to_thread(broker.control, "list_bindings", "--silent")

    await until(bound)


async def test_an_order_whose_events_are_lost_is_swept_up(
    servers: Servers, broker: OwnRabbitMq, tmp_path: Path
) -> None:
    """The maker's fill is told by the order events alone; these go with the queue, and nobody tells them again."""
    over = {
        "TRADE_ENGINE_RABBITMQ_URL": broker.url, "TRADE_ENGINE_GATEWAY_SWEEP_AFTER_S": "1",
        "TRADE_ENGINE_SETTLEMENT_RECONCILE_GRACE_S": "0.5",
    }  # fmt: skip
    async with engine_in(servers, tmp_path, without=SHOWING, **over) as engine:
        pair = await Pair(engine).fund()
        resting = (await engine.place(pair.seller, "SELL 0.5 @ 500")).order
        gateway = engine.stack.process("order_gateway")
        await engine.query(
            "INSERT INTO matcher.outbox_published (shard, position) VALUES (0, 1000000) "
            "ON CONFLICT (shard) DO UPDATE SET position = excluded.position"
        )  # the matcher will believe that all up to there was told
        engine.stack.kill("matcher")
        engine.stack.wait_healthy("matcher")
        await engine.place(pair.buyer, "BUY 0.5 @ 500")
        assert gateway.poll() is None

        async def is_filled() -> bool:
            return (await engine.order(resting)).status == order_pb2.ORDER_STATUS_FILLED

        await until(is_filled)
        assert await engine.tape("BTC/USDT") == []

        async def is_reconciled() -> bool:
            request = settlement_pb2.ReconcileRequest(symbol="BTC/USDT")
            try:
                found = await engine.settlement.Reconcile(request, metadata=engine.service, timeout=60)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:  # settlement has not found the new matcher yet
                    return False
                raise
            return found.clean

        await until(is_reconciled)
        assert len(await engine.tape("BTC/USDT")) == 1
        report = await engine.quiet()
        assert report.clean, [finding for finding in report.findings if finding.wrong]
