"""A shard's state at a point of its journal: from the newest snapshot before it, and the commits after that.

Every commit must do what it did then (by its fingerprint), every snapshot give the state whose hash it names; else nobody
serves. Told again, or verified, every commit must give the very bytes of its events.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import aclosing

from exchange.matcher.v1 import command_pb2

from libs.bus.interface import Message
from libs.runtime import loading_for_good
from services.matcher.core.commands import Command, PutSymbol, Symbol
from services.matcher.core.engine import Engine
from services.matcher.core.fingerprint import fingerprint
from services.matcher.core.orders import Outcome
from services.matcher.core.snapshot import dump, load, text_of
from services.matcher.journal import Journal, JournalRow, Snapshot
from services.matcher.wire import event_messages, recorded_command


class JournalBrokenError(Exception):
    """Replaying the journal did not give the events or state that were recorded. Somebody must look; do not serve."""


class State:
    """An engine, and how far the journal is in it."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.engine = Engine()
        self.sequence = 0
        self.at_ns = 0
        self.event_hash = b""
        self.symbols: dict[str, Symbol] = {}

    @classmethod
    def of_snapshot(cls, shard: int, snapshot: Snapshot) -> "State":
        """The state that was stored. Raises JournalBrokenError where it is not what its hash says."""
        text = zlib.decompress(snapshot.state)
        if hashlib.sha256(text).hexdigest() != snapshot.state_hash:
            raise JournalBrokenError(f"the snapshot after command {snapshot.sequence} has another hash")
        state = cls(shard)
        state.engine = load(json.loads(text))
        state.sequence, state.at_ns, state.event_hash = snapshot.sequence, snapshot.at_ns, snapshot.event_hash
        state.symbols = {name: market.symbol for name, market in state.engine.markets.items()}
        return state

    def snapshot(self) -> Snapshot:
        """To be stored. That loading it gives this very state is proven here, where nobody waits for it."""
        state = dump(self.engine)
        if dump(load(state)) != state:
            raise JournalBrokenError(f"the state after command {self.sequence} is not what its snapshot gives")
        text = text_of(state)
        digest = hashlib.sha256(text).hexdigest()
        return Snapshot(self.sequence, self.at_ns, self.event_hash, digest, zlib.compress(text, 1))

    def apply(self, command: Command) -> Outcome:
        """Do one command at the time `at_ns`."""
        outcome = self.engine.apply(command, self.at_ns)
        if isinstance(command, PutSymbol):
            self.symbols[command.symbol.name] = command.symbol
        return outcome

    def replay(self, row: JournalRow, *, until: int | None = None) -> None:
        """Do one commit again, or its commands up to `until`. Raises JournalBrokenError."""
        batch = self._batch_of(row)
        if until is not None and until < row.last_sequence:
            self._do(batch.commands[: until - self.sequence])
            self.sequence = until
            return
        outcomes = self._do(batch.commands)
        if not batch.HasField("fingerprint"):  # of an earlier version
            self._tell(row, batch, outcomes)
            return
        if fingerprint(outcomes) != batch.fingerprint:
            raise JournalBrokenError(f"commands {row.first_sequence} to {row.last_sequence} did something else")
        self.sequence, self.event_hash = row.last_sequence, row.event_hash

    def retell(self, row: JournalRow) -> list[Message]:
        """Do one commit again; what it told, byte for byte. Raises JournalBrokenError."""
        batch = self._batch_of(row)
        return self._tell(row, batch, self._do(batch.commands))

    def _batch_of(self, row: JournalRow) -> command_pb2.JournalBatch:
        batch = command_pb2.JournalBatch.FromString(row.batch)
        if row.first_sequence != self.sequence + 1:
            raise JournalBrokenError(f"commands {self.sequence + 1} to {row.first_sequence - 1} are missing")
        if len(batch.commands) != row.last_sequence - self.sequence:
            raise JournalBrokenError(f"commands {row.first_sequence} to {row.last_sequence} are {len(batch.commands)}")
        self.at_ns = batch.at_ns
        return batch

    def _do(self, commands: Sequence[command_pb2.Command]) -> list[Outcome]:
        apply, at_ns = self.engine.apply, self.at_ns  # a million times in a row
        outcomes = []
        for message in commands:
            command = recorded_command(message)
            outcomes.append(apply(command, at_ns))
            if isinstance(command, PutSymbol):
                self.symbols[command.symbol.name] = command.symbol
        return outcomes

    def _tell(self, row: JournalRow, batch: command_pb2.JournalBatch, outcomes: Sequence[Outcome]) -> list[Message]:
        self.sequence = row.last_sequence
        items_max = batch.message_items_max
        events = event_messages(self.shard, self.sequence, outcomes, self.symbols, items_max=items_max)
        self.chain_events([message.body for message in events])
        if self.event_hash != row.event_hash:
            raise JournalBrokenError(f"commands {row.first_sequence} to {row.last_sequence} gave other events")
        return events

    def chain_events(self, bodies: Sequence[bytes]) -> None:
        """SHA-256 over the hash before and these events, so that each row vouches for everything up to it."""
        digest = hashlib.sha256(self.event_hash)
        for body in bodies:
            digest.update(len(body).to_bytes(8, "big"))
            digest.update(body)
        self.event_hash = digest.digest()


async def recover(
    journal: Journal,
    *,
    until: int | None = None,
    from_snapshot: bool = True,
    retelling: bool = False,
    on_progress: Callable[[State], None] = lambda _: None,
) -> State:
    """The state after the command `until`, or after the last one. Raises JournalBrokenError.

    `retelling` makes the events of every commit again, and compares their bytes.
    """
    with loading_for_good():
        snapshot = await journal.newest_snapshot(until) if from_snapshot else None
        state = State.of_snapshot(journal.shard, snapshot) if snapshot is not None else State(journal.shard)
        await catch_up(journal, state, until=until, retelling=retelling, on_progress=on_progress)
        return state


async def catch_up(
    journal: Journal,
    state: State,
    *,
    until: int | None = None,
    retelling: bool = False,
    on_progress: Callable[[State], None] = lambda _: None,
) -> None:
    """Bring a state to after the command `until`, or after the last one; as `recover`. What is done stays done."""
    if until is not None and state.sequence >= until:
        return
    async with aclosing(journal.replay(state.sequence)) as rows:
        async for row in rows:
            if retelling:
                state.retell(row)
            else:
                state.replay(row, until=until)
            on_progress(state)
            if until is not None and state.sequence >= until:
                return
