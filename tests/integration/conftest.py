"""For property tests, which bring no event loop: a loop and a pool that live as long as the test."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from libs.config import Database
from libs.db.pool import open_pool


@pytest.fixture
def pool_runner(database: str) -> Iterator:
    """Runs `work(pool)` to its end in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def on_loop(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(120)

    pool = on_loop(open_pool(Database(dsn=database, role_prefix="", pool_max=8), service="tests"))
    yield lambda work: on_loop(work(pool))
    on_loop(pool.close())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
