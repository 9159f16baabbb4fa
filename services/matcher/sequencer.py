"""The matcher's loop: gather, apply, commit, answer. Nobody hears of anything before the journal has it.

If a commit fails, memory is ahead of the journal: the process must end and recover. The fence in the commit makes sure
that a process which lost its lease (paused, cut off) cannot write.
"""

import hashlib
import time
from collections.abc import Callable, Sequence

import structlog
from exchange.matcher.v1 import command_pb2
from prometheus_client import Counter, Gauge, Histogram

from libs.db.pool import DatabaseAway
from libs.reasons import RefusedError
from services.matcher.books import BookHub
from services.matcher.core.engine import Engine
from services.matcher.core.orders import Command, Outcome, PutSymbol, Symbol
from services.matcher.journal import Journal, Lease, LeaseLostError
from services.matcher.relay import Relay
from services.matcher.wire import command_from, event_messages, result_message, symbol_message

log = structlog.get_logger()
MATCHED = Counter("orders_matched_total", "Trades", ["symbol"])
MATCHING_SECONDS = Histogram(
    "matching_duration_seconds", "Applying one batch", buckets=(0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1)
)
COMMIT_SECONDS = Histogram(
    "journal_commit_duration_seconds", "Committing one batch", buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1)
)
SEQUENCE = Gauge("matcher_sequence", "Last committed command")
COMMANDS_MAX = 1000


class JournalBrokenError(Exception):
    """Replaying the journal did not give the events that were recorded. Somebody must look; do not serve."""


class CommitFailedError(Exception):
    """The commit's outcome is unknown: recover from the journal."""


# Either means: end this process; a new one, or the standby, recovers.
FATAL = (CommitFailedError, LeaseLostError)


class Sequencer:
    """Owns the engine of one shard."""

    def __init__(
        self, *, engine: Engine, journal: Journal, books: BookHub, relay: Relay, clock_ns: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._books = books
        self._relay = relay
        self._clock_ns = clock_ns
        self.sequence = 0
        self._at_ns = 0
        self._event_hash = b""
        self.symbols: dict[str, Symbol] = {}

    async def recover(self, lease: Lease) -> None:
        """Replay the journal to its end. Raises JournalBrokenError where it does not give the same events again."""
        started = time.monotonic()
        async for row in self._journal.replay(self.sequence):
            batch = command_pb2.JournalBatch.FromString(row.batch)
            if row.first_sequence != self.sequence + 1:
                raise JournalBrokenError(f"commands {self.sequence + 1} to {row.first_sequence - 1} are missing")
            self._at_ns = batch.at_ns
            outcomes = [self._apply(command_from(command)) for command in batch.commands]
            self.sequence = row.last_sequence
            self._hash_events(outcomes)
            if self._event_hash != row.event_hash:
                raise JournalBrokenError(f"commands {row.first_sequence} to {row.last_sequence} gave other events")
        if self.sequence != lease.last_sequence:
            raise JournalBrokenError(f"the journal ends at {self.sequence}, the shard at {lease.last_sequence}")
        for name, market in self._engine.markets.items():
            self._books.load(name, market.book)
        SEQUENCE.set(self.sequence)
        log.info("recovered", sequence=self.sequence, seconds=round(time.monotonic() - started, 3))

    async def put_symbols(self, wanted: Sequence[Symbol]) -> None:
        """Journal every symbol that is new or whose filters have changed."""
        changed = [symbol for symbol in wanted if self.symbols.get(symbol.name) != symbol]
        if changed:
            puts = [command_pb2.PutSymbol(symbol=symbol_message(symbol)) for symbol in changed]
            await self.commit([command_pb2.Command(put_symbol=put) for put in puts])

    async def commit(
        self, messages: Sequence[command_pb2.Command]
    ) -> Sequence[command_pb2.CommandResult | RefusedError]:
        """Apply a batch, journal it in one commit, then tell. One result per command; a malformed one is not journaled.

        Raises CommitFailedError or LeaseLostError; the process must then end.
        """
        started = time.perf_counter()
        self._at_ns = max(self._at_ns, self._clock_ns())
        answers: list[Outcome | RefusedError] = []
        journaled: list[command_pb2.Command] = []
        for message in messages:
            try:
                command = command_from(message)
            except RefusedError as error:
                answers.append(error)
                continue
            journaled.append(message)
            answers.append(self._apply(command))
        MATCHING_SECONDS.observe(time.perf_counter() - started)
        outcomes = [answer for answer in answers if isinstance(answer, Outcome)]
        if journaled:
            await self._write(journaled, outcomes)
        return [
            answer if isinstance(answer, RefusedError) else result_message(answer, self.symbols) for answer in answers
        ]

    async def _write(self, journaled: list[command_pb2.Command], outcomes: list[Outcome]) -> None:
        first, last = self.sequence + 1, self.sequence + len(journaled)
        batch = command_pb2.JournalBatch(first_sequence=first, at_ns=self._at_ns, commands=journaled)
        events = event_messages(self._journal.shard, last, outcomes, self.symbols)
        self.sequence = last
        self._event_hash = _chain(self._event_hash, [message.body for message in events])
        started = time.perf_counter()
        try:
            position = await self._journal.commit(first, last, batch.SerializeToString(), self._event_hash, events)
        except DatabaseAway as error:
            raise CommitFailedError(f"{type(error).__name__}: {error}") from error
        COMMIT_SECONDS.observe(time.perf_counter() - started)
        SEQUENCE.set(last)
        self._relay.hand_over(position, events)
        for outcome in outcomes:
            for trade in outcome.trades:
                MATCHED.labels(trade.symbol.name).inc()
        self._books.publish({name: market.book for name, market in self._engine.markets.items() if market.book.changed})

    def _apply(self, command: Command) -> Outcome:
        outcome = self._engine.apply(command, self._at_ns)
        if isinstance(command, PutSymbol):
            self.symbols[command.symbol.name] = command.symbol
        return outcome

    def _hash_events(self, outcomes: list[Outcome]) -> None:
        events = event_messages(self._journal.shard, self.sequence, outcomes, self.symbols)
        self._event_hash = _chain(self._event_hash, [message.body for message in events])


def _chain(before: bytes, bodies: Sequence[bytes]) -> bytes:
    """SHA-256 over the hash before and these events, so that each row vouches for everything up to it."""
    digest = hashlib.sha256(before)
    for body in bodies:
        digest.update(len(body).to_bytes(8, "big"))
        digest.update(body)
    return digest.digest()
