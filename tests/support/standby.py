"""Another matcher beside the stack's own."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from cli.processes import free_port
from tests.support.engine import Engine

ROOT = Path(__file__).resolve().parents[2]


class Standby:
    """A second matcher: of the same shard, where it stands by, or of another."""

    def __init__(self, engine: Engine, folder: Path, *, shard: int = 0) -> None:
        self.port = free_port()
        environment = {
            **os.environ, **engine.stack.environment, "TRADE_ENGINE_MATCHER_PORT": str(self.port),
            "TRADE_ENGINE_MATCHER_METRICS_PORT": "0", "TRADE_ENGINE_MATCHER_SHARD": str(shard),
        }  # fmt: skip
        self.log = (folder / "standby.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.matcher"], cwd=ROOT, env=environment, stdout=self.log, stderr=self.log
        )

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.log.close()
