"""What waits in the stream, for whom, and how many servers add to it.

Positions come from the index, so that no payload is read: they are exact for
frames, and plain entries of other programs count nothing. Lag as XINFO tells it
is not used: it is nil after a deletion.
"""

from __future__ import annotations

from msgspec import Struct

from evp.frame import entry_ms, entry_order
from evp.limits import SERVER_ALIVE_MS
from evp.stream.client import Link, Reply, name_of, pairs
from evp.stream.keys import Keys
from evp.stream.scripts import BACKLOG, POSITION

#: Who looks without being a server.
_NOBODY = ""


class Pin(Struct, frozen=True):
    """The group that is furthest behind: nothing from its first unread or unacked entry on may go.

    `group` is empty where no group is known. `exists` is false for one that is
    registered and was not made, or is lost. `age_s` is the age of that entry, 0 if
    there is none; `events` and `size_bytes` are from there to the end of the
    stream, `alone_bytes` what of it waits for this group alone.
    """

    group: str
    exists: bool
    age_s: float
    events: int
    size_bytes: int
    alone_bytes: int

    def __str__(self) -> str:
        """Return it as people are told."""
        if not self.group:
            return "no consumer group reads the stream: start `evp work`"
        state = "" if self.exists else " does not exist (start its workers, or delete it) and"
        return (
            f"group {self.group!r}{state} has {self.events:,} events, "
            f"{self.size_bytes / 2**20:,.1f} MiB, still to do, the oldest {self.age_s:,.0f} s old"
        )


class Backlog(Struct, frozen=True):
    """One look. What was accepted ever, and what of it the slowest group has done."""

    servers: int
    at_ms: int
    events_accepted: int
    events_done: int
    bytes_done: int
    pin: Pin


async def backlog(link: Link, keys: Keys, server: str) -> Backlog:
    """Look at the stream and say that `server` is alive. Raises LogUnavailable."""
    servers, at_ms, told = await _look(link, keys, server, SERVER_ALIVE_MS)
    accepted, events, done_bytes = (int(number) for number in told[6:9])
    return Backlog(servers, at_ms, accepted, events, done_bytes, pin_of(told, at_ms))


class Done(Struct, frozen=True):
    """What the stream still holds that every group has done with; by its oldest entry."""

    age_s: float
    size_bytes: int


async def done_in_log(link: Link, keys: Keys) -> Done | None:
    """Return what every group has done with and nobody has trimmed, None if there is nothing.

    Raises LogUnavailable.
    """
    _, at_ms, told = await _look(link, keys, _NOBODY, 0)
    oldest = await link.script(POSITION, (keys.stream, keys.index), ("-", "+"))
    marks = await link.call("XRANGE", keys.index, "-", "+", "COUNT", 1)
    needed = told[2]
    if not oldest or (needed and entry_order(oldest[0].decode()) >= entry_order(needed.decode())):
        return None
    since_ms = entry_ms(oldest[0].decode())
    trimmed_bytes = int(dict(pairs(marks[0][1]))[b"bytes"]) if marks else int(told[8])
    return Done(max(0, at_ms - since_ms) / 1000, max(0, int(told[8]) - trimmed_bytes))


async def leave(link: Link, keys: Keys, server: str) -> None:
    """Say that `server` adds no more. Raises LogUnavailable."""
    await _look(link, keys, server, 0)


def pin_of(told: list[Reply], at_ms: int) -> Pin:
    """Return the pin in an answer of the scripts that find one."""
    name, exists, entry_id, events, size_bytes, alone_bytes = told[:6]
    since_ms = entry_ms(entry_id.decode()) if entry_id else at_ms
    age_s = max(0, at_ms - since_ms) / 1000
    return Pin(
        name_of(name),
        bool(exists),
        age_s,
        int(events),
        int(size_bytes),
        int(alone_bytes),
    )


async def _look(link: Link, keys: Keys, server: str, alive_ms: int) -> list[Reply]:
    names = (keys.stream, keys.groups, keys.counters, keys.index, keys.serving)
    reply: list[Reply] = await link.script(BACKLOG, names, (server, alive_ms))
    return reply
