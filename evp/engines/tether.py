"""Ties a child to the process that started it: it ends when its parent is gone, even by kill -9.

    python -m evp.engines.tether PARENT_PID SIGNAL COMMAND [ARGUMENT …]

SIGNAL is the number of the one that the child gets when its parent is gone. On
Linux the kernel sends it (prctl PR_SET_PDEATHSIG outlives exec), and this process
becomes the command. Elsewhere it stays, looks now and then whether its parent is
still there, and passes signals on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.5
_STOP_S = 5.0


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code where this process stays."""
    parent, last, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if sys.platform != "linux":
        return _stay(parent, last, command)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, last)
    if os.getppid() != parent:
        return 1  # It died before the kernel was told.
    return os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def _stay(parent: int, last: int, command: list[str]) -> int:
    child: subprocess.Popen[bytes] | None = None
    came_early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if child is None:
            came_early.append(number)
        else:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    child = subprocess.Popen(command)  # noqa: S603 - the command comes from evp itself
    for early in came_early:
        child.send_signal(early)
    while child.poll() is None:
        if os.getppid() != parent:
            child.send_signal(last)
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
        time.sleep(_LOOK_S)
    return child.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
