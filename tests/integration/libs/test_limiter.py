"""Limits where Redis hangs, or its clock is set back: nobody is locked out, and they are shared again when it is well."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis

from cli.embedded import EmbeddedRedis
from libs import limiter
from libs.limiter import SHARES, SharedBudget, SharedLimit

PER_S = 5


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path)
    server.start()
    yield server
    server.stop()


async def test_a_redis_that_hangs_is_not_waited_for(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = SharedLimit("tests", per_s=PER_S, burst=100 * PER_S, redis_url=redis_server.url)
    other = SharedLimit("tests", per_s=PER_S, burst=100 * PER_S, redis_url=redis_server.url)
    assert (await limit.hit("ann"))[1].remaining == 100 * PER_S - 1
    asked: list[tuple] = []
    hit = limit._shared.hit

    async def counting(*args, **how):
        asked.append(args)
        return await hit(*args, **how)

    monkeypatch.setattr(limit._shared, "hit", counting)
    monkeypatch.setattr(limiter, "ALONE_FOR_S", 3600.0)
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):  # redis-py itself would wait longer for them
            for used in range(1, 21):
                admitted, standing = await limit.hit("ann")
                assert admitted
                assert standing.remaining == 100 * PER_S - used, "counted by itself"
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    assert len(asked) == 1
    monkeypatch.setattr(limit, "_alone_until", 0.0)
    await limit.hit("ann")
    assert (await other.hit("ann"))[1].remaining <= 100 * PER_S - 3, "shared again"


async def test_a_clock_that_is_set_back_locks_nobody_out(redis_server: EmbeddedRedis) -> None:
    limit = SharedLimit("tests", per_s=PER_S, burst=PER_S, redis_url=redis_server.url)
    async with redis.from_url(redis_server.url) as client:
        while (await limit.hit("ann", cost=PER_S))[0]:
            pass
        admitted, standing = await limit.hit("ann", cost=PER_S)
        assert not admitted
        assert standing.reset_s <= 1
        # What a clock two hours earlier makes of it: Redis keeps the time at which a key ends.
        for key in [key async for key in client.scan_iter("*")]:
            await client.pexpireat(key, await client.pexpiretime(key) + 7_200_000)
        assert (await limit.hit("ann", cost=PER_S))[0]
        assert not (await limit.hit("ann", cost=PER_S))[0], "it is a limit again"


async def test_what_is_taken_at_once_follows_the_limit(redis_server: EmbeddedRedis) -> None:
    limit = SharedLimit("tests", per_s=PER_S, burst=PER_S, redis_url=redis_server.url)
    budget = SharedBudget(limit)
    for per_s in (PER_S, 100 * PER_S):
        limit.change(per_s=per_s, burst=per_s)
        await budget.take(f"ann at {per_s}")
        _, standing = await limit.hit(f"ann at {per_s}")
        assert standing.remaining == per_s - per_s // SHARES - 1


async def test_all_that_a_limit_allows_may_come_at_the_same_moment(redis_server: EmbeddedRedis) -> None:
    limit = SharedLimit("tests", per_s=100, burst=500, redis_url=redis_server.url)
    budget = SharedBudget(limit)
    costs = [1] * 250 + [3] * 50
    asked = await asyncio.gather(*(budget.take("ann", cost) for cost in costs))
    assert all(admitted for admitted, _ in asked)
    _, standing = await limit.hit("ann")
    assert standing.remaining >= 500 - sum(costs) - 100 // SHARES - 1, "and no more than that was taken"
    asked = await asyncio.gather(*(budget.take("ann") for _ in range(200)))
    assert sum(admitted for admitted, _ in asked) == 500 - sum(costs) - 1, "the rest is too much"


async def test_a_flood_that_is_refused_does_not_reach_redis(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = SharedLimit("tests", per_s=PER_S, burst=PER_S, redis_url=redis_server.url)
    budget = SharedBudget(limit)
    assert (await budget.take("ann", PER_S))[0]
    asked: list[tuple] = []
    hit = limit.hit

    async def counting(*args, **how):
        asked.append(args)
        return await hit(*args, **how)

    monkeypatch.setattr(limit, "hit", counting)
    monkeypatch.setattr(limiter, "REFUSED_FOR_S", 60.0)
    answers = await asyncio.gather(*(budget.take("ann", cost) for cost in [2] * 500 + [5] * 500))
    assert not any(admitted for admitted, _ in answers)
    assert len(asked) == 1
    await asyncio.gather(*(budget.take("ann") for _ in range(100)))
    assert len(asked) == 2, "less might have been let pass"


async def test_any_number_may_be_counted_at_the_same_moment(redis_server: EmbeddedRedis) -> None:
    limit = SharedLimit("tests", per_s=100, burst=500, redis_url=redis_server.url)
    before = limiter.AWAY._value.get()
    asked = await asyncio.gather(*(limit.hit(f"user {number}") for number in range(500)))
    assert all(admitted for admitted, _ in asked)
    assert limiter.AWAY._value.get() == before, "Redis was there for all of them"
