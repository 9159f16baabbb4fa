"""An asset is known from the moment on in which somebody was told so."""

import asyncio
import time
from typing import Any

from libs.ids import new_id
from services.wallet.assets import Assets


class Counting:
    """The pool, and how often it was read."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.reads = 0

    async def fetch(self, *args: Any) -> Any:
        self.reads += 1
        return await self._pool.fetch(*args)

    async def execute(self, *args: Any) -> Any:
        return await self._pool.execute(*args)


def an_asset() -> str:
    return f"N{new_id()[-8:]}".upper()


async def test_what_another_wallet_was_told_is_known_here_at_once(pool) -> None:
    here, there = Assets(pool), Assets(pool)
    for asset in (an_asset(), an_asset()):
        await here.read_after(time.monotonic())  # somebody has just asked for one that there is not
        await there.put(asset)
        await here.read_after(time.monotonic())
        assert asset in here.known


async def test_who_asks_together_reads_together(pool) -> None:
    counting = Counting(pool)
    assets = Assets(counting)  # type: ignore[arg-type]
    asset = an_asset()
    await assets.put(asset)
    moment = time.monotonic()
    await asyncio.gather(*(assets.read_after(moment) for _ in range(500)))
    assert counting.reads == 1
    assert asset in assets.known
    await assets.read_after(time.monotonic())
    assert counting.reads == 2
