"""What a bus promises: published means confirmed, delivered at least once, acknowledged only after the effect."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class BusAwayError(Exception):
    """The broker does not answer, or has not confirmed: publish the same again, or let it be delivered again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event message. `message_id` is the same on every delivery; consumers dedupe by what is inside."""

    exchange: str
    routing_key: str
    message_type: str
    message_id: str
    body: bytes


async def nothing(*_: object) -> None:
    """Acknowledges, or rejects, what needs neither."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages that wait for one acknowledgement.

    `acknowledge` is called once their effect is durable; where it raises BusAwayError, they come again. `reject` gives one
    up to the dead letters (call it before `acknowledge`, which then leaves that message out).

    A private listener is told by an empty batch that it begins (again) to listen: what came before that is lost to it.
    """

    messages: Sequence[Message]
    acknowledge: Callable[[], Awaitable[None]]
    reject: Callable[[Message], Awaitable[None]]


def beginning() -> Batch:
    """What a private listener is told when it begins to listen."""
    return Batch(messages=(), acknowledge=nothing, reject=nothing)


class Publisher(Protocol):
    """Sends messages."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Send in order; returns when all are confirmed. Raises BusAwayError."""

    async def close(self) -> None:
        """Give the connection back."""


class Consumer(Protocol):
    """Receives messages of one queue."""

    def batches(self, max_messages: int) -> AsyncGenerator[Batch, None]:
        """Batches without end, reconnecting by itself. A batch that is not acknowledged comes again.

        To be closed by who iterates: a connection hangs on it, which can be closed only while the loop runs.
        """
