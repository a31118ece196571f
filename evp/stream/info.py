"""Facts about the log, for people and probes: read only, nothing is claimed or moved.

Lag in events is exact and costs one look: the index has for every frame how many
events were accepted before it, so what a group has not been given is the stream's
count less that of its first undelivered entry. XINFO's own lag is in entries, and
nil after deletions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from evp.frame import entry_ms
from evp.stream.client import Link, Reply, clock_of, name_of, pairs
from evp.stream.groups import group_rows
from evp.stream.keys import Keys
from evp.stream.pending import pending_events
from evp.stream.scripts import POSITION, UNSETTLED


class ConsumerFacts(Struct):
    """One consumer: entries delivered and not acked, milliseconds since it last tried to read."""

    name: str
    pending: int
    idle_ms: int


class GroupFacts(Struct):
    """One group.

    `pending` counts entries delivered and not acked; `pending_events` is what they hold, at
    most if they are too many to count. `lag_events` were never delivered. `lag_s` is the age of the
    oldest entry that is not acked, 0 if there is none. `change_per_s` is by how many events
    a second more waits than a few looks ago, less where it is negative; null if nobody knows
    yet. `drain_s` is how long it takes until nothing waits, as it goes now; null if it does
    not get less, or nobody knows yet. It is `stuck` if its oldest entry was the oldest one
    all the time: it hangs, or whoever works on it does.
    """

    name: str
    pending: int
    pending_events: int
    lag_events: int
    lag_s: float
    consumers: list[ConsumerFacts]
    drain_s: float | None = None
    change_per_s: float | None = None
    stuck: bool = False

    @property
    def waiting_events(self) -> int:
        """Events that are not acked, delivered or not."""
        return self.pending_events + self.lag_events


class LogFacts(Struct):
    """The stream: entries and bytes in memory, what was ever accepted, its groups."""

    length: int
    size_bytes: int
    events_accepted: int
    frames_accepted: int
    requests_accepted: int
    bytes_accepted: int
    groups: list[GroupFacts]
    at_ms: int


async def log_facts(link: Link, keys: Keys) -> LogFacts:
    """Return the facts of one stream; zeros where it doesn't exist. Raises LogUnavailable."""
    length, size, counters, clock = await link.calls(
        [
            ("XLEN", keys.stream),
            ("MEMORY", "USAGE", keys.stream),
            ("HGETALL", keys.counters),
            ("TIME",),
        ]
    )
    counted = {name.decode(): int(value) for name, value in pairs(counters)}
    at_ms = clock_of(clock)
    events = counted.get("events", 0)
    rows = await group_rows(link, keys)
    groups = [await _group(link, keys, row, events, at_ms) for row in rows]
    return LogFacts(
        length=length,
        size_bytes=size or 0,
        events_accepted=events,
        frames_accepted=counted.get("frames", 0),
        requests_accepted=counted.get("requests", 0),
        bytes_accepted=counted.get("bytes", 0),
        groups=groups,
        at_ms=at_ms,
    )


class Unsettled(NamedTuple):
    """What a group has not done with: events at most, and whether there is any entry at all.

    Plain entries, those of other programs, count no events.
    """

    events: int
    any_entry: bool


async def unsettled(link: Link, keys: Keys, group: str) -> Unsettled:
    """Return what a group has not done with; all there is if there is no such group.

    Raises LogUnavailable.
    """
    stream = (keys.stream, keys.counters, keys.index)
    events, any_entry = await link.script(UNSETTLED, stream, (group,))
    return Unsettled(int(events), bool(any_entry))


async def events_ahead(link: Link, keys: Keys, group: str, entry_id: str) -> int:
    """Return about how many events a group has to do before it comes to an entry.

    Raises LogUnavailable.
    """
    waiting = (await unsettled(link, keys, group)).events
    stream = (keys.stream, keys.index)
    position, counted = (
        await link.script(POSITION, stream, (entry_id, entry_id)),
        await link.call("HGET", keys.counters, "events"),
    )
    accepted = int(counted or 0)
    return max(0, waiting - (accepted - _events_before(position, accepted)))


async def oldest_age_s(link: Link, keys: Keys) -> float:
    """Return the age of the stream's oldest entry, 0 if there is none. Raises LogUnavailable."""
    oldest = await link.script(POSITION, (keys.stream, keys.index), ("-", "+"))
    at_ms = clock_of(await link.call("TIME"))
    since_ms = entry_ms(oldest[0].decode()) if oldest else at_ms
    return max(0, at_ms - since_ms) / 1000


async def _group(
    link: Link, keys: Keys, row: dict[bytes, Any], events: int, at_ms: int
) -> GroupFacts:
    name = row[b"name"]
    last = row[b"last-delivered-id"].decode()
    consumers, pending = await link.calls(
        [("XINFO", "CONSUMERS", keys.stream, name), ("XPENDING", keys.stream, name)]
    )
    first_pending = pending[1].decode() if pending[0] else None
    undelivered = await link.script(POSITION, (keys.stream, keys.index), (f"({last}", "+"))
    given = _events_before(undelivered, events)
    waiting = [first_pending] if first_pending else []
    if undelivered:
        waiting.append(undelivered[0].decode())
    oldest_ms = min(map(entry_ms, waiting), default=at_ms)
    return GroupFacts(
        name=name_of(name),
        pending=pending[0],
        pending_events=await _pending_events(link, keys, name, pending, given),
        lag_events=max(events - given, row.get(b"lag") or 0),
        lag_s=max(0, at_ms - oldest_ms) / 1000,
        consumers=[_consumer(dict(pairs(flat))) for flat in consumers],
    )


async def _pending_events(
    link: Link, keys: Keys, group: bytes, pending: Sequence[Reply], given: int
) -> int:
    """Return how many events are pending by XPENDING's summary, of `given` ones: exact if few."""
    if not pending[0]:
        return 0
    counted = await pending_events(link, keys, group)
    if counted is not None:
        return counted
    oldest = await link.script(POSITION, (keys.stream, keys.index), (pending[1], "+"))
    return max(int(pending[0]), given - _events_before(oldest, given))


def _events_before(position: Reply, otherwise: int) -> int:
    """Return how many events of the stream lie before an entry; `otherwise` if it can't tell."""
    return int(position[1]) if position and position[1] else otherwise


def _consumer(row: dict[bytes, Any]) -> ConsumerFacts:
    return ConsumerFacts(name_of(row[b"name"]), row[b"pending"], row[b"idle"])
