"""Every trade reaches the ledger, exactly in effect: delivered twice, late, never, or refused there."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aio_pika
import grpc
import pytest
from exchange.events.v1 import order_pb2, trade_pb2
from exchange.settlement.v1 import settlement_pb2
from exchange.wallet.v1 import operation_pb2

from cli.audit import run_audit
from cli.processes import free_port
from libs.bus import topology
from libs.bus.interface import Message
from libs.ids import new_id
from tests.support.engine import SHOWING, Engine, engine_in, start_beside
from tests.support.servers import Servers
from tests.support.trading import Pair, publish, trade_messages, until

ROOT = Path(__file__).resolve().parents[2]
FAST = {"TRADE_ENGINE_SETTLEMENT_RECONCILE_GRACE_S": "0.5", "TRADE_ENGINE_SETTLEMENT_RECONCILE_EVERY_S": "0"}


@pytest.fixture(params=["rabbitmq", "embedded"])
async def either(request, servers: Servers, tmp_path: Path):
    """An engine of the test's own on either bus."""
    on_rabbitmq = request.param == "rabbitmq"
    async with engine_in(servers, tmp_path, without=SHOWING, rabbitmq=on_rabbitmq, **FAST) as engine:
        yield engine


@pytest.fixture
async def on_rabbitmq(servers: Servers, tmp_path: Path):
    async with engine_in(servers, tmp_path, without=SHOWING, **FAST) as engine:
        yield engine


async def channel_of(engine: Engine):
    connection = await aio_pika.connect(engine.settings.rabbitmq.url.get_secret_value())
    return connection, await connection.channel()


async def status(engine: Engine) -> settlement_pb2.GetStatusResponse:
    return await engine.settlement.GetStatus(settlement_pb2.GetStatusRequest(), metadata=engine.service)


async def reconcile(engine: Engine, **request) -> settlement_pb2.ReconcileResponse:
    return await engine.settlement.Reconcile(
        settlement_pb2.ReconcileRequest(**request), metadata=engine.service, timeout=60
    )


async def letters(engine: Engine, **request) -> list:
    request = settlement_pb2.ListDeadLettersRequest(**request)
    return list((await engine.settlement.ListDeadLetters(request, metadata=engine.service)).letters)


def command(engine: Engine, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cli", "settlement", *arguments], cwd=ROOT, check=False, capture_output=True, text=True,
        env={**os.environ, **engine.stack.environment}, timeout=120,
    )  # fmt: skip


def unsettleable(buy: str, sell: str, sequence: int) -> trade_pb2.Trade:
    """A trade of orders that hold nothing."""
    return trade_pb2.Trade(
        trade_id=new_id(), sequence=sequence, symbol="ETH/USDT", base_asset="ETH", quote_asset="USDT", price="2000",
        quantity="1", buyer_user_id=new_id(), buyer_order_id=buy, seller_user_id=new_id(), seller_order_id=sell,
        maker_side=2, buyer_fee="0.001", seller_fee="2", executed_at_ns=1_790_000_000_000_000_000,
    )  # fmt: skip


def as_message(*trades: trade_pb2.Trade) -> Message:
    events = trade_pb2.TradeEvents(symbol=trades[0].symbol, trades=trades)
    return Message(topology.TRADE_EVENTS, "trade.x", "TradeEvents", new_id(), events.SerializeToString())


async def test_duplicates_reversals_and_latecomers_change_nothing(on_rabbitmq: Engine) -> None:
    engine = on_rabbitmq
    pair = await Pair(engine).fund()
    await pair.trade(20)
    assert (await engine.quiet()).clean
    before = await pair.balances()
    messages = await trade_messages(engine)
    assert len(messages) == 20
    await publish(engine, messages)
    await publish(engine, messages[::-1])
    connection, channel = await channel_of(engine)
    late = await channel.get_exchange(
        engine.settings.rabbitmq.prefix + topology.DEAD_LETTER_EXCHANGE
    )  # where the broker sends what nobody took within a day
    for message in messages:
        await late.publish(aio_pika.Message(message.body), routing_key=topology.DEAD_LETTER_KEY)
    sentinel = as_message(unsettleable(new_id(), new_id(), 1))
    await late.publish(aio_pika.Message(sentinel.body), routing_key=topology.DEAD_LETTER_KEY)
    await publish(engine, [sentinel])
    await until(lambda: _has_attempts(engine, 2))
    assert await pair.balances() == before
    assert (await status(engine)).settled == 20
    await connection.close()


async def _has_attempts(engine: Engine, attempts: int) -> bool:
    return any(letter.attempts >= attempts for letter in await letters(engine))


async def test_what_was_late_by_a_day_is_settled_from_the_dead_letters(on_rabbitmq: Engine) -> None:
    engine = on_rabbitmq
    pair = await Pair(engine).fund()
    engine.stack.send("settlement", signal.SIGSTOP)
    await pair.trade(3)
    connection, channel = await channel_of(engine)
    prefix = engine.settings.rabbitmq.prefix
    # Stopped as it is, settlement holds what it was sent; the broker takes that back when its connection ends.
    process = engine.stack.process("settlement")
    await until(lambda: _published(engine))
    queue = await channel.get_queue(prefix + topology.settlement_queue().name)
    process.kill()
    taken = []
    while len(taken) < 3:
        message = await queue.get(fail=False)
        if message is None:
            await asyncio.sleep(0.05)
            continue
        taken.append(message)
    for message in taken:  # as the broker does when the time to live is over: to the dead letter exchange, not back
        await message.reject(requeue=False)
    await connection.close()
    assert (await engine.quiet()).clean
    assert (await status(engine)).settled == 3
    assert await letters(engine) == []


async def _published(engine: Engine) -> bool:
    rows = await engine.query(
        "SELECT (SELECT position FROM matcher.outbox_published) = last_position AS done FROM matcher.shards"
    )
    return bool(rows[0]["done"])


async def test_a_dead_letter_is_seen_mended_and_retried(on_rabbitmq: Engine) -> None:
    engine = on_rabbitmq
    pair = await Pair(engine).fund()
    buy, sell = new_id(), new_id()
    trade = unsettleable(buy, sell, 1)
    unreadable = Message(topology.TRADE_EVENTS, "trade.x", "TradeEvents", "poison-1", b"\xff\xffnot a protobuf\x00")
    await publish(engine, [as_message(trade), unreadable])
    await pair.trade(3)
    await until(lambda: _counts(engine, 2))
    assert (await status(engine)).dead_letters == 2
    by_id = {letter.letter_id: letter for letter in await letters(engine)}
    assert by_id[trade.trade_id].reason == "RESERVATION_NOT_FOUND"
    assert by_id[trade.trade_id].trade == trade
    assert by_id["message/poison-1"].reason == "UNREADABLE"

    listed = command(engine, "dead-letters", "--json")
    assert {item["letterId"] for item in json.loads(listed.stdout)["letters"]} == set(by_id)
    assert command(engine, "status").returncode == 1
    failed = command(engine, "retry", trade.trade_id, "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["failed"][0]["attempts"] == 2

    for user, asset, amount, order in (
        (trade.buyer_user_id, "USDT", "2000", buy),
        (trade.seller_user_id, "ETH", "1", sell),
    ):
        await engine.deposit(user, **{asset: amount})
        request = operation_pb2.ReserveRequest(user_id=user, asset=asset, amount=amount, order_id=order)
        await engine.wallet.Reserve(request, metadata=engine.service)
    mended = command(engine, "retry", "--json")
    assert json.loads(mended.stdout)["settled"] == [trade.trade_id]
    assert await engine.balances(trade.buyer_user_id) == {"ETH": ("0.999", "0"), "USDT": ("0", "0")}
    assert [letter.letter_id for letter in await letters(engine)] == ["message/poison-1"]
    assert len(await letters(engine, with_resolved=True)) == 2
    unknown = command(engine, "retry", "no-such-letter", "--json")
    assert (unknown.returncode, json.loads(unknown.stdout)["unknown"]) == (1, ["no-such-letter"])
    assert (await status(engine)).settled == 4, "the others went on"


async def test_no_message_on_the_bus_stops_who_reads_it(on_rabbitmq: Engine) -> None:
    """Of no id, of one id, of ids and texts that no database takes; and what parses as ours, but says nothing."""
    engine = on_rabbitmq
    pair = await Pair(engine).fund()
    readers = ("settlement", "order_gateway")
    before = [engine.stack.process(name).pid for name in readers]
    ids = ["same", "same", "with a \x00 in it", "x" * 250]
    junk = [Message(topology.TRADE_EVENTS, "junk", "junk", name, b"\xff junk %d" % n) for n, name in enumerate(ids)]
    names = {"base_asset": "A\x00B", "quantity": "1\x00", "buyer_user_id": "\x00", "seller_order_id": "\x00"}
    trades = []
    for number, (field, text) in enumerate(names.items(), start=1):
        trades.append(unsettleable(new_id(), new_id(), number))
        setattr(trades[-1], field, text)
    await publish(engine, [*junk, *(as_message(trade) for trade in trades)])
    connection, channel = await channel_of(engine)
    sender, exchange = await channel.get_underlay_channel(), engine.settings.rabbitmq.prefix + topology.TRADE_EVENTS
    for body in (b"\xff without an id", b"\xff without one, too"):  # aio-pika would make one up
        await sender.basic_publish(body, exchange=exchange, routing_key="junk")
    await connection.close()

    known = (await engine.place(pair.buyer, "BUY 0.1 @ 60")).order
    told = {"order_id": known.order_id, "user_id": known.user_id, "version": 99, "status": 4, "updated_at_ns": 1}
    updates: list[dict] = [
        {"order_id": "\x00"}, {"order_id": "not an id", "status": 4}, {}, {**told, "status": 0}, {**told, "status": 99},
        {**told, "filled_quantity": "many"}, {**told, "reason": 9999}, {**told, "updated_at_ns": -(2**63)},
    ]  # fmt: skip
    bodies = [
        order_pb2.OrderEvents(updates=[order_pb2.OrderUpdate(**update)]).SerializeToString() for update in updates
    ]
    await publish(engine, [Message(topology.ORDER_EVENTS, "junk", "junk", "", body) for body in (b"\xff", *bodies)])

    await pair.trade(3)
    await until(lambda: _counts(engine, 5 + len(trades)))
    await until(lambda: _settled(engine, 3))
    report = await run_audit(engine.settings.database.dsn.get_secret_value(), show_progress=False)
    assert [finding.check for finding in report.findings if finding.wrong] == ["tape: nothing_unsettled"]
    assert (await engine.order(known)).status == known.status
    assert {letter.trade.trade_id for letter in await letters(engine)} - {""} == {trade.trade_id for trade in trades}
    assert [engine.stack.process(name).pid for name in readers] == before


async def _settled(engine: Engine, count: int) -> bool:
    return (await status(engine)).settled == count


async def _counts(engine: Engine, count: int) -> bool:
    return len(await letters(engine)) == count


async def test_the_tape_is_listed_newest_first_in_pages_and_by_time(engine: Engine) -> None:
    pair = await Pair(engine, "SOL/USDT").fund()
    for _ in range(3):  # in commits of their own, so that their times differ
        await pair.trade(1)
    assert (await engine.quiet()).clean

    def listed(*arguments: str) -> dict:
        return json.loads(command(engine, "trades", "--symbol", "SOL-USDT", "--json", *arguments).stdout)

    page = listed("--limit", "2")
    newest, middle = page["trades"]
    oldest = listed("--limit", "1", "--page", page["nextPageToken"])["trades"][0]
    numbers = [int(trade["sequence"]) for trade in (newest, middle, oldest)]
    assert numbers == [numbers[0], numbers[0] - 1, numbers[0] - 2]
    span = listed("--since", oldest["executedAt"], "--until", newest["executedAt"])["trades"]
    assert {middle["tradeId"], oldest["tradeId"]} <= {trade["tradeId"] for trade in span}
    assert newest["tradeId"] not in {trade["tradeId"] for trade in span}
    assert str(numbers[0]) in command(engine, "trades", "--symbol", "SOL/USDT").stdout


async def test_settlements_are_watched_over_a_restart_until_ctrl_c(on_rabbitmq: Engine) -> None:
    engine = on_rabbitmq
    pair = await Pair(engine).fund()
    watch = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "settlement", "watch", "--symbol", "BTC/USDT", "--after", "0",
        cwd=ROOT, env={**os.environ, **engine.stack.environment}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert watch.stdout is not None
    async with asyncio.timeout(40):
        for number in ("1", "2"):
            await pair.trade(1)
            assert json.loads(await watch.stdout.readline())["sequence"] == number
            engine.stack.send("settlement", signal.SIGTERM)
            await asyncio.to_thread(engine.stack.process("settlement").wait)
            await asyncio.to_thread(engine.stack.wait_healthy, "settlement")
        watch.send_signal(signal.SIGINT)
        assert await watch.wait() == 0
    unknown = command(engine, "watch", "--symbol", "NO/SUCH")
    assert (unknown.returncode, "SYMBOL_UNKNOWN" in unknown.stderr) == (1, True), unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--symbol", "NO/SUCH"), 1, "SYMBOL_UNKNOWN"),
        (("--symbol", "BTC/USDT", "--since", "yesterday"), 2, "is not a time such as"),
        (("--symbol", "BTC/USDT", "--page", "x"), 1, "PAGE_INVALID"),
        (("--symbol", "BTC/USDT", "--limit", "1001"), 2, "--limit"),
        ((), 2, "--symbol"),
    ],
)
async def test_a_bad_list_of_trades_is_refused_with_an_exit_code(
    engine: Engine, arguments, code: int, said: str
) -> None:
    done = command(engine, "trades", *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("ids", [["x" * 101], ["\x00"], [str(number) for number in range(501)]])
async def test_a_bad_retry_names_the_field(engine: Engine, ids: list[str]) -> None:
    request = settlement_pb2.RetryDeadLettersRequest(letter_ids=ids)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await engine.settlement.RetryDeadLetters(request, metadata=engine.service)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "letter_ids" in refused.value.details()


async def test_a_lost_message_is_found_and_delivered_again(either: Engine) -> None:
    engine = either
    pair = await Pair(engine).fund()
    await pair.trade(5)
    assert (await engine.quiet()).clean
    engine.stack.send("settlement", signal.SIGSTOP)
    try:
        await pair.trade(4)
        await until(lambda: _published(engine))
        await lose_what_waits(engine)
    finally:
        engine.stack.process("settlement").kill()
    engine.stack.wait_healthy("settlement")
    await pair.trade(2)
    await until(lambda: _settled_at_least(engine, 7))
    now = await status(engine)
    assert (now.settled, now.unsettled) == (7, 4)
    found = await reconcile(engine)
    assert found.clean
    (report,) = [item for item in found.symbols if item.symbol == "BTC/USDT"]
    assert (report.journaled, report.settled, report.missing, report.repaired) == (11, 11, 4, 4)
    assert (await engine.quiet()).clean
    again = await reconcile(engine, deep=True)
    assert again.clean
    (report,) = [item for item in again.symbols if item.symbol == "BTC/USDT"]
    assert (report.missing, report.compared, report.different, report.unexplained) == (0, 11, 0, 0)
    done = command(engine, "reconcile", "--json")
    assert done.returncode == 0, done.stderr


async def lose_what_waits(engine: Engine) -> None:
    """As if the queue, or the rows of the outbox, had gone with a disk."""
    if engine.settings.rabbitmq.url.get_secret_value():
        # What the sleeping settlement holds comes back to the queue when its connection ends.
        engine.stack.process("settlement").kill()
        connection, channel = await channel_of(engine)
        queue = await channel.get_queue(engine.settings.rabbitmq.prefix + topology.settlement_queue().name)
        lost = 0
        async with asyncio.timeout(20):
            while lost < 4:
                message = await queue.get(fail=False)
                if message is not None:
                    await message.ack()
                    lost += len(trade_pb2.TradeEvents.FromString(message.body).trades)
        await connection.close()
    else:
        await engine.query(
            "DELETE FROM matcher.outbox WHERE exchange = 'trade.events' "
            "AND position > (SELECT position FROM matcher.outbox_cursors WHERE queue = 'wallet.service.trades')"
        )


async def _settled_at_least(engine: Engine, count: int) -> bool:
    return (await status(engine)).settled >= count


async def test_reconciling_tells_what_nothing_can_repair(either: Engine) -> None:
    engine = either
    pair = await Pair(engine).fund()
    await pair.trade(3)
    assert (await engine.quiet()).clean
    await engine.query("UPDATE settlement.trades SET price = price + 1 WHERE sequence = 2")
    await engine.query(
        "INSERT INTO settlement.trades SELECT gen_random_uuid(), symbol, 9, base_asset, quote_asset, price, quantity, "
        "buyer_user_id, buyer_order_id, seller_user_id, seller_order_id, maker_side, buyer_fee, seller_fee, now() "
        "FROM settlement.trades WHERE sequence = 3"
    )
    found = await reconcile(engine, symbol="BTC-USDT", deep=True)
    assert not found.clean
    assert [(item.different, item.unexplained) for item in found.symbols] == [(1, 6)]
    assert command(engine, "reconcile", "--deep", "--json").returncode == 1


async def test_a_market_nobody_knows_cannot_be_reconciled(engine: Engine) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reconcile(engine, symbol="NO/SUCH")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "SYMBOL_UNKNOWN" in refused.value.details()


async def test_two_settlements_share_the_work(on_rabbitmq: Engine, tmp_path: Path) -> None:
    engine = on_rabbitmq
    over = {
        "TRADE_ENGINE_SETTLEMENT_PORT": str(free_port()), "TRADE_ENGINE_SETTLEMENT_METRICS_PORT": str(free_port()),
        "TRADE_ENGINE_RABBITMQ_PREFETCH": "1",
    }  # fmt: skip
    second = start_beside(engine, "settlement", tmp_path / "second.log", **over)
    try:
        pairs = [await Pair(engine, symbol).fund() for symbol in ("BTC/USDT", "ETH/USDT", "SOL/USDT", "BTC/EUR")]
        await until(lambda: _consumers(engine, 2))
        await asyncio.gather(*(pair.trade(25) for pair in pairs))
        report = await engine.quiet()
        assert report.clean, [finding for finding in report.findings if finding.wrong]
        assert (await status(engine)).settled == 100
        assert (await reconcile(engine, deep=True)).clean
    finally:
        second.terminate()
        assert second.wait(20) == 0


async def _consumers(engine: Engine, count: int) -> bool:
    connection, channel = await channel_of(engine)
    name = engine.settings.rabbitmq.prefix + topology.settlement_queue().name
    declared = await channel.declare_queue(name, passive=True)
    await connection.close()
    return declared.declaration_result.consumer_count == count


async def test_settlements_are_streamed_in_order_from_any_trade_on(either: Engine) -> None:
    engine = either
    pair = await Pair(engine).fund()
    await pair.trade(5)
    assert (await engine.quiet()).clean

    async def read(count: int, **request) -> list[int]:
        call = engine.settlement.StreamSettlements(
            settlement_pb2.StreamSettlementsRequest(symbol="BTC-USDT", **request), metadata=engine.service
        )
        numbers: list[int] = []
        async with asyncio.timeout(20):
            async for response in call:
                numbers += [trade.sequence for trade in response.trades]
                if len(numbers) >= count:
                    break
        call.cancel()
        return numbers

    assert await read(5, after_sequence=0) == [1, 2, 3, 4, 5]
    assert await read(2, after_sequence=3) == [4, 5]
    new, resumed = asyncio.create_task(read(3)), asyncio.create_task(read(4, after_sequence=4))
    await asyncio.sleep(0.5)
    await pair.trade(3)
    assert await new == [6, 7, 8]
    assert await resumed == [5, 6, 7, 8]
