"""The table of API keys."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from libs.db.pool import Pool

_COLUMNS = "key_id::text, user_id::text, name, scopes, allowed_ips, secret_hash, created_at, expires_at, revoked_at"
_USABLE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
# Requests at the same moment may pass a limit together: it keeps lists short, no more. A name is never used twice, so that
# rows stay.
INSERT = f"""
INSERT INTO orders.api_keys (key_id, user_id, name, scopes, allowed_ips, secret_hash, created_at, expires_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8
WHERE (SELECT count(*) FILTER (WHERE {_USABLE}) < $9 AND count(*) < $10 FROM orders.api_keys WHERE user_id = $2)
ON CONFLICT (user_id, name) DO NOTHING
RETURNING key_id
"""
BY_NAME = f"SELECT {_COLUMNS} FROM orders.api_keys WHERE user_id = $1 AND name = $2"
BY_ID = f"SELECT {_COLUMNS} FROM orders.api_keys WHERE key_id = $1"
OF_USER = f"""
SELECT {_COLUMNS} FROM orders.api_keys WHERE user_id = $1
ORDER BY {_USABLE} DESC, created_at DESC, key_id DESC LIMIT $2
"""
REVOKE = f"""
UPDATE orders.api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 AND user_id = $2 RETURNING {_COLUMNS}
"""


class KeyRow(NamedTuple):
    """A row of orders.api_keys."""

    key_id: str
    user_id: str
    name: str
    scopes: Sequence[str]
    allowed_ips: Sequence[str]
    secret_hash: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyStore:
    """Reads and writes orders.api_keys."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def insert(self, key: KeyRow, *, usable_max: int, in_all_max: int) -> bool:
        """Whether it was stored: not where the user has that name already, or as many keys as these limits say."""
        return await self._pool.fetchval(INSERT, *key[:8], usable_max, in_all_max) is not None

    async def by_name(self, user_id: str, name: str) -> KeyRow | None:
        """The user's key of a name."""
        row = await self._pool.fetchrow(BY_NAME, user_id, name)
        return KeyRow(*row.values()) if row else None

    async def by_id(self, key_id: str) -> KeyRow | None:
        """A key of anybody."""
        row = await self._pool.fetchrow(BY_ID, key_id)
        return KeyRow(*row.values()) if row else None

    async def of_user(self, user_id: str, limit: int) -> list[KeyRow]:
        """A user's keys: those that can be used, and then as many of the others as the limit leaves; newest first."""
        return [KeyRow(*row.values()) for row in await self._pool.fetch(OF_USER, user_id, limit)]

    async def revoke(self, user_id: str, key_id: str) -> KeyRow | None:
        """The key, revoked now or before; None where the user has no such key."""
        row = await self._pool.fetchrow(REVOKE, key_id, user_id)
        return KeyRow(*row.values()) if row else None
