"""Processes by role: started for a contender, weighed, and stopped together."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil

T = TypeVar("T")
START_S_MAX = 60.0
STOP_S_MAX = 20.0
TAIL_CHARS = 1_500


class Failed(Exception):
    """Raised when a contender can't be built, started or drained; says why."""


class Processes:
    """Programs of one turn; their output goes to a file each in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(
        self, role: str, command: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> int:
        """Start a program that ends with this one, even by kill -9; return its pid."""
        tether = [sys.executable, "-m", "evp.engines.tether", str(os.getpid()), "15"]
        with (self._folder / f"{role}.out").open("wb") as output:
            process = subprocess.Popen(
                [*tether, *command],
                env=os.environ | dict(environ or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._started.append((role, process))
        return process.pid

    def wait(self, look: Callable[[], T | None], what: str, s_max: float = START_S_MAX) -> T:
        """Return what `look` finds once it finds something. Raises Failed if a process ends."""
        ends_at_s = time.monotonic() + s_max
        while not (found := look()):
            for role, process in self._started:
                if process.poll() is not None:
                    output = (self._folder / f"{role}.out").read_text(errors="replace")
                    raise Failed(f"{role} ended with {process.returncode}: {output[-TAIL_CHARS:]}")
            if time.monotonic() > ends_at_s:
                raise Failed(f"{what} took more than {s_max:g} s")
            time.sleep(0.02)
        return found


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Give a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="evp-bench-") as name:
        yield Path(name)


def cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the processor time so far by role, children included."""
    found: dict[str, float] = {}
    for role, pid in pids.items():
        times = [process.cpu_times() for process in _tree(pid)]
        found[role] = sum(one.user + one.system for one in times)
    # The only child that was waited for meanwhile is the generator.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found | {"generator": used.ru_utime + used.ru_stime}


def busy_s() -> float:
    """Return how long this machine's processors have worked, for anybody, or were taken away."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def peak_mib(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the most memory each role has held, in MiB (Linux; nothing elsewhere)."""
    found: dict[str, float] = {}
    for role, pid in pids.items():
        for process in _tree(pid):
            status = Path(f"/proc/{process.pid}/status")
            if status.exists():
                kib = status.read_text().partition("VmHWM:")[2].split()[0]
                found[role] = found.get(role, 0.0) + int(kib) / 1024
    return found


def rss_mib(pids: Mapping[str, int]) -> float:
    """Return what these processes and their children hold in memory now, in MiB."""
    return sum(one.memory_info().rss for pid in pids.values() for one in _tree(pid)) / 2**20


def _tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]
