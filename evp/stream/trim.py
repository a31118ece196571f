"""Trimming: what every group has done leaves the stream, and nothing else ever does.

The floor is the least, over all groups that are registered or exist, of the
first pending entry and the one after the last delivered. A registered group
that does not exist holds everything; without a registered group nothing is
trimmed. It is all one script, so that nothing is read or acked in between.
(Pending entries alone would not do: a group that has none may not have read yet.
Nor would the last delivered one: what is before it may be pending.)

Entries that are done stay for a while, to be read again: by time, and by bytes,
whichever leaves less. They give way as the log's memory fills: together with
everything else they may take half of what the mark allows, so before the first
request is refused they have gone.

Bytes are those of the documents, as the index has them. In memory an entry takes
up to a quarter more, and plain entries are not counted; of these the limits by
time and by memory dispose.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from evp.limits import DONE_SHARE_OF_MARK, TRIM_ENTRIES_MAX, TRIM_ROUNDS_MAX
from evp.stream.backlog import Pin, pin_of
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.memory import memory
from evp.stream.scripts import TRIM


class Retention(Struct, frozen=True):
    """How long, and how much of, what is done stays in the log."""

    seconds: int
    size_bytes: int


class Trimmed(Struct, frozen=True):
    """What a trim did. `pin` tells what it may not pass, None if it may not trim at all.

    With `more` there was more to remove than one call does: call again at once.
    """

    removed: int
    more: bool
    pin: Pin | None


async def trim(link: Link, keys: Keys, names: Iterable[str], retention: Retention) -> Trimmed:
    """Remove from the stream what nobody needs any more.

    `names` are the groups that must be there, as the store has them; if it can't
    be asked, don't trim. Cheap where there is nothing to do, bounded where there is
    much, and any number of workers may call it at once. Raises LogUnavailable.
    """
    names = tuple(names)
    stream = (keys.stream, keys.groups, keys.counters, keys.index)
    removed, more, pin = 0, True, None
    for _ in range(TRIM_ROUNDS_MAX):
        room = await _room(link)
        limits = (retention.seconds * 1000, retention.size_bytes, room, TRIM_ENTRIES_MAX)
        count, unfinished, at_ms, *told = await link.script(TRIM, stream, (*limits, *names))
        removed += count
        more = bool(unfinished)
        pin = pin_of(told[0], at_ms) if told else None
        if not more:
            break
    return Trimmed(removed, more, pin)


async def _room(link: Link) -> int | str:
    """Return how many bytes more may be kept; below 0 if less must be, empty if nobody knows."""
    seen = await memory(link)
    if seen is None or seen.mark_bytes is None:
        return ""
    return int(seen.mark_bytes * DONE_SHARE_OF_MARK) - seen.used_bytes
