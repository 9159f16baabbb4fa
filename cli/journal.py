"""`trade-engine journal`: read, verify and look back into what the matcher has journaled."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import click
from exchange.matcher.v1 import command_pb2
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cli.output import json_option, print_table
from cli.running import settings_of_running_stack
from libs.db.pool import open_pool
from libs.money import format_units
from libs.orders import Side, symbol_name
from services.matcher.core.snapshot import state_hash
from services.matcher.journal import Journal
from services.matcher.recovery import JournalBrokenError, State, recover

_console = Console(stderr=True)
_shard = click.option("--shard", default=0, show_default=True, type=click.IntRange(0), help="Which shard.")


@click.group()
def journal() -> None:
    """Read, verify and look back into the matcher's journal."""


@journal.command()
@_shard
@click.option("--from", "first", default=1, show_default=True, type=click.IntRange(1), help="First command.")
@click.option("--to", "last", type=click.IntRange(1), help="Last command; default: the newest.")
def dump(shard: int, first: int, last: int | None) -> None:
    """Print commands, one JSON object a line: its number, time and contents."""
    asyncio.run(_dump(shard, first, last))


@journal.command()
@_shard
@json_option
def verify(shard: int, as_json: bool) -> None:
    """Replay everything from the first command; exits 1 where it gives other events, or a snapshot another state."""
    state, snapshots = asyncio.run(_verify(shard, quiet=as_json))
    found = {
        "shard": shard,
        "commands": state.sequence,
        "events_hash": state.event_hash.hex(),
        "state_hash": state_hash(state.engine),
        "snapshots": snapshots,
    }
    if as_json:
        print(json.dumps(found))
        return
    table = Table("journal", "")
    for name, value in found.items():
        table.add_row(name, str(value))
    print_table(table)
    Console().print("journal: whole")


@journal.command()
@_shard
@click.option("--symbol", required=True, help="Which book, such as BTC/USDT.")
@click.option("--at", "sequence", type=click.IntRange(0), help="After this command; default: the newest.")
@click.option("--depth", default=10, show_default=True, type=click.IntRange(1, 1000), help="Levels of each side.")
@json_option
def book(shard: int, symbol: str, sequence: int | None, depth: int, as_json: bool) -> None:
    """Show a book as it was after any command."""
    state = asyncio.run(_state_at(shard, sequence))
    name = symbol_name(symbol)
    market = state.engine.markets.get(name)
    if market is None:
        _console.print(f"no market {name} after command {state.sequence}", markup=False, style="red")
        sys.exit(1)
    sides = {
        side: [(format_units(price), format_units(quantity)) for price, quantity in market.book.depth(side, depth)]
        for side in (Side.SELL, Side.BUY)
    }
    if as_json:
        found = {"symbol": name, "sequence": state.sequence, "asks": sides[Side.SELL], "bids": sides[Side.BUY]}
        print(json.dumps(found))
        return
    table = Table("side", "price", "quantity", title=f"{name} after command {state.sequence}")
    for price, quantity in reversed(sides[Side.SELL]):
        table.add_row("ask", price, quantity, style="red")
    for price, quantity in sides[Side.BUY]:
        table.add_row("bid", price, quantity, style="green")
    print_table(table)


async def _dump(shard: int, first: int, last: int | None) -> None:
    async with _journal_of(shard) as found:
        before = await found.commit_before(first)
        async with aclosing(found.replay(before)) as rows:
            async for row in rows:
                batch = command_pb2.JournalBatch.FromString(row.batch)
                for number, command in enumerate(batch.commands, start=row.first_sequence):
                    if last is not None and number > last:
                        return
                    if number >= first:
                        contents = MessageToDict(command, preserving_proto_field_name=True)
                        print(json.dumps({"sequence": number, "at_ns": batch.at_ns, **contents}))


async def _verify(shard: int, *, quiet: bool) -> tuple[State, int]:
    """The state after the last command, and how many snapshots were as they must be. Raises JournalBrokenError."""
    async with _journal_of(shard) as found:
        hashes = await found.snapshot_hashes()
        total = await found.last_sequence()
        right = 0
        with Progress(console=Console(stderr=True, quiet=quiet)) as progress:
            task = progress.add_task("replaying", total=total)

            def check(state: State) -> None:
                nonlocal right
                progress.update(task, completed=state.sequence)
                expected = hashes.get(state.sequence)
                if expected is not None and state_hash(state.engine) != expected:
                    raise JournalBrokenError(f"the snapshot after command {state.sequence} is of another state")
                right += expected is not None

            state = await recover(found, from_snapshot=False, retelling=True, on_progress=check)
        if state.sequence < total:
            raise JournalBrokenError(f"the journal ends at {state.sequence}, the shard at {total}")
        return state, right


async def _state_at(shard: int, sequence: int | None) -> State:
    async with _journal_of(shard) as found:
        state = await recover(found, until=sequence)
        if sequence is not None and state.sequence < sequence:
            _console.print(f"the journal ends at command {state.sequence}", style="yellow")
        return state


@asynccontextmanager
async def _journal_of(shard: int) -> AsyncIterator[Journal]:
    pool = await open_pool(settings_of_running_stack().database, service="matcher")
    try:
        yield Journal(pool, shard=shard, owner="trade-engine journal", address="", lease_ms=1)
    finally:
        await pool.close()
