"""Another matcher beside the stack's own."""

import contextlib
from pathlib import Path

from cli.processes import free_port
from tests.support.engine import Engine, start_beside


class Standby:
    """A second matcher: of the same shard, where it stands by, or of another."""

    def __init__(self, engine: Engine, folder: Path, *, shard: int = 0) -> None:
        self.port = free_port()
        self.log = folder / "standby.log"
        self.process = start_beside(
            engine, "matcher", self.log, TRADE_ENGINE_MATCHER_PORT=str(self.port),
            TRADE_ENGINE_MATCHER_METRICS_PORT="0", TRADE_ENGINE_MATCHER_SHARD=str(shard),
        )  # fmt: skip

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
