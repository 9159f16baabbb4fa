"""Becomes another program: as `python launch.py SIGNAL UID PROGRAM ARGUMENT...`.

It asks the kernel (Linux) for SIGNAL when the thread that started it ends (0: not at all), becomes the user UID (-1: stays
who it is), and then the program. A process of its own, because preparing a child between fork and exec is not safe in a
process with threads.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the program that the arguments name."""
    death_signal, uid = int(sys.argv[1]), int(sys.argv[2])
    if uid >= 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        os.chdir("/")
    libc = ctypes.CDLL(None)
    if death_signal and hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, death_signal)
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
