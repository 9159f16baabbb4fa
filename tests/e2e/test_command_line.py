"""The trade-engine command as its user runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.support.engine import Engine
from tests.support.servers import Servers

ROOT = Path(__file__).resolve().parents[2]


def run(
    *arguments: str, environment: dict[str, str] | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, env={**os.environ, **(environment or {})},
        capture_output=True, text=True, check=False, timeout=timeout_s,
    )  # fmt: skip


def test_the_demo_passes_on_embedded_parts() -> None:
    done = run("demo", "--orders", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    match = re.fullmatch(r"demo: PASS orders=(\d+) trades=(\d+) settled=(\d+) audit=clean", last)
    assert match, last
    assert (match[1], match[2]) == ("300", match[3])


def test_the_demo_passes_on_real_servers(servers: Servers) -> None:
    dsn = servers.new_database()
    environment = {
        "TRADE_ENGINE_DATABASE_DSN": dsn,
        "TRADE_ENGINE_REDIS_URL": servers.redis,
        "TRADE_ENGINE_RABBITMQ_URL": servers.rabbitmq,
        "TRADE_ENGINE_RABBITMQ_PREFIX": f"{servers.prefix}demo.",
    }
    done = run("demo", "--orders", "300", "--json", environment=environment)
    servers.drop_database(dsn)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["trades"] == report["settled"] > 0


def test_replay_follows_the_real_flow_and_can_be_taken_up_again(fresh_engine: Engine, flow_data: Path) -> None:
    arguments = ["replay", str(flow_data / "aapl-messages.csv"), "--book", str(flow_data / "aapl-book-10.csv"),
                 "--symbol", "AAPL/USD", "--limit", "600", "--run-id", "cli", "--strict", "--json"]  # fmt: skip
    first = run(*arguments, environment=fresh_engine.stack.environment)
    assert first.returncode == 0, first.stdout + first.stderr
    report = json.loads(first.stdout)
    assert (report["refused"], report["mismatches"]) == (0, [])
    assert report["trades"] > 10
    again = json.loads(run(*arguments, environment=fresh_engine.stack.environment).stdout)
    assert again["mismatches"] == []


def test_audit_tells_scripts_and_people(engine: Engine) -> None:
    done = run("audit", "--json", environment=engine.stack.environment)
    report = json.loads(done.stdout)
    assert len(report["findings"]) >= 13
    assert done.returncode == (0 if report["clean"] else 1)


async def test_audit_exits_1_where_something_is_wrong(engine: Engine, database: str) -> None:
    environment = {**engine.stack.environment, "TRADE_ENGINE_DATABASE_DSN": database}
    assert run("audit", environment=environment).returncode == 0
    await _execute(
        database,
        """
        INSERT INTO wallet.balances (account_id, asset, kind, available, reserved, sequence)
        VALUES ('00000000-0000-0000-0000-00000000000a', 'BTC', 'USER', 1, 0, 1)
        """,
    )
    done = run("audit", environment=environment)
    assert done.returncode == 1
    assert "FOUND FAULTS" in done.stdout


async def _execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(sql)
    await connection.close()


def test_migrate_goes_up_and_down_and_tells(empty_database: str) -> None:
    environment = {"TRADE_ENGINE_DATABASE_DSN": empty_database, "TRADE_ENGINE_AUTH_HS256_SECRET": "x" * 32}
    assert run("migrate", "status", environment=environment).returncode == 1
    assert "applied 000001_wallet" in run("migrate", "up", environment=environment).stdout
    assert run("migrate", "status", "--json", environment=environment).returncode == 0
    assert "took back" in run("migrate", "down", "--steps", "1", "--yes", environment=environment).stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "says"),
    [
        (["up"], {"TRADE_ENGINE_EDGE_PORT": "http"}, 78, "edge.port"),
        (["audit"], {"TRADE_ENGINE_NO_SUCH": "1"}, 78, "TRADE_ENGINE_NO_SUCH"),
        (["audit"], {"TRADE_ENGINE_DATA_DIR": "/nonexistent"}, 1, "nothing runs"),
        (["replay", "no-such-file"], {}, 2, "no-such-file"),
        (["dance"], {}, 2, "dance"),
    ],
)
def test_what_cannot_be_done_is_said_with_an_exit_code(arguments, environment, code: int, says: str) -> None:
    done = run(*arguments, environment=environment)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
