"""How far each consumer group is with one entry."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from evp.frame import entry_order
from evp.limits import TRACE_GROUPS_MAX
from evp.stream.client import Link, name_of
from evp.stream.groups import group_rows
from evp.stream.keys import Keys


class Progress(StrEnum):
    """What a group did with an entry."""

    UNDELIVERED = "undelivered"
    PENDING = "pending"
    ACKED = "acked"


class Place(Struct):
    """A group and one entry.

    While it is pending, `consumer` has it, who was given it `idle_s` ago, or has said then
    that it works on it; `deliveries` is how often it was given to anyone.
    """

    group: str
    progress: Progress
    consumer: str | None = None
    deliveries: int | None = None
    idle_s: float | None = None


async def places_of(link: Link, keys: Keys, entry_id: str, first: str = "") -> list[Place]:
    """Return how far groups are with an entry that the log has; the group `first` leads.

    Of TRACE_GROUPS_MAX groups at most. Raises LogUnavailable.
    """
    given = {
        row[b"name"]: row[b"last-delivered-id"].decode() for row in await group_rows(link, keys)
    }
    names = sorted(given, key=lambda name: (name != first.encode(), name))[:TRACE_GROUPS_MAX]
    asked = [("XPENDING", keys.stream, name, entry_id, entry_id, 1) for name in names]
    replies = await link.calls(asked) if asked else []
    places = []
    for name, pending in zip(names, replies, strict=True):
        place = Place(name_of(name), Progress.ACKED)
        if pending:
            _, consumer, idle_ms, place.deliveries = pending[0]
            place.progress, place.consumer = Progress.PENDING, name_of(consumer)
            place.idle_s = idle_ms / 1000
        elif entry_order(entry_id) > entry_order(given[name]):
            place.progress = Progress.UNDELIVERED
        places.append(place)
    return places
