"""Which markets are known, and when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from libs.reasons import Reason, RefusedError
from services.market_data import follower as following
from services.market_data.cache import MarketCache
from services.market_data.clients import Sources
from services.market_data.core.chart import Chart
from services.market_data.follower import Follower
from services.market_data.mirrors import Mirrors
from services.market_data.store import CandleStore

LATE = "SOL/EUR"


class SlowStore:
    """A database that is slow over the last market, as a real one is not on demand."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()

    async def chart(self, symbol: str) -> Chart:
        if symbol == LATE:
            await self.may_go_on.wait()
        return Chart()


class SilentMatchers:
    """Tell their markets and then nothing."""

    def __init__(self, *told: list[str]) -> None:
        self._told = list(told)
        self.all_told = False

    async def symbols(self) -> list[str]:
        told = self._told.pop(0)
        self.all_told = not self._told
        return told

    def __getattr__(self, name: str) -> Any:
        async def stream(*_: object, **__: object) -> Any:
            await asyncio.Event().wait()
            yield

        return stream


class Charts(dict[str, Chart]):
    """Lets `look` see every market the moment one becomes known, before anything else can run."""

    def __init__(self, look: Any) -> None:
        super().__init__()
        self._look = look

    def __setitem__(self, symbol: str, chart: Chart) -> None:
        super().__setitem__(symbol, chart)
        asyncio.get_running_loop().call_soon(self._look)


def reason_of(ask: Any) -> Reason | None:
    try:
        ask()
    except RefusedError as error:
        return error.refused.reason
    return None


@contextlib.asynccontextmanager
async def following_of(matchers: SilentMatchers, store: SlowStore, looks: list[Any]) -> AsyncIterator[Follower]:
    sources = cast("Sources", matchers)
    mirrors = Mirrors(sources=sources, cache=cast("MarketCache", None), depth=100, subscribers_max=10)
    charts = Charts(lambda: looks.extend(reason_of(lambda s=symbol: mirrors.snapshot(s, 5)) for symbol in charts))
    follower = Follower(
        store=cast("CandleStore", store), sources=sources, mirrors=mirrors, charts=charts, on_change=lambda _: None
    )
    running = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_a_market_that_there_is_is_never_called_unknown() -> None:
    looks: list[Reason | None] = []
    store = SlowStore()
    async with following_of(SilentMatchers(["BTC/USDT", LATE]), store, looks) as follower:
        await turns()
        assert not follower.charts, "none is known before all are"
        assert reason_of(lambda: follower.is_known(LATE)) is Reason.DEPENDENCY_UNAVAILABLE
        store.may_go_on.set()
        await turns()
        assert follower.is_known(LATE)
        assert not follower.is_known("DOGE/USDT")
    assert set(looks) == {Reason.DEPENDENCY_UNAVAILABLE}


async def test_nor_while_the_chart_of_a_shard_that_came_later_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_RETRY_S", 0.0)
    store = SlowStore()
    matchers = SilentMatchers(["BTC/USDT"], ["BTC/USDT", LATE])
    async with following_of(matchers, store, []) as follower:
        await turns()
        assert follower.is_known("BTC/USDT")
        assert matchers.all_told
        assert reason_of(lambda: follower.is_known(LATE)) is Reason.DEPENDENCY_UNAVAILABLE
        store.may_go_on.set()
        await turns()
        assert follower.is_known(LATE)
