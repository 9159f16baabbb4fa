"""The engine behind PgBouncer in transaction mode, as docs/operations.md says it is set up."""

import asyncio
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from cli.processes import free_port
from libs.db.migrations import migrate_up
from libs.db.pool import KEYED_PLANS
from tests.support.engine import Engine, running, stack_on
from tests.support.servers import Servers
from tests.support.trading import Pair, until

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)"
)
CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 200
max_prepared_statements = 0
server_reset_query =
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""


@pytest.fixture
def bouncer(servers: Servers, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address of the server, address of the pooler before it) of a new database."""
    dsn, listen = servers.new_database(), free_port()
    parts = urlsplit(dsn)
    config = tmp_path / "pgbouncer.ini"
    text = CONFIG.format(host=parts.hostname, port=parts.port or 5432, listen=listen, folder=tmp_path)
    text = text.replace(
        "* = ", f"* = user={parts.username} " + (f"password={parts.password} " if parts.password else "")
    )
    if "1.2" not in subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout:
        text = text.replace("max_prepared_statements = 0\n", "")
    config.write_text(text)
    command = [PROGRAM, str(config)]
    if os.getuid() == 0:  # it will not run as root
        account = pwd.getpwnam("nobody")
        for path in (tmp_path, config):
            os.chown(path, account.pw_uid, account.pw_gid)
        for parent in tmp_path.parents:
            if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o011)
        command = ["setpriv", "--reuid", "nobody", "--regid", str(account.pw_gid), "--clear-groups", *command]
    with (tmp_path / "bouncer.out").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield dsn, f"postgresql://{parts.username}@127.0.0.1:{listen}{parts.path}"
    process.terminate()
    process.wait(20)
    servers.drop_database(dsn)


@pytest.fixture
async def pooled_engine(servers: Servers, tmp_path: Path, bouncer: tuple[str, str]) -> AsyncIterator[Engine]:
    direct, pooled = bouncer
    await migrate_up(direct)
    connection = await asyncpg.connect(direct)
    database = urlsplit(direct).path.removeprefix("/")
    for name, value in KEYED_PLANS.items():
        await connection.execute(f"ALTER DATABASE {database} SET {name} = {value}")
    await connection.close()
    over = {
        "TRADE_ENGINE_DATABASE_DIRECT_DSN": direct, "TRADE_ENGINE_DATABASE_SESSION_SETTINGS": "false",
        "TRADE_ENGINE_DATABASE_STATEMENT_CACHE_SIZE": "0",
    }  # fmt: skip

    async def answers() -> bool:
        try:
            other = await asyncpg.connect(pooled, statement_cache_size=0, timeout=2)
            await other.close()
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    await until(answers)
    async with running(stack_on(servers, tmp_path / "engine", pooled, **over)) as engine:
        yield engine


async def test_trading_settles_and_audits_behind_a_transaction_pooler(pooled_engine: Engine) -> None:
    engine = pooled_engine
    pairs = [await Pair(engine, symbol).fund() for symbol in ("BTC/USDT", "ETH/USDT", "SOL/USDT")]
    await asyncio.gather(*(pair.trade(20) for pair in pairs))
    user = await engine.user(USDT="1000")
    resting = (await engine.place(user, "BUY 1 @ 10")).order
    engine.stack.kill("matcher")
    await asyncio.to_thread(engine.stack.wait_healthy, "matcher")
    engine.stack.kill("order_gateway")
    await asyncio.to_thread(engine.stack.wait_healthy, "order_gateway")
    await engine.cancel(resting)
    report = await engine.quiet()
    assert report.clean, [finding for finding in report.findings if finding.wrong]


def test_the_settings_of_a_login_are_those_of_the_services() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert dict(re.findall(r"ALTER ROLE wallet_login SET (\w+) = '?(\w+)'?;", text)) == {
        "role": "trade_engine_wallet", **KEYED_PLANS
    }  # fmt: skip
