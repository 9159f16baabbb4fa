"""The matcher's loop: gather, apply, commit, answer. Nobody hears of anything before the journal has it.

If a commit fails, memory is ahead of the journal: the process must end and recover. The fence in the commit makes sure
that a process which lost its lease (paused, cut off) cannot write.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import structlog
from exchange.matcher.v1 import command_pb2
from prometheus_client import Counter, Gauge, Histogram

from libs.books import BookHub
from libs.db.pool import DatabaseAway
from libs.money import UNIT, format_units
from libs.reasons import Reason, Refused, RefusedError
from libs.tape import TradeHub
from libs.tracing import traced
from services.matcher.core.commands import PutSymbol, Symbol
from services.matcher.core.engine import Engine
from services.matcher.core.fingerprint import fingerprint
from services.matcher.core.orders import Outcome, Trade
from services.matcher.journal import Journal, Lease, LeaseLostError
from services.matcher.recovery import JournalBrokenError, State, catch_up, recover
from services.matcher.relay import Relay
from services.matcher.wire import command_from, event_messages, question_from, result_message, symbol_message

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
# Of one command, and of all in one response: 80 bytes each, of the 4 MiB that a message has at most.
FILLS_OF_ONE_MAX, FILLS_MAX = 1000, 20_000
# In one message on the bus: some 300 bytes each, and brokers take no message of any size (RabbitMQ 4: 16 MiB).
MESSAGE_ITEMS_MAX = 1000
TICK = command_pb2.Command(tick=command_pb2.Tick())


class CommitFailedError(Exception):
    """The commit's outcome is unknown: recover from the journal."""


# Either means: end this process; a new one, or the standby, recovers.
FATAL = (CommitFailedError, LeaseLostError)


class Sequencer:
    """Owns the engine of one shard."""

    def __init__(
        self, *, journal: Journal, books: BookHub, trades: TradeHub[Trade], relay: Relay, clock_ns: Callable[[], int]
    ) -> None:
        self._journal = journal
        self._books = books
        self._trades = trades
        self._relay = relay
        self._clock_ns = clock_ns
        self._state = State(journal.shard)
        self._is_loaded = False

    @property
    def sequence(self) -> int:
        """The last command that is committed."""
        return self._state.sequence

    @property
    def engine(self) -> Engine:
        """The books."""
        return self._state.engine

    @property
    def symbols(self) -> dict[str, Symbol]:
        """The symbols by name."""
        return self._state.symbols

    async def follow(self) -> None:
        """Bring the state to where the journal ends now. Raises JournalBrokenError, or what asyncpg raises.

        Done while this process only stands by: loading a large snapshot stops everything else here for longer than a lease
        lasts, and who began with it when it leads would no longer lead when it is done.
        """
        if self._is_loaded:
            await catch_up(self._journal, self._state)
        else:
            self._state = await recover(self._journal)
            self._is_loaded = True
        SEQUENCE.set(self.sequence)

    async def recover(self, lease: Lease) -> None:
        """Go to the end of the journal, which has no other writer now. Raises JournalBrokenError; then do not serve."""
        started, followed_to = time.monotonic(), self.sequence
        await self.follow()
        if self.sequence != lease.last_sequence:
            raise JournalBrokenError(f"the journal ends at {self.sequence}, the shard at {lease.last_sequence}")
        for name, market in self.engine.markets.items():
            self._books.load(name, market.book, self.sequence)
            self._trades.load(name, market.trades)
        seconds = round(time.monotonic() - started, 3)
        log.info("recovered", sequence=self.sequence, followed_to=followed_to, seconds=seconds)

    async def put_symbols(self, wanted: Sequence[Symbol]) -> None:
        """Journal every symbol that is new or whose filters have changed."""
        changed = [symbol for symbol in wanted if self.symbols.get(symbol.name) != symbol]
        if changed:
            puts = [command_pb2.PutSymbol(symbol=symbol_message(symbol)) for symbol in changed]
            answers = await self.commit([command_pb2.Command(put_symbol=put) for put in puts])
            for symbol, answer in zip(changed, answers, strict=True):
                if isinstance(answer, RefusedError):
                    log.error("a market stays as it was", symbol=symbol.name, refused=str(answer))

    def check_change(self, symbol: Symbol) -> None:
        """Raises RefusedError where price x quantity of an open order could then have more than 8 decimals."""
        market = self.engine.markets.get(symbol.name)
        if market is None:
            return
        prices, quantities = market.grid()
        if math.gcd(prices, symbol.tick) * math.gcd(quantities, symbol.lot) % UNIT:
            rule = (
                "tick size x lot size must be exact in 8 decimals with open orders, too, whose prices are multiples of "
                f"{format_units(prices)} and quantities of {format_units(quantities)}: cancel those, or delist it first"
            )
            raise RefusedError(Refused(Reason.AMOUNT_TOO_PRECISE, field="symbol.tick_size", rule=rule))

    def is_due(self) -> bool:
        """Whether time has made something due: to be asked now and then where no commands come."""
        return self.engine.is_due(max(self._state.at_ns, self._clock_ns()))

    async def commit(
        self, messages: Sequence[command_pb2.Command]
    ) -> Sequence[command_pb2.CommandResult | RefusedError]:
        """Apply a batch, journal it in one commit, then tell. One result per command; a malformed one is not journaled.

        What time has made due is done before, so that no command meets an order whose time is over.
        Raises CommitFailedError or LeaseLostError; the process must then end.
        """
        self._state.at_ns = max(self._state.at_ns, self._clock_ns())
        while self.engine.is_due(self._state.at_ns):
            await self._commit([TICK])
        return await self._commit(messages)

    async def _commit(
        self, messages: Sequence[command_pb2.Command]
    ) -> Sequence[command_pb2.CommandResult | RefusedError]:
        started = time.perf_counter()
        answers: list[Outcome | RefusedError] = []
        journaled: list[command_pb2.Command] = []
        outcomes: list[Outcome] = []  # of what is journaled
        for message in messages:
            try:
                if message.HasField("ask"):
                    answers.append(self.engine.tell(question_from(message.ask)))
                    continue
                command = command_from(message)
                if isinstance(command, PutSymbol):
                    self.check_change(command.symbol)
            except RefusedError as error:
                answers.append(error)
                continue
            journaled.append(message)
            outcomes.append(self._state.apply(command))
            answers.append(outcomes[-1])
        MATCHING_SECONDS.observe(time.perf_counter() - started)
        if journaled:
            with traced("matcher.commit", lambda: _order_ids(journaled)):
                await self._write(journaled, outcomes)
        return self._told(answers)

    def _told(self, answers: Sequence[Outcome | RefusedError]) -> list[command_pb2.CommandResult | RefusedError]:
        """Answers in words; of fills, of which there may be any number, as many as one response has room for."""
        told: list[command_pb2.CommandResult | RefusedError] = []
        room = FILLS_MAX
        for answer in answers:
            if isinstance(answer, RefusedError):
                told.append(answer)
                continue
            result = result_message(answer, self.symbols, fills_max=min(FILLS_OF_ONE_MAX, room))
            room -= len(result.fills)
            told.append(result)
        return told

    async def _write(self, journaled: list[command_pb2.Command], outcomes: list[Outcome]) -> None:
        first, last = self.sequence + 1, self.sequence + len(journaled)
        batch = command_pb2.JournalBatch(
            first_sequence=first, at_ns=self._state.at_ns, commands=journaled, fingerprint=fingerprint(outcomes),
            message_items_max=MESSAGE_ITEMS_MAX,
        )  # fmt: skip
        events = event_messages(self._journal.shard, last, outcomes, self.symbols, items_max=MESSAGE_ITEMS_MAX)
        self._state.sequence = last
        self._state.chain_events([message.body for message in events])
        started = time.perf_counter()
        try:
            position = await self._journal.commit(
                first, last, batch.SerializeToString(), self._state.event_hash, events
            )
        except DatabaseAway as error:
            raise CommitFailedError(f"{type(error).__name__}: {error}") from error
        COMMIT_SECONDS.observe(time.perf_counter() - started)
        SEQUENCE.set(last)
        if any(command.HasField("put_symbol") for command in journaled):
            for name, market in self.engine.markets.items():
                self._trades.load(name, market.trades)
        self._relay.hand_over(position, events)
        for outcome in outcomes:
            if outcome.trades:
                symbol = outcome.trades[0].symbol.name
                MATCHED.labels(symbol).inc(len(outcome.trades))
                self._trades.publish(symbol, outcome.trades)
        self._books.publish({name: market.book for name, market in self.engine.markets.items() if market.book.changed})


def _order_ids(commands: Sequence[command_pb2.Command]) -> Iterator[str]:
    for command in commands:
        kind = command.WhichOneof("command")
        if kind in {"new_order", "cancel", "amend"}:
            yield getattr(command, kind).order_id
