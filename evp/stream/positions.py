"""Where a group stands in the stream, and setting it to another place.

A group's position is the id of the last entry that was given to it as new. What is pending
does not depend on it: that is delivered until it is acked, wherever the group is set to.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from evp.limits import POSITION_ENTRIES_COUNTED_MAX
from evp.stream.client import Link, Reply
from evp.stream.keys import Keys
from evp.stream.position_scripts import CREATE_AT, LOOK, SET_POSITION

EARLIEST = "-"
LATEST = "+"


class Place(Struct, frozen=True):
    """Behind the entry `last_id`; `0-0` is the beginning.

    `next_id` is the first entry of the log behind it, None if there is none yet, and
    `events_before` is how many events were ever accepted before that one. Plain entries
    of other programs count no events.
    """

    last_id: str
    next_id: str | None
    events_before: int


class Standing(Struct, frozen=True):
    """Where a group stands (`here`) and where it would (`there`), at one moment of the log's clock.

    `beginning` is where the log begins: what was accepted before has been trimmed. `pending`
    counts entries that are delivered and not acked, `first_pending` is the first of them.
    """

    at_ms: int
    pending: int
    first_pending: str | None
    events_accepted: int
    beginning: Place
    here: Place
    there: Place


def moment(at_ms: int) -> str:
    """Return the target before the first entry of a moment, ms by the log's clock, or later."""
    return str(at_ms) if at_ms > 0 else EARLIEST


async def standing(link: Link, keys: Keys, group: str, target: str = EARLIEST) -> Standing | None:
    """Return where a group stands, and where it would at a target; None if there is no such group.

    A target is EARLIEST, LATEST or a `moment`. Raises LogUnavailable.
    """
    names = (keys.stream, keys.counters, keys.index)
    reply = await link.script(LOOK, names, (group, target))
    if not reply:
        return None
    at_ms, pending, first_pending, accepted, *places = reply
    return Standing(
        at_ms,
        pending,
        first_pending.decode() or None,
        int(accepted),
        *(_place(places[start : start + 3]) for start in (0, 3, 6)),
    )


async def set_position(link: Link, keys: Keys, group: str, seen: Standing) -> bool:
    """Set a group to where it would stand, if nothing has changed since that was seen.

    True if it was done. False if the group was given more, or what would come next is not
    the same any more: look again. Raises LogUnavailable.
    """
    wanted = (seen.here.last_id, seen.there.last_id, seen.there.next_id or "")
    arguments = (group, *wanted, POSITION_ENTRIES_COUNTED_MAX)
    return bool(await link.script(SET_POSITION, (keys.stream, keys.index), arguments))


async def create_group(link: Link, keys: Keys, group: str, target: str) -> bool:
    """Register a group and create it at a target; True if it was created.

    Raises LogUnavailable.
    """
    names = (keys.stream, keys.groups, keys.index)
    arguments = (group, target, POSITION_ENTRIES_COUNTED_MAX)
    return bool(await link.script(CREATE_AT, names, arguments))


def _place(told: Sequence[Reply]) -> Place:
    last_id, next_id, events = told
    return Place(last_id.decode(), next_id.decode() or None, int(events))
