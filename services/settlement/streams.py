"""Settled trades for those who listen, in order of their numbers and without gaps, read from the tape itself.

So it does not matter which process settled them, and a reader goes on where it was. A reader has no queue: it reads the
next page when it has taken the one before.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any

from prometheus_client import Gauge

from libs.seats import Seats
from services.settlement.core.gaps import whole_until
from services.settlement.tape import Tape

PAGE = 500
# Trades that are settled one after the other are read together.
GATHER_S = 0.1
SUBSCRIBERS = Gauge("settlement_stream_subscribers", "Open StreamSettlements calls")


class SettlementStreams:
    """Wakes readers of the symbols that moved."""

    def __init__(self, *, tape: Tape, subscribers_max: int) -> None:
        self._tape = tape
        self._seats = Seats(subscribers_max, SUBSCRIBERS)
        self._moved: dict[str, asyncio.Event] = {}

    def changed(self, symbols: Iterable[str]) -> None:
        """Trades of these symbols were settled."""
        for symbol in symbols:
            moved = self._moved.pop(symbol, None)
            if moved is not None:
                moved.set()

    async def subscribe(self, symbol: str, after_sequence: int | None) -> AsyncIterator[list[Any]]:
        """Pages of trades after a number; without one only what is settled from now on.

        Raises RefusedError(TOO_MANY_SUBSCRIBERS).
        """
        with self._seats.one():
            place = await self._place(symbol, after_sequence)
            while True:
                moved = self._moved.setdefault(symbol, asyncio.Event())
                rows = await self._tape.after(symbol, place, PAGE)
                whole = whole_until(place[1], [row["sequence"] for row in rows])
                page = [row for row in rows if row["sequence"] <= whole]
                if page:
                    place = page[-1]["executed_at"], whole
                    yield page
                else:
                    await moved.wait()
                    await asyncio.sleep(GATHER_S)

    async def _place(self, symbol: str, after_sequence: int | None) -> tuple[datetime, int]:
        if after_sequence is None:
            return await self._tape.newest(symbol)
        return await self._tape.place_of(symbol, after_sequence)
