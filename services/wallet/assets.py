"""What can be held: a short list, that operators make longer."""

import time

from libs.db.pool import Pool
from libs.ids import parse_asset

SELECT = "SELECT asset FROM wallet.assets"
INSERT = "INSERT INTO wallet.assets (asset) VALUES ($1) ON CONFLICT DO NOTHING"
KEPT_S = 1.0


class Assets:
    """The assets there are, as they were read last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._read_at = 0.0
        self.known: frozenset[str] = frozenset()

    async def refresh(self) -> bool:
        """Read them again, at most once a second. Whether that was done."""
        if self.known and time.monotonic() < self._read_at + KEPT_S:
            return False
        self._read_at = time.monotonic()
        self.known = await self._read()
        return True

    async def all(self) -> list[str]:
        """All that there are now, sorted."""
        return sorted(await self._read())

    async def put(self, asset: str) -> None:
        """Make an asset known. Raises RefusedError (FIELD_REQUIRED, TEXT_MALFORMED)."""
        await self._pool.execute(INSERT, parse_asset(asset, field="asset"))
        self._read_at = 0.0

    async def _read(self) -> frozenset[str]:
        return frozenset(row["asset"] for row in await self._pool.fetch(SELECT))
