"""Writing frames, and being killed at some command: `python -m tests.support.dying …`.

    URL DATABASE FRAMES DEATHS SEED

Each frame is written by DEATHS processes, one after the other, that are killed as
`kill -9` does, right before or right after a command to the store that is drawn
by chance; some outlive it. They are forks of this one, which costs a fraction of
a start. Prints how many were killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from typing import Any

from pymongo import AsyncMongoClient

from evp.frame import Frame
from evp.storage.client import database
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.stores import WRITE_MS, Listener

#: The commands of one write from its first look-up to somewhat behind its end.
_COMMANDS = range(3, 10)


def frames(count: int) -> list[Frame]:
    """Return frames of two events: one that can be stored, and one whose id `e0` is taken."""
    return [frame_of(event(n), event(0, data=f"another {n}")) for n in range(1, count + 1)]


class Reaper(Listener):
    """Kills this process when it sends its command number `after`, or once it is answered."""

    def __init__(self, after: int, *, answered: bool) -> None:
        super().__init__()
        self._left = after
        if answered:
            self.at_end = self._count
        else:
            self.at_start = self._count

    def _count(self, _name: str) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def write(url: str, name: str, frame: Frame, reaper: Reaper) -> None:
    """Write a frame into collections that are there."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, event_listeners=[reaper])
    await Writer(database(client, name), WRITE_MS).write([frame])


def main(url: str, name: str, count: int, deaths: int, seed: int) -> None:
    """Let processes die over frames."""
    chance = random.Random(seed)
    killed = 0
    for frame in frames(count):
        for _ in range(deaths):
            reaper = Reaper(chance.choice(_COMMANDS), answered=chance.random() < 0.5)
            pid = os.fork()
            if pid == 0:
                asyncio.run(write(url, name, frame, reaper))
                os._exit(0)
            killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    sys.stdout.write(f"{killed}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
