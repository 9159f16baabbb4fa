"""Runs the whole engine as processes of this machine: embedded servers where none are configured, migrations, services."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cli.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis
from cli.health import SERVICES, why_not_serving
from cli.processes import end_processes, free_port, is_taken
from libs.addresses import with_port
from libs.config import Settings, load_settings
from libs.runtime import SUPERVISOR_PID

START_TIMEOUT_S = 60.0
_ENVIRONMENT_FILE = "environment.json"
PID_FILE = "engine.pid"
STOP_TIMEOUT_S = 15.0
RESTART_AFTER_S = 0.5
RESTART_AFTER_MAX_S = 10.0
LIVED_LONG_S = 30.0
LAST_WORDS_CHARACTERS = 1_000


# Before those that it asks, so that what is under way is finished.
_STOPPED_IN_TURN = ({"edge"}, {"order_gateway"}, {*SERVICES} - {"edge", "order_gateway"})
_SECTIONS = ("gateway", "matcher", "settlement", "wallet", "marketdata", "edge")


class StackError(Exception):
    """The stack did not come up; the text says which part and why."""


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    started_at: float
    restart_after_s: float = RESTART_AFTER_S


@dataclass
class Stack:
    """The engine on this machine.

    With `private_ports` every port is a free one (for demos and tests), else those of the settings. `log_dir` takes one
    log a service; without it everything goes to this process's stderr.
    """

    data_dir: Path
    private_ports: bool = False
    log_dir: Path | None = None
    settings_over: dict[str, str] = field(default_factory=dict)
    on_event: Callable[[str], None] = lambda _: None
    services: tuple[str, ...] = SERVICES

    def __post_init__(self) -> None:
        self._postgres: EmbeddedPostgres | None = None
        self._redis: EmbeddedRedis | None = None
        self._services: dict[str, _Running] = {}
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None
        self.environment: dict[str, str] = {}

    def start(self) -> None:
        """Start everything in order and wait until all services are healthy. Raises StackError, EmbeddedError."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.environment = dict(self.settings_over)
        configured = self.settings()
        if not self.private_ports:
            _check_ports(configured)
        self.environment |= {**self._servers(configured), **self._secret(configured)}
        if self.private_ports:
            self.environment |= free_ports()
        (self.data_dir / PID_FILE).write_text(str(os.getpid()), encoding="ascii")
        environment_file = self.data_dir / _ENVIRONMENT_FILE
        environment_file.touch(mode=0o600)
        environment_file.write_text(json.dumps(self.environment), encoding="utf-8")
        self.on_event("migrating the database")
        self._migrate()
        for name in self.services:
            self.start_service(name)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        for name in self.services:
            self.wait_healthy(name)
            self.on_event(f"{name} is healthy")

    def stop(self) -> None:
        """Stop services, gently, then the embedded servers."""
        self._stopping.set()
        (self.data_dir / _ENVIRONMENT_FILE).unlink(missing_ok=True)
        with self._lock:
            for names in _STOPPED_IN_TURN:
                processes = [running.process for name, running in self._services.items() if name in names]
                end_processes(processes, signal.SIGTERM, STOP_TIMEOUT_S)
            self._services.clear()
        if self._redis is not None:
            self._redis.stop()
        if self._postgres is not None:
            self._postgres.stop()
        (self.data_dir / PID_FILE).unlink(missing_ok=True)
        self._stopped.set()

    def reload(self) -> None:
        """Have every service read its settings again."""
        for name in self.services:
            self.send(name, signal.SIGHUP)

    @staticmethod
    def running_environment(data_dir: Path) -> dict[str, str]:
        """The settings that the stack with this folder made for itself. Raises StackError where none runs."""
        path = data_dir / _ENVIRONMENT_FILE
        if not path.exists():
            raise StackError(f"nothing runs with data_dir {data_dir}: start `trade-engine up`, or set the addresses")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The embedded server. Only where none is configured."""
        assert self._postgres is not None, "PostgreSQL is not ours"
        return self._postgres

    def settings(self) -> Settings:
        """The settings that the services run with."""
        return load_settings({**os.environ, **self.environment})

    def addresses(self) -> dict[str, str]:
        """Where everything listens, for a person; without passwords."""
        settings = self.settings()
        return {
            "REST and WebSocket": f"http://{with_port(settings.edge.host, settings.edge.port)}",
            "order gateway (gRPC)": settings.gateway.target(),
            "matcher (gRPC)": settings.matcher.target(),
            "settlement (gRPC)": settings.settlement.target(),
            "wallet (gRPC)": settings.wallet.target(),
            "market data (gRPC)": settings.marketdata.target(),
            "metrics (Prometheus)": ", ".join(
                with_port(part.host, part.metrics_port)
                for part in (
                    settings.edge,
                    settings.gateway,
                    settings.matcher,
                    settings.settlement,
                    settings.wallet,
                    settings.marketdata,
                )
                if part.metrics_port
            ),
            "PostgreSQL": _without_password(settings.database.dsn.get_secret_value()),
            "Redis": _without_password(settings.redis.url.get_secret_value()),
            "bus": _without_password(settings.rabbitmq.url.get_secret_value()) or "embedded (PostgreSQL)",
        }

    def start_service(self, name: str) -> None:
        """Start one service; it is restarted whenever it ends, until the stack stops."""
        log: IO[bytes] | None = None
        if self.log_dir is not None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            log = (self.log_dir / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"],
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, **self.environment_of(name), SUPERVISOR_PID: str(os.getpid())},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        if log is not None:
            log.close()
        with self._lock:
            self._services[name] = _Running(process, time.monotonic())

    def environment_of(self, name: str) -> dict[str, str]:
        """The settings of one service, as environment variables."""
        del name
        return self.environment

    def kill(self, name: str) -> None:
        """Kill -9 a service; it is started again, as after any end."""
        process = self.process(name)
        process.kill()
        process.wait()

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a service a signal."""
        self.process(name).send_signal(number)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A service's process as it is now."""
        with self._lock:
            return self._services[name].process

    def wait_healthy(self, name: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when a service says that it is serving. Raises StackError."""
        deadline = time.monotonic() + timeout_s
        while (why := why_not_serving(self.settings(), name)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not why:
            return
        said = ""
        if self.log_dir is not None:
            path = self.log_dir / f"{name}.log"
            said = f"; its log, {path}, ends with:\n{path.read_text(errors='replace')[-LAST_WORDS_CHARACTERS:]}"
        raise StackError(f"{name} is not healthy after {timeout_s:.0f} s ({why}){said}")

    def _servers(self, configured: Settings) -> dict[str, str]:
        environment = {}
        if not configured.database.dsn.get_secret_value():
            self.on_event("starting embedded PostgreSQL")
            self._postgres = EmbeddedPostgres(self.data_dir)
            self._postgres.start()
            environment["TRADE_ENGINE_DATABASE_DSN"] = self._postgres.dsn
        if not configured.redis.url.get_secret_value():
            self.on_event("starting embedded Redis (Valkey)")
            self._redis = EmbeddedRedis(self.data_dir)
            self._redis.start()
            environment["TRADE_ENGINE_REDIS_URL"] = self._redis.url
        return environment

    def _secret(self, configured: Settings) -> dict[str, str]:
        """A development secret, kept with the data, where nothing is configured to check tokens by."""
        if configured.auth.has_keys:
            return {}
        return {"TRADE_ENGINE_AUTH_HS256_SECRET": development_secret(self.data_dir, create=True)}

    def _migrate(self) -> None:
        command = [sys.executable, "-m", "cli", "migrate", "up"]
        environment = {**os.environ, **self.environment}
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StackError(f"migrations failed: {done.stdout}{done.stderr}")

    def _watch(self) -> None:
        """Restart what ends, waiting longer each time it does not live long."""
        while not self._stopping.wait(0.1):
            self._watch_servers()
            with self._lock:
                ended = [
                    (name, running) for name, running in self._services.items() if running.process.poll() is not None
                ]
            for name, running in ended:
                if time.monotonic() < running.started_at + running.restart_after_s:
                    continue
                if self._stopping.is_set():
                    return
                self.on_event(f"{name} ended with {running.process.returncode}, starting it again")
                self.start_service(name)
                lived_long = time.monotonic() - running.started_at > LIVED_LONG_S
                wait_s = RESTART_AFTER_S if lived_long else min(RESTART_AFTER_MAX_S, running.restart_after_s * 2)
                self._services[name].restart_after_s = wait_s
        self._stopped.wait()  # the servers that this thread has started are to outlive the services

    def _watch_servers(self) -> None:
        for server in (self._postgres, self._redis):
            if server is not None and server.has_ended():
                self.on_event(f"{type(server).__name__} ended, starting it again")
                try:
                    server.start()
                except EmbeddedError as error:
                    self.on_event(str(error))


def development_secret(data_dir: Path, *, create: bool) -> str:
    """The secret that development tokens are signed with. Raises StackError where there is none and none is made."""
    path = data_dir / "auth-secret"
    if not path.exists():
        if not create:
            raise StackError(f"no development secret in {data_dir}: is `trade-engine up` running with this data_dir?")
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32), encoding="ascii")
    return path.read_text(encoding="ascii")


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder that is gone afterwards, even with files that other users wrote into it."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_ports(settings: Settings) -> None:
    """Raises StackError where one is taken. Two engines would not notice: services of a kind may share a port."""
    for section in _SECTIONS:
        part = getattr(settings, section)
        for name in ("port", "metrics_port", "websocket_port"):
            port = getattr(part, name, 0)
            if port and is_taken(part.host, port):
                variable = f"TRADE_ENGINE_{section}_{name}".upper()
                raise StackError(f"port {port} of {part.host} is taken: stop what listens there, or set {variable}")


def free_ports() -> dict[str, str]:
    """Settings that have every service listen on free ports."""
    ports = {}
    for section in _SECTIONS:
        ports[f"TRADE_ENGINE_{section}_PORT".upper()] = str(free_port())
        ports[f"TRADE_ENGINE_{section}_METRICS_PORT".upper()] = str(free_port())
    ports["TRADE_ENGINE_EDGE_WEBSOCKET_PORT"] = str(free_port())
    return ports


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
