"""What asyncpg takes for an array, since it was told what ours are."""

import asyncpg
import pytest

NUMBERS = "SELECT $1::bigint[]"


@pytest.mark.parametrize(
    ("sql", "array"),
    [
        (NUMBERS, [1, None, -3]),
        (NUMBERS, []),
        ("SELECT $1::text[]", ["one", "", None, "{,}"]),
        ("SELECT $1::bytea[]", [b"", b"\x00{"]),
        ("SELECT $1::jsonb[]", ['{"a": [1]}', "[]"]),
        ("SELECT $1::numeric[]", [1, 10**20, -5]),
        (NUMBERS, [[1, 2], [3, 4]]),
    ],
)
async def test_lists_go_there_and_back(pool: asyncpg.Pool, sql: str, array: list) -> None:
    assert await pool.fetchval(sql, array) == array
    assert await pool.fetchval(sql, tuple(array)) == array


@pytest.mark.parametrize("other", [{1, 2}, {1: 2}.keys(), range(2), {1: 2}, "12", 1])
async def test_nothing_else_is_an_array(pool: asyncpg.Pool, other: object) -> None:
    with pytest.raises(asyncpg.DataError, match="a sized iterable container expected"):
        await pool.fetchval(NUMBERS, other)
