"""A RabbitMQ of the tests' own, for machines where none answers: from an installed one, or from Debian's package."""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cli.processes import free_port

START_TIMEOUT_S = 90.0
_INSTALLING = Path(tempfile.gettempdir()) / "trade-engine-installs-rabbitmq.lock"
_CANDIDATES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


class BrokerMissingError(Exception):
    """No broker is to be had; the text says what to do."""


def find_rabbitmq() -> str:
    """The server's program; as root, Debian's package is installed where there is none. Raises BrokerMissingError."""
    found = _installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with _INSTALLING.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # `make test` is two runs of pytest beside each other
            found = _installed() or _install()
    if found is None:
        raise BrokerMissingError(
            "the tests need RabbitMQ: start one at 127.0.0.1:5672 (guest/guest), or install rabbitmq-server, or run as root "
            "on Debian, where the tests install it themselves"
        )
    return found


def _install() -> str | None:
    # The package would start a server of its own at once; we start ours.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update", "-q"], check=False, env=environment, capture_output=True)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "rabbitmq-server"]
    subprocess.run(command, check=False, env=environment, capture_output=True)
    return _installed()


class OwnRabbitMq:
    """A broker with its own folder, node name and ports, so that it meets no other."""

    def __init__(self) -> None:
        self._program = find_rabbitmq()
        self._home = Path(tempfile.mkdtemp(prefix="trade-engine-rabbitmq-"))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Start it and wait for its port. Raises BrokerMissingError."""
        environment = {
            **os.environ,
            "HOME": str(self._home),
            "RABBITMQ_NODENAME": f"trade-engine-{self._port}@localhost",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self._home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._home / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._home / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self._home / "none"),
            "RABBITMQ_PID_FILE": str(self._home / "pid"),
            "ERL_EPMD_PORT": str(free_port()),
        }
        self._environment = environment
        with (self._home / "out").open("wb") as out:
            self._process = subprocess.Popen(
                [self._program], env=environment, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.2)
        said = (self._home / "out").read_text(errors="replace")[-2000:]
        raise BrokerMissingError(f"{self._program} did not start: {said}")

    def kill(self) -> None:
        """kill -9 of the broker with all that it started; `start` brings it back with what it had on disk."""
        assert self._process is not None
        os.killpg(self._process.pid, 9)
        self._process.wait()
        subprocess.run(["epmd", "-kill"], env=self._environment, check=False, capture_output=True)

    @property
    def group(self) -> int:
        """The process group of everything it started. Only while it runs."""
        assert self._process is not None
        return self._process.pid

    def control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says."""
        program = str(Path(self._program).with_name("rabbitmqctl"))
        return subprocess.run(
            [program, *arguments], env=self._environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def stop(self) -> None:
        """Stop it with all that it started, and remove its folder."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 15)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, 9)
            subprocess.run(["epmd", "-kill"], env=self._environment, check=False, capture_output=True)
        shutil.rmtree(self._home, ignore_errors=True)


def _installed() -> str | None:
    return next((found for name in _CANDIDATES if (found := shutil.which(name))), None)
