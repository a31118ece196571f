"""The machine that simulated processes believe to run on: clocks, chance, a table of processes.

evp asks the system for the time, for random bytes and for process ids; here all of it comes
from the loop and the seed, so that a schedule is the same each time. Only what evp asks for
is replaced, and put back at the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from random import Random
from types import SimpleNamespace
from typing import Any

import bson.objectid
import psutil
from bson import ObjectId

import evp.stream.slots
from evp import clock
from tests.simulation.loop import PROCESS, Process, SimulatedLoop

STARTS_AT_S = 1_767_323_050
"""The wall time at which a simulation begins: at a quiet moment, five seconds into a bucket."""

_HOST = "simulated"
_RSS_BYTES = 50 * 1024 * 1024


class Machine:
    """Clocks and process table of one simulation."""

    def __init__(self, loop: SimulatedLoop, chance: Random) -> None:
        self._loop = loop
        self._chance = chance
        self._processes: dict[int, Process] = {}
        self._last_pid = 100

    def process(self, name: str) -> Process:
        """Return a new process, which is in the table while it lives."""
        self._last_pid += 1
        process = Process(name, self._last_pid)
        self._processes[process.pid] = process
        return process

    def now_ms(self) -> int:
        """Return the wall time."""
        return int(self._wall_s() * 1000)

    def _pid(self) -> int:
        process = PROCESS.get()
        return 1 if process is None else process.pid

    def _look_up(self, pid: int | None = None) -> Any:
        """Stand for psutil.Process: a pid is never given twice, so it started when it was made."""
        if pid is not None and pid in self._processes and not self._processes[pid].alive:
            raise psutil.NoSuchProcess(pid)
        memory = SimpleNamespace(rss=_RSS_BYTES)
        return SimpleNamespace(create_time=lambda: float(pid or 1), memory_info=lambda: memory)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let all of evp run on this machine for a while."""
        random_bytes = self._chance.randbytes
        stand_ins: tuple[tuple[Any, str, Any], ...] = (
            (os, "urandom", random_bytes),
            (os, "getpid", self._pid),
            (os, "kill", self._kill),
            (secrets, "token_hex", lambda size=32: random_bytes(size).hex()),
            (time, "time_ns", lambda: int(self._wall_s() * 1e9)),
            (bson.objectid, "time", SimpleNamespace(time=self._wall_s)),
            (psutil, "Process", self._look_up),
            (ObjectId, "_inc", self._chance.randrange(2**24)),
            (ObjectId, "_ObjectId__random", random_bytes(5)),
            (ObjectId, "_pid", self._pid()),
            (evp.stream.slots, "_host", lambda: _HOST),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(random.setstate, random.getstate())
            random.seed(self._chance.getrandbits(64))
            for where, name, stand_in in stand_ins:
                _replace(undo, where, name, stand_in)
            # Modules have these under names of their own.
            _replace_everywhere(undo, clock.monotonic_s, self._loop.time)
            _replace_everywhere(undo, clock.now, self._now)
            yield

    def _wall_s(self) -> float:
        return STARTS_AT_S + self._loop.now_s

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_s(), UTC)

    def _kill(self, pid: int, _signal: int) -> None:
        if pid not in self._processes or not self._processes[pid].alive:
            raise ProcessLookupError


def _replace(undo: contextlib.ExitStack, where: Any, name: str, stand_in: Any) -> None:
    undo.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, stand_in)


def _replace_everywhere(undo: contextlib.ExitStack, known: Any, stand_in: Any) -> None:
    """Replace a function in every module of evp that has imported it by name."""
    for module, name in _named(known, len(sys.modules)):
        _replace(undo, module, name, stand_in)


@cache
def _named(known: Any, _modules: int) -> list[tuple[Any, str]]:
    """Return where a function is known, and by which name; anew once there are more modules."""
    modules = [sys.modules[name] for name in list(sys.modules) if name.startswith("evp")]
    return [
        (module, name)
        for module in modules
        for name, value in list(vars(module).items())
        if value is known
    ]
