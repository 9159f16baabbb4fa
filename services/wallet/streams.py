"""Balances for those who listen: the newest state of each, whoever moved it.

Readers of moved accounts are told at once; what another wallet process moved is found by reading the balances of all
listeners once a second, one keyed read for all of them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import structlog
from prometheus_client import Gauge

from libs.db.pool import DatabaseAway
from libs.seats import Audience
from services.wallet.core.operations import BalanceAt
from services.wallet.store import LedgerStore

POLL_S = 1.0
# Changes that come together are read together.
GATHER_S = 0.01

log = structlog.get_logger()
SUBSCRIBERS = Gauge("balance_stream_subscribers", "Open StreamBalances calls")


class _Subscriber:
    """What a reader was told, and what it is to be told next: one state per asset, so it is bounded."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}
        self.news: dict[str, BalanceAt] = {}
        self.wake = asyncio.Event()

    def tell(self, balance: BalanceAt) -> None:
        if balance.sequence > self.told.get(balance.asset, 0):
            self.told[balance.asset] = balance.sequence
            self.news[balance.asset] = balance
            self.wake.set()

    def take(self) -> list[BalanceAt]:
        self.wake.clear()
        news, self.news = self.news, {}
        return [news[asset] for asset in sorted(news)]


class BalanceStreams:
    """Subscribers by user."""

    def __init__(self, *, store: LedgerStore, subscribers_max: int) -> None:
        self._store = store
        self._audience: Audience[_Subscriber] = Audience(subscribers_max, SUBSCRIBERS)
        self._moved: set[str] = set()
        self._wake = asyncio.Event()

    def changed(self, account_ids: Iterable[str]) -> None:
        """These accounts have moved; called after every write."""
        if self._audience.by_user:
            moved = self._audience.by_user.keys() & account_ids
            if moved:
                self._moved |= moved
                self._wake.set()

    async def run(self) -> None:
        """Distribute until cancelled."""
        loop = asyncio.get_running_loop()
        poll_at = loop.time() + POLL_S
        while True:
            users: Iterable[str]
            try:
                async with asyncio.timeout_at(poll_at):
                    await self._wake.wait()
                    await asyncio.sleep(GATHER_S)
                users = self._moved
            except TimeoutError:
                poll_at = loop.time() + POLL_S
                users = self._audience.by_user.keys()
            self._moved = set()
            self._wake.clear()
            if users:
                await self._tell(list(users))

    async def subscribe(self, user_id: str) -> AsyncIterator[list[BalanceAt]]:
        """All balances of a user, then those that changed. Raises RefusedError(TOO_MANY_SUBSCRIBERS)."""
        with self._audience.joined(user_id, _Subscriber()) as subscriber:
            for balance in await self._store.user_balances(user_id):
                subscriber.tell(balance)
            yield subscriber.take()
            while True:
                await subscriber.wake.wait()
                yield subscriber.take()

    async def _tell(self, users: list[str]) -> None:
        try:
            balances = await self._store.balances_of(users)
        except DatabaseAway as error:
            log.warning("balances are not read: database away", error=str(error))
            return
        for user_id, balance in balances:
            for subscriber in self._audience.by_user.get(user_id, ()):
                subscriber.tell(balance)
