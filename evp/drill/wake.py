"""Wakes paused processes once whoever paused them lets go, or is gone, even by kill -9.

    python -m evp.drill.wake PID …

Says a line when it has looked at the processes, waits for the end of standard
input, and sends SIGCONT to those that are still the ones it looked at.
"""

from __future__ import annotations

import contextlib
import sys

import psutil


def main(arguments: list[str]) -> None:
    """Wait, then wake."""
    processes = [psutil.Process(int(pid)) for pid in arguments]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


if __name__ == "__main__":
    main(sys.argv[1:])
