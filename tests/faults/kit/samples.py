"""What a soak looks at every few seconds: memory, files, connections, and where the log stands.

A sample is one value of one series. Its `life` says since when: a process that was started
again begins a new one. Samples go to a file as they are taken, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil
from msgspec import Struct

from evp.errors import LogUnavailable
from evp.stream.client import Link
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from tests.faults.kit.system import STREAM, System

MB = 1e6


class Sample(Struct, tag="sample"):
    """One value. `life_s` is how old the life is, `events` what the log had accepted by then.

    `calm` is False while a fault is under way, and for a while after it; `block` counts faults.
    """

    at_s: float
    events: int
    kind: str
    what: str
    life: str
    life_s: float
    block: int
    calm: bool
    value: float


class Marked(Struct, tag="fault"):
    """A fault that was done: when it began and ended, and when all was calm again."""

    verb: str
    target: str
    began_s: float
    ended_s: float
    calm_s: float


_decoder = msgspec.json.Decoder(Sample | Marked)


def records(path: Path) -> Iterator[Sample | Marked]:
    """Give what was written to a file; a line that was cut off is left out."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield _decoder.decode(line)


class _Value(NamedTuple):
    kind: str
    what: str
    life: str
    life_s: float
    value: float


class Sampler:
    """Takes samples of a system. `block` and `calm` are set by who does the faults."""

    def __init__(self, system: System, path: Path) -> None:
        self.events = 0
        self.backlog = 0
        self.block = 0
        self.calm = True
        self._system = system
        self._began_at_s = time.monotonic()
        self._latest: list[Sample] = []
        self._file = path.open("ab", buffering=0)

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_at_s

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def mark(self, fault: Marked) -> None:
        """Write down a fault."""
        self._write(fault)

    async def look(self) -> None:
        """Take a sample of everything that is there."""
        block, calm = self.block, self.calm
        values = await asyncio.to_thread(lambda: list(self._of_processes()))
        try:
            values += await self._of_log()
        except LogUnavailable:
            calm = False
        # A fault that began meanwhile spoils it.
        calm = calm and self.calm and block == self.block
        at_s = round(self.now_s, 2)
        self._latest.clear()
        for one in values:
            sample = Sample(
                at_s=at_s,
                events=self.events,
                kind=one.kind,
                what=one.what,
                life=one.life,
                life_s=round(one.life_s, 1),
                block=block,
                calm=calm,
                value=one.value,
            )
            self._latest.append(sample)
            self._write(sample)

    def latest(self, kind: str, what: str) -> list[float]:
        """Return the last values of a kind, one of each process."""
        return [one.value for one in self._latest if (one.kind, one.what) == (kind, what)]

    def _write(self, record: Sample | Marked) -> None:
        self._file.write(msgspec.json.encode(record) + b"\n")

    def _of_processes(self) -> Iterator[_Value]:
        for name, victim in self._system.victims.items():
            if not victim.running:
                continue
            try:
                yield from _of_process(name, psutil.Process(victim.pid))
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                continue  # It has just ended, or is a container's, which belongs to somebody else.

    async def _of_log(self) -> list[_Value]:
        async with Link.opened(self._system.log.url) as link:
            facts = await log_facts(link, Keys(STREAM))
            # Measured whole: a few nodes tell little of one that holds frames of any size.
            size = int(await link.call("MEMORY", "USAGE", STREAM, "SAMPLES", 0) or 0)
            text = (await link.call("INFO")).decode()
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        self.events = facts.events_accepted
        life, life_s = f"log {info['process_id']}", float(info["uptime_in_seconds"])
        rows = [
            ("clients", float(info["connected_clients"])),
            ("used memory", int(info["used_memory"]) / MB),
            ("stream memory", size / MB),
            ("entries", float(facts.length)),
        ]
        found = [_Value("log", what, life, life_s, value) for what, value in rows]
        return found + self._of_group(facts)

    def _of_group(self, facts: LogFacts) -> list[_Value]:
        for group in facts.groups:
            if group.name == self._system.group:
                self.backlog = group.waiting_events
                rows = [
                    ("pending", group.pending),
                    ("backlog", group.waiting_events),
                    ("consumers", len(group.consumers)),
                ]
                return [_Value("group", what, "all", self.now_s, float(n)) for what, n in rows]
        return []


def _of_process(name: str, parent: psutil.Process) -> Iterator[_Value]:
    """Give the values of a process and its children together."""
    kind = name.partition("-")[0]
    everyone = [parent, *parent.children(recursive=True)]
    life, life_s = f"{name} {parent.pid}", time.time() - parent.create_time()
    rows = [
        ("RSS", sum(one.memory_info().rss for one in everyone) / MB),
        ("files", float(sum(one.num_fds() for one in everyone))),
        ("connections", float(sum(_connections(one) for one in everyone))),
        ("threads", float(sum(one.num_threads() for one in everyone))),
    ]
    for what, value in rows:
        yield _Value(kind, what, life, life_s, value)


def _connections(process: psutil.Process) -> int:
    return sum(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))
