"""Journal first: what is answered is in it, a fenced writer cannot write, recovery gives the same bytes or refuses."""

import asyncio
import itertools
import time

import pytest
from exchange.events.v1 import order_pb2, trade_pb2
from exchange.matcher.v1 import book_pb2, command_pb2

from libs.books import BookHub
from libs.bus.interface import Message
from libs.bus.topology import TRADE_EVENTS
from libs.tape import TradeHub
from services.matcher import journal, relay, sequencer
from services.matcher.__main__ import wait_for_lease
from services.matcher.core.engine import Engine
from services.matcher.core.snapshot import state_hash
from services.matcher.journal import ENSURE_SHARD, TAKE_LEASE, Journal, LeaseLostError
from services.matcher.recovery import JournalBrokenError, recover
from services.matcher.relay import Relay
from services.matcher.sequencer import FILLS_OF_ONE_MAX, MESSAGE_ITEMS_MAX, Sequencer
from tests.support.tables import NOW_NS, order_id, uid

LEASE_MS = 400


class SilentBus:
    """Confirms everything and remembers it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def publish(self, messages) -> None:
        self.messages += messages

    async def close(self) -> None:
        pass


class Leader:
    """A matcher without its gRPC face."""

    def __init__(self, pool, name: str, *, keep_s: int = 60) -> None:
        self.journal = Journal(pool, shard=0, owner=name, address=name, lease_ms=LEASE_MS)
        self.books = BookHub(subscribers_max=10, depth_max=10)
        self.trades = TradeHub(subscribers_max=10)
        self.bus = SilentBus()
        self.relay = Relay(journal=self.journal, publisher=self.bus, keep_s=keep_s, unread_keep_s=60)
        times = itertools.count(NOW_NS)
        self.sequencer = Sequencer(
            journal=self.journal, books=self.books, trades=self.trades, relay=self.relay, clock_ns=lambda: next(times)
        )

    @property
    def engine(self) -> Engine:
        return self.sequencer.engine

    async def lead(self) -> "Leader":
        while (lease := await self.journal.take_lease()) is None:
            await asyncio.sleep(0.02)
        await self.sequencer.recover(lease)
        await self.relay.recover(lease.last_position)
        await self.sequencer.put_symbols(await self.journal.symbols())
        return self

    async def place(self, *names: str, side: int = 1, price: str = "100") -> list[command_pb2.CommandResult]:
        commands = [new_order(name, side=side, price=price) for name in names]
        return list(await self.sequencer.commit(commands))


def new_order(name: str, *, side: int, price: str) -> command_pb2.Command:
    order = command_pb2.NewOrder(
        order_id=order_id(name), user_id=uid(name.partition("#")[0]), symbol="BTC/USDT", side=side, type=1,
        time_in_force=1, price=price, quantity="1", reserved=price if side == 1 else "1",
    )  # fmt: skip
    return command_pb2.Command(new_order=order)


async def test_recovery_gives_the_same_state_and_events(pool) -> None:
    first = await Leader(pool, "first").lead()
    for number in range(30):
        await first.place(f"ann#{number}", f"bob#{number}", price=str(100 + number % 3))
        await first.place(f"cid#{number}", side=2, price=str(100 + number % 3))
    second = await Leader(pool, "second").lead()
    assert second.sequencer.sequence == first.sequencer.sequence > 90
    assert state_hash(second.engine) == state_hash(first.engine)
    assert second.books.snapshot("BTC/USDT", 10).bids == first.books.snapshot("BTC/USDT", 10).bids
    assert second.journal.epoch == first.journal.epoch + 1
    await second.journal.store_snapshot((await recover(second.journal)).snapshot(), kept=1)
    assert await second.journal.newest_state_hash() == (second.sequencer.sequence, state_hash(second.engine))


async def test_an_old_leader_cannot_commit_and_nothing_of_its_batch_stays(pool) -> None:
    old = await Leader(pool, "old").lead()
    await old.place("ann#1")
    await asyncio.sleep(LEASE_MS / 1000)
    new = await Leader(pool, "new").lead()
    with pytest.raises(LeaseLostError):
        await old.place("bob#1")
    with pytest.raises(LeaseLostError):
        await old.journal.keep_lease()
    await new.place("cid#1")
    rows = await pool.fetch("SELECT epoch, first_sequence, last_sequence FROM matcher.journal ORDER BY first_sequence")
    assert [row["epoch"] for row in rows] == sorted(row["epoch"] for row in rows)
    reader = await Leader(pool, "reader").lead()
    assert order_id("bob#1") not in reader.engine.orders
    assert {order_id("ann#1"), order_id("cid#1")} <= reader.engine.orders.keys()


async def test_a_standby_leads_only_when_it_has_read_the_journal_however_long_that_takes(pool) -> None:
    """Who took the lease first, and then loaded for longer than it lasts, lost it to another, who lost it again."""
    first = await Leader(pool, "first").lead()
    await first.place("ann#1")
    standby = Leader(pool, "standby")
    looks, first_lives = 0, True

    async def follow() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            time.sleep(3 * LEASE_MS / 1000)  # noqa: ASYNC251 - as loading does: nothing else goes on meanwhile
        if first_lives:
            await first.journal.keep_lease()
        await standby.sequencer.follow()

    waiting = asyncio.create_task(wait_for_lease(standby.journal, LEASE_MS, meanwhile=follow))
    while looks < 3:
        await asyncio.sleep(0.01)
    assert standby.sequencer.sequence == first.sequencer.sequence
    await first.place("bob#1")
    first_lives = False
    lease = await waiting
    await standby.journal.keep_lease()
    assert await pool.fetchval("SELECT owner FROM matcher.shards") == "standby"
    await standby.sequencer.recover(lease)
    assert state_hash(standby.engine) == state_hash(first.engine)
    await standby.relay.recover(lease.last_position)
    await standby.place("cid#1")
    with pytest.raises(LeaseLostError):
        await first.place("dee#1")


async def test_only_one_of_many_gets_the_lease(pool) -> None:
    for shard in range(20):
        journals = [Journal(pool, shard=shard, owner=str(n), address=str(n), lease_ms=60_000) for n in range(8)]
        leases = await asyncio.gather(*(journal.take_lease() for journal in journals))
        assert sum(lease is not None for lease in leases) == 1


async def test_who_began_to_ask_before_another_got_the_longest_lease_gets_none(pool) -> None:
    """It waits for the other's row, and looks again: a minute from its own beginning is over before that lease is."""
    first, second = (Journal(pool, shard=0, owner=name, address=name, lease_ms=60_000) for name in ("ann", "bob"))
    await pool.execute(ENSURE_SHARD, 0)
    async with pool.acquire() as connection, connection.transaction():
        await connection.fetchval("SELECT now()")
        assert await first.take_lease() is not None
        row = await connection.fetchrow(TAKE_LEASE, 0, "bob", "bob", 60_000)
    assert row is None
    assert await second.take_lease() is None


async def test_a_lease_from_before_the_clock_was_set_back_is_none(pool) -> None:
    leader, standby = (Journal(pool, shard=0, owner=name, address=name, lease_ms=60_000) for name in ("ann", "bob"))
    assert await leader.take_lease() is not None
    assert await standby.take_lease() is None
    await pool.execute("UPDATE matcher.shards SET lease_until = lease_until + interval '2 hours'")
    assert await standby.take_lease() is not None
    with pytest.raises(LeaseLostError):
        await leader.keep_lease()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM matcher.journal WHERE first_sequence = 11", "are missing"),
        ("DELETE FROM matcher.journal WHERE first_sequence = 12", "the journal ends at"),
    ],
)
async def test_a_damaged_journal_is_not_served(pool, damage: str, says: str) -> None:
    leader = await Leader(pool, "leader").lead()  # ten symbols: commands 1 to 10
    await leader.place("ann#1")
    await leader.place("bob#1")
    await pool.execute(damage)
    with pytest.raises(JournalBrokenError, match=says):
        await Leader(pool, "next").lead()


async def test_a_commit_that_does_something_else_than_it_did_is_not_served(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    await leader.place("ann#1")
    await leader.place("bob#1")
    stored = await pool.fetchval("SELECT batch FROM matcher.journal WHERE first_sequence = 11")
    batch = command_pb2.JournalBatch.FromString(stored)
    batch.commands[0].new_order.quantity = "0.5"
    await pool.execute("UPDATE matcher.journal SET batch = $1 WHERE first_sequence = 11", batch.SerializeToString())
    with pytest.raises(JournalBrokenError, match="11 to 11 did something else"):
        await Leader(pool, "next").lead()


async def test_events_that_are_not_those_that_were_told_are_found_by_retelling(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    await leader.place("ann#1")
    await leader.place("bob#1")
    told = await recover(leader.journal, from_snapshot=False, retelling=True)
    assert told.event_hash == (await recover(leader.journal)).event_hash
    await pool.execute("UPDATE matcher.journal SET event_hash = 'x' WHERE first_sequence = 11")
    with pytest.raises(JournalBrokenError, match="11 to 11 gave other events"):
        await recover(leader.journal, from_snapshot=False, retelling=True)


async def test_a_commit_that_trades_much_is_told_in_messages_of_a_bounded_size_and_again_so(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    count = 2 * MESSAGE_ITEMS_MAX + 5
    names = [f"ann#{number}" for number in range(count)]
    for start in range(0, count, 500):
        await leader.place(*names[start : start + 500], side=2, price="100")
    sweep = new_order("bob#1", side=1, price="100")
    sweep.new_order.quantity, sweep.new_order.reserved = str(count), str(100 * count)
    small = new_order("cid#1", side=1, price="90")
    first, other = await leader.sequencer.commit([sweep, small])
    assert (first.order.filled_quantity, len(first.fills), first.more_fills) == (str(count), FILLS_OF_ONE_MAX, True)
    assert (other.order.status, len(other.fills), other.more_fills) == (2, 0, False)
    again, _ = await leader.sequencer.commit([sweep, small])
    assert (again.fills, again.more_fills) == (first.fills, True)

    rows = await pool.fetch("SELECT message_id, exchange, body FROM matcher.outbox ORDER BY position")
    trades = [trade_pb2.TradeEvents.FromString(row["body"]) for row in rows if row["exchange"] == TRADE_EVENTS]
    assert [len(events.trades) for events in trades] == [MESSAGE_ITEMS_MAX, MESSAGE_ITEMS_MAX, 5]
    assert [trade.sequence for events in trades for trade in events.trades] == list(range(1, count + 1))
    orders = [order_pb2.OrderEvents.FromString(row["body"]) for row in rows if row["exchange"] != TRADE_EVENTS]
    assert max(len(events.updates) for events in orders) == MESSAGE_ITEMS_MAX
    assert len({row["message_id"] for row in rows}) == len(rows)
    told = await recover(leader.journal, from_snapshot=False, retelling=True)
    assert told.event_hash == (await recover(leader.journal)).event_hash


async def test_many_commands_that_trade_much_are_answered_in_one_message(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    for start in range(0, 3000, 500):
        await leader.place(*(f"ann#{number}" for number in range(start, start + 500)), side=2, price="100")
    sweeps = [new_order(f"bob#{number}", side=1, price="100") for number in range(3)]
    for sweep in sweeps:
        sweep.new_order.quantity, sweep.new_order.reserved = "900", "90000"
    sequencer.FILLS_MAX, before = 2000, sequencer.FILLS_MAX
    try:
        answers = await leader.sequencer.commit(sweeps)
    finally:
        sequencer.FILLS_MAX = before
    assert [(len(answer.fills), answer.more_fills) for answer in answers] == [(900, False), (900, False), (200, True)]
    assert {answer.order.filled_quantity for answer in answers} == {"900"}


async def test_a_question_beside_commands_is_no_part_of_the_journal(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    unknown = command_pb2.AskOrder(order_id=order_id("nobody"), user_id=uid("ann"), symbol="BTC/USDT")
    answers = await leader.sequencer.commit(
        [command_pb2.Command(ask=unknown), new_order("ann#1", side=1, price="100"), command_pb2.Command(ask=unknown)]
    )
    assert [bool(answer.refusal) for answer in answers] == [True, False, True]
    assert state_hash((await recover(leader.journal)).engine) == state_hash(leader.engine)


async def test_a_malformed_command_is_answered_and_not_journaled(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    before = leader.sequencer.sequence
    bad = new_order("ann#1", side=1, price="1e3")
    good = new_order("bob#1", side=1, price="100")
    answers = await leader.sequencer.commit([bad, good, command_pb2.Command()])
    assert "AMOUNT_MALFORMED" in str(answers[0])
    assert answers[1].order.order_id == order_id("bob#1")
    assert "FIELD_REQUIRED" in str(answers[2])
    assert leader.sequencer.sequence == before + 1


async def test_every_event_is_published_in_order_also_after_a_restart(pool) -> None:
    first = await Leader(pool, "first").lead()
    await first.place("ann#1", "bob#1")
    await first.place("cid#1", side=2)
    second = await Leader(pool, "second").lead()
    await second.place("dee#1")
    relaying = asyncio.gather(second.relay.run(), second.relay.keep_position())
    async with asyncio.timeout(10):
        while await second.journal.published() < 4:
            await asyncio.sleep(0.01)
    assert second.relay.lag == 0
    relaying.cancel()
    ids = [message.message_id for message in second.bus.messages]
    rows = await pool.fetch("SELECT message_id FROM matcher.outbox ORDER BY position")
    assert ids == [row["message_id"] for row in rows]
    assert len(ids) == 4
    assert await second.journal.prune_outbox(4, keep_s=0, unread_keep_s=60) == 4


async def test_the_outbox_is_pruned_as_fast_as_it_grows(pool, monkeypatch) -> None:
    for module in (journal, relay):
        monkeypatch.setattr(module, "PRUNE_ROWS", 2)
    leader = await Leader(pool, "leader", keep_s=0).lead()
    for number in range(5):
        await leader.place(f"ann#{number}")
    await leader.relay.recover(5)
    relaying = asyncio.gather(leader.relay.run(), leader.relay.prune())
    async with asyncio.timeout(relay.PRUNE_EVERY_S / 2):
        while await pool.fetchval("SELECT count(*) FROM matcher.outbox"):
            await asyncio.sleep(0.01)
    relaying.cancel()


async def test_what_a_reader_of_the_outbox_has_not_read_is_kept_longer(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    for number in range(5):
        await leader.place(f"ann#{number}")
    await pool.execute("INSERT INTO matcher.outbox_cursors VALUES ('settlement', 0, 2)")
    assert await leader.journal.prune_outbox(4, keep_s=60, unread_keep_s=60) == 0
    assert await leader.journal.prune_outbox(4, keep_s=0, unread_keep_s=60) == 2
    assert await leader.journal.prune_outbox(4, keep_s=0, unread_keep_s=0) == 2
    assert await pool.fetchval("SELECT min(position) FROM matcher.outbox") == 5, "it is not published"


async def test_what_waits_for_the_bus_is_remembered_up_to_a_size(pool, monkeypatch) -> None:
    leader = await Leader(pool, "leader").lead()
    monkeypatch.setattr(relay, "REMEMBERED_BYTES_MAX", 1000)
    for number in range(20):
        await leader.place(f"ann#{number}")
    remembered = [message for _, message in leader.relay._waiting]
    assert 0 < sum(len(message.body) for message in remembered) <= 1000
    relaying = asyncio.create_task(leader.relay.run())
    async with asyncio.timeout(10):
        while leader.relay.lag:
            await asyncio.sleep(0.01)
    relaying.cancel()
    rows = await pool.fetch("SELECT message_id FROM matcher.outbox ORDER BY position")
    assert [message.message_id for message in leader.bus.messages] == [row["message_id"] for row in rows]
    assert len(rows) == 20


async def test_a_subscriber_that_fell_behind_gets_a_snapshot_not_a_gap(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    stream = leader.books.subscribe("BTC/USDT", 5)
    first = await anext(stream)
    assert isinstance(first, book_pb2.Book)
    for number in range(3):
        await leader.place(f"ann#{number}", price=str(90 + number))
    deltas = [await anext(stream) for _ in range(3)]
    assert all(isinstance(item, book_pb2.BookDelta) for item in deltas)
    sequences = [first.sequence, *(item.sequence for item in deltas)]
    assert sequences == list(range(sequences[0], sequences[0] + 4))
    for number in range(300):  # more than the ring holds
        await leader.place(f"bob#{number}", price=str(100 + number))
    again = await anext(stream)
    assert again == leader.books.snapshot("BTC/USDT", 5)
    await stream.aclose()


async def test_a_start_from_a_snapshot_is_a_start_from_the_beginning(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    for number in range(20):
        await leader.place(f"ann#{number}", f"bob#{number}", price=str(100 + number % 3))
        await leader.place(f"cid#{number}", side=2, price=str(100 + number % 3))
        if number in {4, 9, 14, 17}:
            state = await recover(leader.journal)
            await leader.journal.store_snapshot(state.snapshot(), kept=3)
    sequences = [row["sequence"] for row in await pool.fetch("SELECT sequence FROM matcher.snapshots ORDER BY 1")]
    assert len(sequences) == 3, "older ones are forgotten"
    long_way = await recover(leader.journal, from_snapshot=False)
    await pool.execute("DELETE FROM matcher.journal WHERE last_sequence <= $1", sequences[-1])  # it is not read
    second = await Leader(pool, "second").lead()
    assert second.sequencer.sequence == long_way.sequence
    assert state_hash(second.engine) == state_hash(long_way.engine) == state_hash(leader.engine)
    again = await second.place("ann#0", price="100")
    assert again[0].order.status in {3, 4}, "a repeat of before the snapshot is recognised"
    await second.place("dee#1", side=2, price="90")
    assert state_hash((await recover(second.journal)).engine) == state_hash(second.engine)


async def test_a_damaged_snapshot_is_not_served(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    await leader.place("ann#1")
    await leader.journal.store_snapshot((await recover(leader.journal)).snapshot(), kept=3)
    await pool.execute("UPDATE matcher.snapshots SET state_hash = repeat('0', 64)")
    with pytest.raises(JournalBrokenError, match="another hash"):
        await Leader(pool, "next").lead()


async def test_any_past_state_can_be_had_also_within_a_commit(pool) -> None:
    leader = await Leader(pool, "leader").lead()
    start = leader.sequencer.sequence
    await leader.place("ann#1", "bob#1", "cid#1")
    await leader.journal.store_snapshot((await recover(leader.journal)).snapshot(), kept=3)
    await leader.place("dee#1")
    for back, orders in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)):
        state = await recover(leader.journal, until=start + back)
        assert (state.sequence, state.engine.markets["BTC/USDT"].book.orders) == (start + back, orders)
