"""The trade-engine command as its user runs it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from cli.health import SERVICES
from cli.processes import free_port
from cli.stack import temporary_folder
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


async def test_the_journal_can_be_read_verified_and_looked_back_into(fresh_engine: Engine) -> None:
    environment = fresh_engine.stack.environment
    user = await fresh_engine.user(BTC="10", USDT="1000")
    for price in ("101", "102", "103"):
        await fresh_engine.place(user, f"SELL 1 @ {price}")
    commands = [json.loads(line) for line in run("journal", "dump", environment=environment).stdout.splitlines()]
    assert [command["sequence"] for command in commands] == list(range(1, len(commands) + 1))
    assert [command["new_order"]["price"] for command in commands if "new_order" in command] == ["101", "102", "103"]
    some = run("journal", "dump", "--from", "12", "--to", "12", environment=environment).stdout.splitlines()
    assert [json.loads(line) for line in some] == [commands[11]]

    verified = run("journal", "verify", environment=environment)
    assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, "journal: whole")
    now = json.loads(run("journal", "book", "--symbol", "BTC-USDT", "--json", environment=environment).stdout)
    assert now["asks"] == [["101", "1"], ["102", "1"], ["103", "1"]]
    at = str(len(commands) - 1)
    then = json.loads(
        run("journal", "book", "--symbol", "BTC/USDT", "--at", at, "--json", environment=environment).stdout
    )
    assert (then["sequence"], then["asks"]) == (int(at), [["101", "1"], ["102", "1"]])
    assert "BTC/USDT after command" in run("journal", "book", "--symbol", "BTC/USDT", environment=environment).stdout
    assert run("journal", "book", "--symbol", "NO/PE", environment=environment).returncode == 1

    await fresh_engine.query("UPDATE matcher.journal SET event_hash = 'x' WHERE first_sequence > 10")
    broken = run("journal", "verify", environment=environment)
    assert (broken.returncode, "gave other events" in broken.stderr.replace("\n", " ")) == (1, True)


def test_migrate_goes_up_and_down_and_tells(empty_database: str) -> None:
    environment = {"TRADE_ENGINE_DATABASE_DSN": empty_database, "TRADE_ENGINE_AUTH_HS256_SECRET": "x" * 32}
    assert run("migrate", "status", environment=environment).returncode == 1
    assert "applied 000001_wallet" in run("migrate", "up", environment=environment).stdout
    assert run("migrate", "status", "--json", environment=environment).returncode == 0
    assert "took back" in run("migrate", "down", "--steps", "1", "--yes", environment=environment).stdout


SECTIONS = ("GATEWAY", "MATCHER", "SETTLEMENT", "WALLET", "MARKETDATA", "EDGE")


@contextlib.contextmanager
def engine_up(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """`trade-engine up` in a folder, until it serves; Ctrl-C at the end, and an impatient SIGTERM."""
    with (folder / "up.log").open("ab") as log:
        up = subprocess.Popen([sys.executable, "-m", "cli", "up"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            [sys.executable, "-m", "cli", "health"], cwd=folder, env=environment, check=False, capture_output=True
        ).returncode:
            assert up.poll() is None, (folder / "up.log").read_text()
            assert time.monotonic() < deadline, (folder / "up.log").read_text()
        yield
    finally:
        up.send_signal(signal.SIGINT)
        time.sleep(0.3)
        up.send_signal(signal.SIGTERM)
        code = up.wait(40)
    assert code == 0, (folder / "up.log").read_text()


def test_up_runs_everything_in_a_folder_and_keeps_it_there() -> None:
    """With the default data_dir, which is relative."""
    with temporary_folder("trade-engine-up-") as folder:
        ports = {
            f"TRADE_ENGINE_{section}_{kind}": str(free_port())
            for section in SECTIONS
            for kind in ("PORT", "METRICS_PORT")
        }
        ports["TRADE_ENGINE_EDGE_WEBSOCKET_PORT"] = str(free_port())
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", **ports}
        environment["TRADE_ENGINE_CONFIG"] = str(folder / "config.yaml")
        (folder / "config.yaml").write_text("edge: {rate_per_s: 1000, rate_burst: 1000}\n")

        def command(*arguments: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "cli", *arguments], cwd=folder, env=environment, check=False, capture_output=True,
                text=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout.strip()

        with engine_up(folder, environment):
            assert command("deposit", "alice", "BTC", "1").endswith("has 1 BTC")
            assert command("token", "--user", "alice").count(".") == 2
        with engine_up(folder, environment):
            assert command("deposit", "alice", "BTC", "2").endswith("has 3 BTC"), "it is still there"
            assert "clean" in command("audit")
            assert json.loads(command("health", "--json"))["edge"] is True
            limit_is_changed_while_it_runs(folder, int(ports["TRADE_ENGINE_EDGE_PORT"]), command)
            for script in ("verify-services.sh", "verify-schema.sh"):
                done = subprocess.run(
                    ["bash", str(ROOT / "scripts" / script), f"http://127.0.0.1:{ports['TRADE_ENGINE_EDGE_PORT']}"],
                    env={
                        **environment, "TRADE_ENGINE_DATA_DIR": str(folder / "var"),
                        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                    },
                    check=False, capture_output=True, text=True, timeout=60,
                )  # fmt: skip
                assert done.returncode == 0, done.stdout + done.stderr
            assert "saved" in command("backup", str(folder / "saved.dump")), "also where the system's pg_dump is older"
            command("down")
            assert not (folder / "var" / "engine.pid").exists()
        assert (folder / "var").is_dir()


def limit_is_changed_while_it_runs(folder: Path, port: int, command: Callable[..., str]) -> None:
    def limit() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/symbols", timeout=10) as answer:
            return answer.headers["ratelimit-limit"]

    assert limit() == "1000"
    content = "edge: {rate_per_s: 500, rate_burst: 500, body_max_bytes: 2048}\nlog: {level: DEBUG}\n"
    (folder / "config.yaml").write_text(content)
    command("reload")
    deadline = time.monotonic() + 20
    while limit() != "500":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = [json.loads(line) for line in (folder / "var" / "logs" / "edge.log").read_text().splitlines()]
    said = next(line for line in lines if line["event"] == "settings read again")
    assert sorted(said["changed"]) == ["edge.rate_burst", "edge.rate_per_s", "log.level"]
    assert said["needs_restart"] == ["edge.body_max_bytes"]
    (folder / "config.yaml").write_text("edge: {rate_per_s: many}\n")
    os.kill(int((folder / "var" / "engine.pid").read_text()), signal.SIGHUP)  # the command would refuse by itself
    while "settings stay as they were" not in (folder / "var" / "logs" / "edge.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert limit() == "500"
    (folder / "config.yaml").write_text(content)


def test_up_says_which_port_is_taken_and_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another engine's gateway does
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = run("up", environment={"TRADE_ENGINE_DATA_DIR": str(tmp_path), "TRADE_ENGINE_GATEWAY_PORT": port})
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"port {port} of 127.0.0.1 is taken" in said
    assert "TRADE_ENGINE_GATEWAY_PORT" in said
    assert list(tmp_path.iterdir()) == []


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


def test_a_service_by_itself_says_which_addresses_it_lacks() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRADE_ENGINE_")}
    started = {
        service: subprocess.Popen(
            [sys.executable, "-m", f"services.{service}"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for service in SERVICES
    }
    for service, process in started.items():
        _, said = process.communicate(timeout=60)
        assert process.returncode == 78, said
        assert "database.dsn: a service that runs by itself needs it" in said
        assert ("redis.url" in said) == (service in {"order_gateway", "market_data", "edge"})
