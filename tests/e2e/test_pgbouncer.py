"""The engine behind PgBouncer in transaction mode, as docs/operations.md says it is set up."""

import asyncio
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import asyncpg
import httpx
import pytest

from cli.processes import free_port
from cli.stack import Stack
from libs.db.pool import KEYED_PLANS
from tests.support.engine import Engine, running, stack_on
from tests.support.servers import Servers
from tests.support.trading import Pair, until

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)"
)
SHIPPED = (ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini").read_text()


class PooledStack(Stack):
    """Each service asks the pooler for the database of its own name."""

    pooler = ""

    def environment_of(self, name: str) -> dict[str, str]:
        return {**self.environment, "TRADE_ENGINE_DATABASE_DSN": f"{self.pooler}/{name}"}


def settings_file(server: SplitResult, listen: int, folder: Path) -> str:
    """The shipped one, for the server and the program that are here, which asks nobody for a password."""
    own = f"host={server.hostname} port={server.port or 5432} dbname={server.path.removeprefix('/')} user={server.username}"
    if server.password:
        own += f" password={server.password}"
    text = SHIPPED.replace("host=postgresql dbname=trade_engine", own)
    text = text.replace(
        "listen_addr = *", f"listen_addr = 127.0.0.1\nunix_socket_dir =\npidfile = {folder}/pgbouncer.pid"
    )
    text = text.replace("listen_port = 6432", f"listen_port = {listen}")
    text = text.replace("auth_type = scram-sha-256", "auth_type = any")
    text = re.sub(r"auth_file = .*\n", "", text)
    if knows_prepared_statements():
        return text
    return re.sub(r"max_prepared_statements = .*\n", "", text)


def knows_prepared_statements() -> bool:
    assert PROGRAM is not None
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)\.(\d+)", said)
    assert match is not None
    return (int(match[1]), int(match[2])) >= (1, 21)


async def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "cli", *arguments], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def bouncer(servers: Servers, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address of the server, address of the pooler before it, without a database's name) of a new database."""
    assert PROGRAM is not None
    dsn, listen = servers.new_database(), free_port()
    config = tmp_path / "pgbouncer.ini"
    config.write_text(settings_file(urlsplit(dsn), listen, tmp_path))
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
    yield dsn, f"postgresql://{urlsplit(dsn).username}@127.0.0.1:{listen}"
    process.terminate()
    process.wait(20)
    servers.drop_database(dsn)


@pytest.fixture
async def pooled_engine(servers: Servers, tmp_path: Path, bouncer: tuple[str, str]) -> AsyncIterator[Engine]:
    direct, pooler = bouncer
    # As compose does it, with the server's own address alone.
    migrate = await command("migrate", "up", TRADE_ENGINE_DATABASE_DIRECT_DSN=direct)
    assert migrate.returncode == 0, migrate.stderr
    over = {"TRADE_ENGINE_DATABASE_DIRECT_DSN": direct, "TRADE_ENGINE_DATABASE_SESSION_SETTINGS": "false"}
    if not knows_prepared_statements():
        over["TRADE_ENGINE_DATABASE_STATEMENT_CACHE_SIZE"] = "0"
    stack = stack_on(servers, tmp_path / "engine", direct, make=PooledStack, **over)
    stack.pooler = pooler

    async def answers() -> bool:
        try:
            other = await asyncpg.connect(f"{pooler}/wallet", statement_cache_size=0, timeout=2)
            role = await other.fetchval("SELECT current_user")
            await other.close()
        except (OSError, asyncpg.PostgresError):
            return False
        return bool(role == "trade_engine_wallet")

    await until(answers)
    async with running(stack) as engine:
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
    async with httpx.AsyncClient() as client:
        for _ in range(2):
            for _ in range(4):  # each time by connections of its own
                asked = await asyncio.gather(*(client.get(f"{engine.rest}/health/ready") for _ in range(3)))
                assert [ready.status_code for ready in asked] == [200] * 3, asked[0].text
            engine.stack.kill("edge")  # the next one meets statements that this one has prepared
            await asyncio.to_thread(engine.stack.wait_healthy, "edge")
    # From a service's container: on the server itself, as no service may read it all.
    audit = await command("audit", **engine.stack.environment_of("edge"))
    assert "audit: clean" in audit.stdout, audit.stdout + audit.stderr
    assert report.clean, [finding for finding in report.findings if finding.wrong]


def test_the_settings_of_a_login_are_those_of_the_services() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert dict(re.findall(r"ALTER ROLE wallet_login SET (\w+) = '?(\w+)'?;", text)) == {
        "role": "trade_engine_wallet", **KEYED_PLANS
    }  # fmt: skip
