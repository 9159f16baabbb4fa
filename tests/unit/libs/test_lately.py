"""One look for all who ask, whatever becomes of the first of them."""

import asyncio

import pytest

from libs.lately import Lately


class Looking:
    def __init__(self) -> None:
        self.looks = 0
        self.fails = False

    async def __call__(self) -> int:
        self.looks += 1
        await asyncio.sleep(0.01)
        if self.fails:
            raise OSError("nothing to see")
        return self.looks


async def test_who_asks_within_a_moment_is_told_what_was_seen() -> None:
    lately = Lately(Looking(), for_s=3600)
    assert await asyncio.gather(*(lately.see() for _ in range(50))) == [1] * 50
    assert await lately.see() == 1


async def test_a_look_that_fails_fails_for_all_of_them() -> None:
    looking = Looking()
    looking.fails = True
    lately = Lately(looking, for_s=3600)
    told = await asyncio.gather(*(lately.see() for _ in range(50)), return_exceptions=True)
    assert {type(error) for error in told} == {OSError}
    with pytest.raises(OSError, match="nothing to see"):
        await lately.see()
    assert looking.looks == 1


async def test_after_the_moment_it_is_looked_again_also_where_that_failed() -> None:
    looking = Looking()
    lately = Lately(looking, for_s=0)
    looking.fails = True
    with pytest.raises(OSError, match="nothing to see"):
        await lately.see()
    looking.fails = False
    for look in (2, 3):
        await asyncio.sleep(0.001)
        assert await lately.see() == look


async def test_who_asked_first_may_go() -> None:
    lately = Lately(Looking(), for_s=3600)
    first = asyncio.create_task(lately.see())
    await asyncio.sleep(0)
    another = asyncio.create_task(lately.see())
    await asyncio.sleep(0)
    first.cancel()
    assert await another == 1
