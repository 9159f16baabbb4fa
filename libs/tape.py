"""The trades of each symbol for those who listen: the newest ones in a ring that all readers share.

Who publishes never waits for a reader, and no reader has a queue: each remembers the trade it was last told. One that is
slower than the ring is long goes on at the ring's oldest; the sequence numbers show the gap, and settlement's tape has what
is in it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Generic, Protocol, TypeVar

from prometheus_client import Gauge

from libs.reasons import RefusedError, symbol_unknown
from libs.seats import Seats

RING_MAX = 1000
AT_ONCE_MAX = 200

SUBSCRIBERS = Gauge("trade_stream_subscribers", "Open StreamTrades calls")


class Numbered(Protocol):
    """A trade, by its number in its symbol."""

    @property
    def sequence(self) -> int:
        """From 1, without gaps."""


T = TypeVar("T", bound=Numbered)


class _Ring(Generic[T]):
    def __init__(self, last: int) -> None:
        self.trades: deque[T] = deque(maxlen=RING_MAX)
        self.last = last
        self.moved = asyncio.Event()


class TradeHub(Generic[T]):
    """Rings and subscribers of all symbols of this process."""

    def __init__(self, *, subscribers_max: int) -> None:
        self._seats = Seats(subscribers_max, SUBSCRIBERS)
        self._rings: dict[str, _Ring[T]] = {}

    def load(self, symbol: str, trades: int) -> None:
        """Know a symbol and how many trades it has had; one that is known stays as it is."""
        if symbol not in self._rings:
            self._rings[symbol] = _Ring(trades)

    def heads(self) -> list[tuple[str, int]]:
        """Every symbol and the number of its last committed trade."""
        return sorted((symbol, ring.last) for symbol, ring in self._rings.items())

    def publish(self, symbol: str, trades: Iterable[T]) -> None:
        """Tell what was traded."""
        ring = self._rings[symbol]
        for trade in trades:
            ring.trades.append(trade)
            ring.last = trade.sequence
        ring.moved.set()
        ring.moved = asyncio.Event()

    async def subscribe(self, symbol: str, after_sequence: int | None) -> AsyncIterator[list[T]]:
        """Trades after a sequence number as far as the ring reaches back, then new ones; without one only new ones.

        Raises RefusedError: SYMBOL_UNKNOWN, TOO_MANY_SUBSCRIBERS.
        """
        ring = self._rings.get(symbol)
        if ring is None:
            raise RefusedError(symbol_unknown(symbol))
        with self._seats.one():
            told = ring.last if after_sequence is None else after_sequence
            while True:
                moved = ring.moved
                if told < ring.last and ring.trades:
                    skip = max(0, told + 1 - ring.trades[0].sequence)
                    news = [ring.trades[place] for place in range(skip, min(skip + AT_ONCE_MAX, len(ring.trades)))]
                    if news:
                        told = news[-1].sequence
                        yield news
                        continue
                await moved.wait()
