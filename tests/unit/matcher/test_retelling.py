"""Trades that another process tells, through a pipe."""

import asyncio

import pytest

from services.matcher.retelling import bodies

BODIES = [b"a", b"", b"bc" * 300, b"\x00\x00\x00\x01"]
TOLD = b"".join(len(body).to_bytes(4, "big") + body for body in BODIES)


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 64, len(TOLD)])
async def test_bodies_are_the_same_however_the_pipe_cuts_them_up(piece: int) -> None:
    told = asyncio.StreamReader()

    async def tell() -> None:
        for start in range(0, len(TOLD), piece):
            told.feed_data(TOLD[start : start + piece])
            await asyncio.sleep(0)
        told.feed_eof()

    telling = asyncio.create_task(tell())
    assert [body async for body in bodies(told)] == BODIES
    await telling


@pytest.mark.parametrize("left", [1, 3, 5, 100])
async def test_what_breaks_off_ends_with_the_last_whole_body(left: int) -> None:
    told = asyncio.StreamReader()
    told.feed_data(TOLD[: 5 + 4] + b"\x00\x00\x01\x00"[: left % 5] + b"x" * (left // 5))
    told.feed_eof()
    assert [body async for body in bodies(told)] == BODIES[:2]
