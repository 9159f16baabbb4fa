"""What can be held: a short list, that operators make longer."""

import asyncio
import time

from libs.db.pool import Pool
from libs.ids import parse_asset

SELECT = "SELECT asset FROM wallet.assets"
INSERT = "INSERT INTO wallet.assets (asset) VALUES ($1) ON CONFLICT DO NOTHING"


class Assets:
    """The assets there are, as they were read last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self.known: frozenset[str] = frozenset()

    async def read_after(self, moment: float) -> None:
        """See to it that they were read after a moment of time.monotonic(): who waits together reads once."""
        async with self._reading:
            if self._read_at <= moment:
                began = time.monotonic()
                self.known = await self._read()
                self._read_at = began

    async def all(self) -> list[str]:
        """All that there are now, sorted."""
        return sorted(await self._read())

    async def put(self, asset: str) -> None:
        """Make an asset known. Raises RefusedError (FIELD_REQUIRED, TEXT_MALFORMED)."""
        await self._pool.execute(INSERT, parse_asset(asset, field="asset"))

    async def _read(self) -> frozenset[str]:
        return frozenset(row["asset"] for row in await self._pool.fetch(SELECT))
