"""For tests of single services."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from libs.config import Database
from libs.db.pool import open_pool
from tests.support.engine import Engine, engine_in
from tests.support.servers import Servers


@pytest.fixture(scope="session")
async def engine(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """Not the engine of the other tests: here services are told by hand what no order stands behind."""
    async with engine_in(servers, tmp_path_factory.mktemp("services")) as engine:
        yield engine


@pytest.fixture
def pool_runner(database: str) -> Iterator:
    """Runs `work(pool)` to its end in a loop of its own, for property tests, which bring none."""
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
