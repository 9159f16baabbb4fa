"""Child processes that never outlive us."""

import contextlib
import errno
import itertools
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cli import launch

# Linux takes 32768 and up for outgoing connections, unless told otherwise.
PORTS = range(15_000, 32_000)
_in_turn = itertools.count(secrets.randbelow(len(PORTS)))


def free_port() -> int:
    """A port nobody listens on now, and none that was given before: whoever got that one may not listen yet.

    Below the range that the system takes the near ends of outgoing connections from: one of those may come and go on any
    port of that range before its server listens. Raises OSError where none is free.
    """
    for number in itertools.islice(_in_turn, len(PORTS)):
        port = PORTS[number % len(PORTS)]
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port is free between {PORTS.start} and {PORTS.stop - 1}")


def is_taken(host: str, port: int) -> bool:
    """Whether somebody listens there already, be it one that would share the port with us."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def end_processes(
    processes: Sequence[subprocess.Popen[bytes] | None], number: signal.Signals, timeout_s: float
) -> None:
    """Ask processes to end, all at once; make each, after the time is over."""
    there = [process for process in processes if process is not None]
    for process in there:
        process.send_signal(number)
    for process in there:
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def launched(program: list[str | Path], *, death_signal: signal.Signals | None, uid: int = -1) -> list[str]:
    """The command that runs a program so that it never outlives us, and as another user where `uid` says so."""
    number = int(death_signal) if death_signal is not None else 0
    return [sys.executable, launch.__file__, str(number), str(uid), *map(str, program)]
