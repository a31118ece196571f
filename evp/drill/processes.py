"""The processes of one running `evp up`: found, killed, paused, and never anybody else's.

A pid counts only while it is a child of the `evp up` that wrote it into `up.json`,
and a signal goes only to the very process that was looked at: one that has the same
pid later started at another time (psutil compares).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import psutil

from evp.clock import now_ms
from evp.drill import wake
from evp.drill.limits import DRILL_STEADY_MARGIN_S, DRILL_WAKER_S_MAX
from evp.errors import EngineFailed
from evp.limits import CHILD_STABLE_S
from evp.running import Running, read


class Processes:
    """The children of the `evp up` that runs in `data_dir` now. Raises EngineFailed if none does.

    Whatever is asked of them raises EngineFailed once it has ended.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._pid = _read(data_dir).pid

    def names(self, kind: str) -> list[str]:
        """Return the names of children of a kind: `log`, `store`, `serve` or `work`."""
        children = self._running().children
        return sorted(name for name in children if name.partition("-")[0] == kind)

    def require(self) -> None:
        """Raise EngineFailed if the `evp up` has ended."""
        self._running()

    def find(self, name: str) -> psutil.Process | None:
        """Return a child; None while it is dead."""
        pid = self._running().children.get(name)
        try:
            process = psutil.Process(pid) if pid else None
            if process is None or process.status() == psutil.STATUS_ZOMBIE:
                return None
            return process if process.ppid() == self._pid else None
        except psutil.NoSuchProcess:
            return None

    def is_steady(self, name: str) -> bool:
        """Return whether a child has run for so long that its death is no failed start."""
        process = self.find(name)
        if process is None:
            return False
        age_s = now_ms() / 1000 - process.create_time()
        return age_s > CHILD_STABLE_S + DRILL_STEADY_MARGIN_S

    def kill(self, name: str) -> psutil.Process:
        """End a child as kill -9 does; return the process it was."""
        process = self._found(name)
        with _told(name):
            descendants = process.children(recursive=True)
            process.kill()
            for one in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        return process

    @contextlib.asynccontextmanager
    async def paused(self, name: str, s_max: float) -> AsyncIterator[None]:
        """Pause a child (SIGSTOP) for a while.

        It goes on however this process ends, and after `s_max` seconds also if it stands still.
        """
        process = self._found(name)
        with _told(name):
            # Elsewhere than on Linux the child is a tether.
            processes = [process, *process.children(recursive=True)]
        async with _waker([one.pid for one in processes], s_max):
            with _told(name), _stopped(processes):
                yield

    def _found(self, name: str) -> psutil.Process:
        process = self.find(name)
        if process is None:
            raise EngineFailed(f"{name} does not run, so nothing can be done to it")
        return process

    def _running(self) -> Running:
        found = _read(self._data_dir)
        if found.pid != self._pid:
            raise EngineFailed(f"the `evp up` in {self._data_dir} has ended; another one runs now")
        if found.stopping:
            raise EngineFailed(f"the `evp up` in {self._data_dir} is being stopped")
        return found


def _read(data_dir: Path) -> Running:
    found = read(data_dir)
    if found is None:
        raise EngineFailed(f"no `evp up` runs in {data_dir}")
    return found


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Tell what could not be done to a child, as EngineFailed."""
    try:
        yield
    except psutil.Error as error:
        raise EngineFailed(f"{name} could not be hurt: {error}") from error


@contextlib.contextmanager
def _stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes; nothing is awaited before they go on, so that no Ctrl-C comes between.

    Raises what psutil does if the first one is gone, EngineFailed if one can't be woken.
    """
    stopped: list[psutil.Process] = []
    try:
        for one in processes:
            stopped.append(one)
            try:
                one.suspend()
            except psutil.NoSuchProcess:
                if one is processes[0]:
                    raise
        yield
    finally:
        _wake(stopped)


def _wake(stopped: Sequence[psutil.Process]) -> None:
    """Wake processes, all of them before one that can't be woken is told of (EngineFailed)."""
    asleep: list[int] = []
    for one in stopped:
        try:
            one.resume()
        except psutil.NoSuchProcess:
            continue
        except psutil.Error:
            asleep.append(one.pid)
    if asleep:
        pids = " ".join(map(str, asleep))
        raise EngineFailed(f"what was paused could not be woken: do it by `kill -CONT {pids}`")


@contextlib.asynccontextmanager
async def _waker(pids: Sequence[int], s_max: float) -> AsyncIterator[None]:
    """Have a process at hand that wakes these when this one is gone, or time is up."""
    waker = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", wake.__name__, f"{s_max:g}", *map(str, pids)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        # Ctrl-C is for this process alone.
        start_new_session=True,
    )
    try:
        if waker.stdin is None or waker.stdout is None:
            raise EngineFailed("what would wake a paused process has no input")
        try:
            async with asyncio.timeout(DRILL_WAKER_S_MAX):
                if not await waker.stdout.readline():
                    raise EngineFailed("what would wake a paused process did not start")
        except TimeoutError as error:
            raise EngineFailed("what would wake a paused process did not start") from error
        yield
    finally:
        # Nothing is paused any more here. It has nothing left to do.
        with contextlib.suppress(ProcessLookupError):
            waker.kill()
        await waker.wait()
