"""Child processes that never outlive us."""

import ctypes
import signal
import socket
import subprocess
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_process(process: subprocess.Popen[bytes] | None, number: signal.Signals, timeout_s: float) -> None:
    """Ask a process to end; make it, after the time is over."""
    if process is None:
        return
    process.send_signal(number)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def die_with_parent(number: signal.Signals | None) -> Callable[[], None]:
    """For `preexec_fn`: ask the kernel (Linux) for a signal when the thread that started the child ends."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        if number is not None and hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, int(number))

    return prepare
