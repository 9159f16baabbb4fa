"""Fixtures: the servers, once a run; the engine, once a run; fresh databases where a test needs its own."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from libs.config import Database
from libs.db.pool import open_pool
from tests.support.engine import SHOWING, Engine, engine_in
from tests.support.servers import Servers

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> None:
    """Tests say themselves what they need."""
    for name in list(os.environ):
        if name.startswith("TRADE_ENGINE_"):
            del os.environ[name]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    found = Servers()
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(found.folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def engine(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """The engine on PostgreSQL, Redis and RabbitMQ; tests use users of their own in it."""
    async with engine_in(servers, tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture(scope="module")
async def own_engine(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """An engine of the module's own; its tests leave the books to each other."""
    async with engine_in(servers, tmp_path_factory.mktemp("own")) as engine:
        yield engine


@pytest.fixture
async def fresh_engine(servers: Servers, tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine of the test's own, with empty books."""
    async with engine_in(servers, tmp_path) as engine:
        yield engine


@pytest.fixture
async def fresh_core(servers: Servers, tmp_path: Path) -> AsyncIterator[Engine]:
    """As fresh_engine, without the services that only show what is there."""
    async with engine_in(servers, tmp_path, without=SHOWING) as engine:
        yield engine


@pytest.fixture
async def http(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A caller by HTTP of the engine of all tests."""
    async with httpx.AsyncClient(base_url=engine.rest, timeout=20) as client:
        yield client


@pytest.fixture
def empty_database(servers: Servers) -> Iterator[str]:
    """A database without a schema."""
    dsn = servers.new_database()
    yield dsn
    servers.drop_database(dsn)


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """A database with the schema."""
    dsn = servers.migrated_database()
    yield dsn
    servers.drop_database(dsn)


@pytest.fixture
async def pool(database: str):
    opened = await open_pool(Database(dsn=database, role_prefix=""), service="tests")
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def flow_data() -> Path:
    """The folder with the real order flow."""
    if not (DATA / "aapl-messages.csv").exists():
        pytest.skip(f"the real order flow is not at {DATA}")
    return DATA
