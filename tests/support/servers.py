"""PostgreSQL, Redis and RabbitMQ for the tests: those at the usual local ports where they answer, else our own."""

import asyncio
import secrets
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import asyncpg
import redis

from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from libs.db.migrations import migrate_up
from tests.support.rabbitmq import OwnRabbitMq

USUAL_POSTGRES = (
    "postgresql://postgres@127.0.0.1:5432/postgres",
    "postgresql://postgres:postgres@127.0.0.1:5432/postgres",
)
USUAL_REDIS = "redis://127.0.0.1:6379/0"
USUAL_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672/"


@dataclass
class Servers:
    """Addresses, and what to stop at the end."""

    postgres: str = ""
    redis: str = ""
    rabbitmq: str = ""
    own: list[EmbeddedPostgres | EmbeddedRedis | OwnRabbitMq] = field(default_factory=list)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="trade-engine-tests-")))
    prefix: str = field(default_factory=lambda: f"t{secrets.token_hex(4)}.")
    template: str = ""

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)

    def start(self) -> None:
        """Find or start all three."""
        self.postgres = next((dsn for dsn in USUAL_POSTGRES if asyncio.run(_postgres_answers(dsn))), "")
        if not self.postgres:
            postgres = EmbeddedPostgres(self.folder)
            postgres.start()
            self.own.append(postgres)
            self.postgres = postgres.dsn
        self.redis = USUAL_REDIS if _redis_answers(USUAL_REDIS) else ""
        if not self.redis:
            valkey = EmbeddedRedis(self.folder)
            valkey.start()
            self.own.append(valkey)
            self.redis = valkey.url
        self.rabbitmq = USUAL_RABBITMQ if asyncio.run(_rabbitmq_answers(USUAL_RABBITMQ)) else ""
        if not self.rabbitmq:
            broker = OwnRabbitMq()
            broker.start()
            self.own.append(broker)
            self.rabbitmq = broker.url

    def stop(self) -> None:
        """Stop what was started."""
        if self.template:
            self.drop_database(self.template)
        for server in reversed(self.own):
            server.stop()

    def new_database(self, *, template: str = "template1") -> str:
        """A fresh database on the server; returns its DSN."""
        name = f"te_test_{secrets.token_hex(6)}"
        run_apart(_execute(self.postgres, f"CREATE DATABASE {name} TEMPLATE {template}"))
        return urlunsplit(urlsplit(self.postgres)._replace(path=f"/{name}"))

    def migrated_database(self) -> str:
        """A fresh database with the schema: a copy of one that was migrated, for that takes a tenth of the time."""
        if not self.template:
            self.template = self.new_database()
            run_apart(migrate_up(self.template))
        return self.new_database(template=_name_of(self.template))

    def drop_database(self, dsn: str) -> None:
        """Drop a database made by one of these."""
        run_apart(_execute(self.postgres, f"DROP DATABASE IF EXISTS {_name_of(dsn)} WITH (FORCE)"))


def run_apart(work):
    """Run a coroutine to its end in a loop of its own, also from within a running loop."""

    outcome: list = []

    def call() -> None:
        try:
            outcome.append((asyncio.run(work), None))
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            outcome.append((None, error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _name_of(dsn: str) -> str:
    return urlsplit(dsn).path[1:]


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _postgres_answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=3)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


async def _rabbitmq_answers(url: str) -> bool:
    try:
        connection = await aio_pika.connect(url, timeout=3)
    except Exception:  # noqa: BLE001 - any failure to log in means: not usable, start our own
        return False
    await connection.close()
    return True
