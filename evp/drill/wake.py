"""Wakes paused processes when time is up, or earlier if whoever paused them is gone.

    python -m evp.drill.wake SECONDS PID …

Says a line when it has looked at the processes, waits for the end of standard input, but
not longer than so many seconds, and sends SIGCONT to those that are still the ones it looked
at. So they go on after a kill -9 of the drill, and while it is itself stopped (Ctrl-Z).
"""

from __future__ import annotations

import contextlib
import select
import sys

import psutil


def main(arguments: list[str]) -> None:
    """Wait, then wake."""
    seconds, *pids = arguments
    processes = [psutil.Process(int(pid)) for pid in pids]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    select.select([sys.stdin], [], [], float(seconds))
    for process in processes:
        # One that can't be woken keeps no other one asleep.
        with contextlib.suppress(psutil.Error):
            process.resume()


if __name__ == "__main__":
    main(sys.argv[1:])
