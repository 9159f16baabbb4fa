"""Which markets are known, and when."""

import asyncio
import contextlib
from typing import Any, cast

import pytest

from libs.reasons import Reason, RefusedError
from services.market_data.cache import MarketCache
from services.market_data.clients import Sources
from services.market_data.core.chart import Chart
from services.market_data.follower import Follower
from services.market_data.mirrors import Mirrors
from services.market_data.store import CandleStore


class SlowStore:
    """A database that is slow over one market, as a real one is not on demand."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()

    async def chart(self, symbol: str) -> Chart:
        if symbol == "ETH/USDT":
            await self.may_go_on.wait()
        return Chart()


class SilentMatcher:
    """Tells its markets and then nothing."""

    async def symbols(self) -> list[str]:
        return ["BTC/USDT", "ETH/USDT"]

    def __getattr__(self, name: str) -> Any:
        async def stream(*_: object, **__: object) -> Any:
            await asyncio.Event().wait()
            yield

        return stream


async def test_a_market_that_there_is_is_never_called_unknown() -> None:
    sources, store = cast("Sources", SilentMatcher()), SlowStore()
    mirrors = Mirrors(sources=sources, cache=cast("MarketCache", None), depth=100, subscribers_max=10)
    seen_with: list[Reason] = []

    class Charts(dict[str, Chart]):
        """Looks at every market the moment the first is known, before anything else can run."""

        def __setitem__(self, symbol: str, chart: Chart) -> None:
            super().__setitem__(symbol, chart)
            asyncio.get_running_loop().call_soon(look)

    def look() -> None:
        assert set(charts) == {"BTC/USDT", "ETH/USDT"}
        for symbol in charts:
            with pytest.raises(RefusedError) as refused:
                mirrors.snapshot(symbol, 5)
            seen_with.append(refused.value.refused.reason)

    charts = Charts()
    follower = Follower(
        store=cast("CandleStore", store), sources=sources, mirrors=mirrors, charts=charts, on_change=lambda _: None
    )
    running = asyncio.create_task(follower.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not charts, "none is known before all are"
    store.may_go_on.set()
    for _ in range(5):
        await asyncio.sleep(0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert set(seen_with) == {Reason.DEPENDENCY_UNAVAILABLE}
