"""What can go wrong between a process and an engine, drawn from the seed at every call.

| fault | what becomes of the call | what the caller learns |
|---|---|---|
| refused | it is not carried out | an error, at once or after it has waited |
| lost | it is carried out | the same errors |
| late | it is carried out some time later, perhaps after the caller has tried again | the same |

So nobody can tell by an error which it was. A call that its process does not live to see the
end of may be carried out late as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum
from random import Random
from typing import Any, TypeVar

from msgspec import Struct
from pymongo.errors import PyMongoError

from tests.simulation.loop import PROCESS

T = TypeVar("T")


class Fault(Enum):
    """What becomes of one call."""

    NONE = "ok"
    REFUSED = "refused"
    LOST = "lost"
    LATE = "late"


_STILL_ARRIVES = 0.5
_AT_ONCE = 0.8
_HANGS = 0.3
_PREPARES = frozenset(("dial", "SCRIPT", "COMMAND"))
"""Calls whose moment says nothing."""
_FAULTS = (Fault.REFUSED, Fault.LOST, Fault.LATE)


class Chances(Struct):
    """How likely what is, for each call; and how long calls take."""

    log_fault: float = 0.0
    store_fault: float = 0.0
    at_once: float = 0.5
    slow: float = 0.03
    usual_s: float = 0.004
    slow_s: float = 0.5
    hang_s: float = 2.0


class Late(Struct):
    """A call that will be carried out some time; `holds` says whether it still can be."""

    name: str
    carry_out: Callable[[], Any]
    holds: Callable[[], bool]


class Weather:
    """Draws faults, keeps what is late, and writes down what happened.

    `note` is told every call and what became of it, in order: this is the trace.
    """

    def __init__(
        self,
        chance: Random,
        chances: Chances,
        note: Callable[[str], None],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.chance = chance
        self.chances = chances
        self.note = note
        self._wait = wait
        self.late: list[Late] = []
        self.calls = 0
        self.faults = 0
        self.calm = False
        """Whether nothing goes wrong any more, and no call takes time."""

    async def call(
        self,
        name: str,
        carry_out: Callable[[], T],
        error: Callable[[str], Exception],
        *,
        of_log: bool,
        holds: Callable[[], bool] = lambda: True,
    ) -> T:
        """Carry out a call, or don't; take some time. Raises what `error` makes.

        What `carry_out` raises is a reply. While the call is on its way, or after it, its
        process may be killed.
        """
        process = PROCESS.get()
        if process is not None and not process.alive:
            raise error("its process is dead")
        self.calls += 1
        if self.calm:
            return carry_out()
        fault = self._draw(self.chances.log_fault if of_log else self.chances.store_fault)
        if name not in _PREPARES:
            await self._send(Late(name, carry_out, holds))
        if not holds():
            fault = Fault.REFUSED
        whose = "world" if process is None else process.name
        self.note(f"{whose} {name} {fault.value}")
        if fault is Fault.LATE:
            self.late.append(Late(name, carry_out, holds))
        elif fault is not Fault.REFUSED:
            result = carry_out()
            if fault is Fault.NONE and await self._reply(holds):
                return result
        hangs_s = self.chances.hang_s * self.chance.random()
        await self._wait(hangs_s if self.chance.random() < _HANGS else 0.0)
        raise error(fault.value)

    def _draw(self, how_likely: float) -> Fault:
        if self.chance.random() >= how_likely:
            return Fault.NONE
        self.faults += 1
        return self.chance.choice(_FAULTS)

    async def _send(self, call: Late) -> None:
        """Take the time that a call is on its way; what was sent can't be called back."""
        try:
            await self._take_time()
        except asyncio.CancelledError:
            if self.chance.random() < _STILL_ARRIVES:
                self.late.append(call)
            raise

    async def _reply(self, holds: Callable[[], bool]) -> bool:
        """Take the time that a reply is on its way; False if the connection is cut meanwhile."""
        if self.chance.random() < _AT_ONCE:
            return True
        await self._take_time()
        return holds()

    def loses_a_reply(self) -> bool:
        """Return whether a reply that the log had to wait for gets lost."""
        return not self.calm and self.chance.random() < self.chances.log_fault

    def arrive(self, place: int) -> None:
        """Carry out one of the calls that are late, if it still can be."""
        late = self.late.pop(place)
        holds = late.holds()
        self.note(f"late {late.name} {'arrives' if holds else 'is gone'}")
        if holds:
            with contextlib.suppress(PyMongoError):
                late.carry_out()

    async def _take_time(self) -> None:
        """Wait: mostly for a moment, now and then for long, and not at all nearly as often."""
        chance, chances = self.chance, self.chances
        drawn = chance.random()
        if drawn < chances.at_once:
            return
        longest_s = chances.slow_s if drawn > 1 - chances.slow else chances.usual_s
        await self._wait(chance.random() * longest_s)
