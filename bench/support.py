"""What benchmarks share: the yardsticks, measured in the same run on the same machine, and the results file."""

import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from cli.embedded import EmbeddedPostgres
from cli.stack import Stack, temporary_folder
from cli.statistics import percentile

RESULTS = Path(__file__).parent / "results"
PGBENCH_SCALE = 10


def pgbench_tps(postgres: EmbeddedPostgres, *, clients: int, seconds: int) -> float:
    """TPC-B transactions/s of pgbench -M prepared on this server, in a database of its own."""
    parts = urlsplit(postgres.dsn)
    environment = {
        **os.environ, "PGHOST": parts.hostname or "", "PGPORT": str(parts.port), "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "", "LC_ALL": "C",
    }  # fmt: skip

    def run(*command: str) -> str:
        done = subprocess.run(
            [postgres.bin_dir / command[0], *command[1:]],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        if done.returncode and "already exists" not in done.stderr:
            raise RuntimeError(done.stderr)
        return done.stdout

    if "pgbench" not in run("psql", "-Atc", "SELECT datname FROM pg_database", "postgres").split():
        run("createdb", "pgbench")
        run("pgbench", "-i", "-q", "-s", str(PGBENCH_SCALE), "pgbench")
    said = run("pgbench", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds), "pgbench")
    line = next(line for line in said.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


def milliseconds(seconds: list[float], percent: float) -> float:
    return round(percentile(seconds, percent) * 1000, 2)


def write_results(name: str, keys: dict[str, float], raw: dict[str, object]) -> None:
    """Write bench/results/<name>.json and print it. `keys` are what issues and tests speak of."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps({**keys, "raw": raw, "machine": machine}, indent=2) + "\n")
    table = Table(name, "")
    for key, value in keys.items():
        table.add_row(f"[bold]{key}[/bold]", str(value))
    for key, value in raw.items():
        table.add_row(key, str(value))
    Console().print(table)


@contextlib.contextmanager
def running_stack(**how: Any) -> Iterator[Stack]:
    """An engine of its own in a temporary folder; `how` are fields of Stack."""
    with temporary_folder("trade-engine-bench-") as folder:
        stack = Stack(folder, private_ports=True, log_dir=folder / "logs", **how)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._started
