"""A matcher's start: how long it takes to be where it was, after a million commands, with and without a snapshot."""

import argparse
import time
from typing import Any

import uvloop
from exchange.matcher.v1 import command_pb2
from rich.console import Console
from rich.progress import Progress

from bench.support import Clock, write_results
from cli.embedded import EmbeddedPostgres
from cli.flow import Flow
from cli.stack import temporary_folder
from libs.books import BookHub
from libs.bus.interface import nothing
from libs.config import Database
from libs.db.migrations import migrate_up
from libs.db.pool import open_pool
from libs.money import format_units
from libs.runtime import collect_garbage_rarely
from libs.tape import TradeHub
from services.matcher.core.commands import AmendOrder, CancelOrder, Command, NewOrder
from services.matcher.core.snapshot import state_hash
from services.matcher.journal import Journal
from services.matcher.recovery import State, recover
from services.matcher.relay import Relay
from services.matcher.sequencer import Sequencer

BATCH = 500
LIVE_TARGET = 5000
SNAPSHOT_BEFORE_END = 0.1  # as many commands after it as `matcher.snapshot_every` allows, of a million
console = Console(stderr=True)


class SilentBus:
    """Takes everything."""

    publish = close = staticmethod(nothing)


def message_of(command: Command) -> command_pb2.Command:
    match command:
        case NewOrder():
            return command_pb2.Command(
                new_order=command_pb2.NewOrder(
                    order_id=command.order_id, user_id=command.user_id, symbol=command.symbol, side=int(command.side),
                    type=int(command.type), time_in_force=int(command.time_in_force), price=format_units(command.price),
                    quantity=format_units(command.quantity), reserved=format_units(command.reserved),
                    self_trade=int(command.self_trade),
                )
            )  # fmt: skip
        case CancelOrder():
            return command_pb2.Command(
                cancel=command_pb2.CancelOrder(
                    order_id=command.order_id, user_id=command.user_id, symbol=command.symbol
                )
            )
        case AmendOrder():
            amend = command_pb2.AmendOrder(order_id=command.order_id, user_id=command.user_id, symbol=command.symbol)
            if command.price:
                amend.price = format_units(command.price)
            if command.quantity is not None:
                amend.quantity = format_units(command.quantity)
            if command.reserved_total:
                amend.reserved_total = format_units(command.reserved_total)
            return command_pb2.Command(amend=amend)
    raise AssertionError(command)


async def fill(journal: Journal, commands: int) -> None:
    """Journal so many commands of a realistic flow."""
    flow = Flow(3, spread_ticks=200, drift_per_order=0.2, live_target=LIVE_TARGET)
    relay = Relay(journal=journal, publisher=SilentBus(), keep_s=60, unread_keep_s=60)  # type: ignore[arg-type]  # publishes nothing
    sequencer = Sequencer(
        journal=journal, books=BookHub(subscribers_max=1, depth_max=10), trades=TradeHub(subscribers_max=1), relay=relay,
        clock_ns=time.time_ns,
    )  # fmt: skip
    lease = await journal.take_lease()
    assert lease is not None
    await sequencer.recover(lease)
    await relay.recover(lease.last_position)
    await sequencer.put_symbols(await journal.symbols())
    with Progress(console=console) as progress:
        task = progress.add_task("journaling", total=commands)
        while sequencer.sequence < commands:
            batch: list[Any] = flow.commands(BATCH)
            await sequencer.commit([message_of(command) for command in batch])
            progress.update(task, completed=sequencer.sequence)


async def timed(journal: Journal, **how: Any) -> tuple[State, float]:
    clock = Clock()
    return await recover(journal, **how), clock.seconds()


async def measure(postgres: EmbeddedPostgres, commands: int) -> tuple[dict[str, float], dict[str, object]]:
    await migrate_up(postgres.dsn)
    pool = await open_pool(Database.model_validate({"dsn": postgres.dsn}), service="matcher")
    journal = Journal(pool, shard=0, owner="bench", address="", lease_ms=60_000)
    await fill(journal, commands)
    whole, replay_s = await timed(journal, from_snapshot=False)
    console.print(f"replayed {whole.sequence} commands in {replay_s:.1f} s")
    until = await journal.commit_before(
        int(whole.sequence * (1 - SNAPSHOT_BEFORE_END))
    )  # snapshots are of whole commits
    middle = await recover(journal, until=until)
    snapshot = middle.snapshot()
    await journal.store_snapshot(snapshot, kept=1)
    again, with_s = await timed(journal)
    assert state_hash(again.engine) == state_hash(whole.engine)
    console.print(f"with a snapshot: {with_s:.1f} s")
    await pool.close()
    keys = {
        "replay_commands_per_s": round(whole.sequence / replay_s),
        "with_snapshot_commands_per_s": round(whole.sequence / with_s),
    }
    raw: dict[str, object] = {
        "commands": whole.sequence,
        "replay_s": round(replay_s, 2),
        "with_snapshot_s": round(with_s, 2),
        "commands_after_snapshot": whole.sequence - middle.sequence,
        "snapshot_bytes": len(snapshot.state),
        "live_orders": sum(owner.count for market in whole.engine.markets.values() for owner in market.open.values()),
    }
    return keys, raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, help="how long the journal is")
    options = parser.parse_args()
    collect_garbage_rarely()
    with temporary_folder("trade-engine-bench-") as folder:
        postgres = EmbeddedPostgres(folder)
        postgres.start()
        try:
            keys, raw = uvloop.run(measure(postgres, options.commands))
        finally:
            postgres.stop()
    write_results("recovery", keys, raw)


if __name__ == "__main__":
    main()
