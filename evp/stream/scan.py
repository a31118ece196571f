"""Reading the log as anyone may, by no group: nothing is claimed, and nobody's place moves."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from msgspec import Struct

from evp.limits import LOG_COMMAND_S_MAX, READ_UNSEEN_MAX, SCAN_BYTES_TARGET, SCAN_ENTRIES_MAX
from evp.stream.client import Link, pairs
from evp.stream.keys import Keys
from evp.stream.scripts import Script

#: Before any entry.
BEGINNING = "0-0"
_PART_MAX = 2**64 - 1

_BEHIND = """
-- How many events of frames were accepted after an id.
local function behind(index, counters, id)
  local mark = redis.call('XRANGE', index, '(' .. id, '+', 'COUNT', 1)[1]
  if not mark then return '0' end
  local accepted = redis.call('HGET', counters, 'events') or 0
  return string.format('%.0f', math.max(0, accepted - mark[2][2]))
end
"""

_AHEAD: Final = Script(
    _BEHIND
    + """
-- What a reader that has read up to an id has before it.
-- KEYS stream, index, counters.  ARGV id, most frames, most bytes, events that are enough.
-- Answer: {events of frames, as text; how many of the next frames have at most so many bytes
-- together, by the marks of the index, and no more than enough events: at least 1, 0 if there is
-- no frame}.
local most, bytes, enough = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local marks = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1], '+', 'COUNT', most + 1)
local fit = math.min(#marks, most)
for i = 2, #marks do
  if marks[i][2][4] - marks[1][2][4] > bytes then fit = math.max(1, i - 2) break end
  if marks[i][2][2] - marks[1][2][2] >= enough then fit = i - 1 break end
end
return {behind(KEYS[2], KEYS[3], ARGV[1]), fit}
"""
)

_EDGES: Final = Script(
    _BEHIND
    + """
-- Where the log begins and ends.  KEYS stream, index, counters.  ARGV id.
-- Answer: {first entry id, or an empty text; last id ever given; events of frames after ARGV}.
local first, last = '', '0-0'
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
  local entry = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if entry then first = entry[1] end
end
return {first, last, behind(KEYS[2], KEYS[3], ARGV[1])}
"""
)


class Entry(NamedTuple):
    """One entry as it stands in the log; `evp.plain.read_entry` makes a frame of it."""

    entry_id: str
    fields: dict[bytes, bytes]


class Page(Struct):
    """The next entries, and how many events of frames there were from the first of them on."""

    entries: list[Entry]
    events_behind: int


class Edges(Struct):
    """Where the log begins and ends: `first` is None while it is empty.

    `last` is the last id that was given, be its entry there or not. `events_behind`
    were accepted in frames after the id that was asked about.
    """

    first: str | None
    last: str
    events_behind: int


async def edges(link: Link, keys: Keys, after: str = BEGINNING) -> Edges:
    """Return where the log begins and ends, and what lies after an id. Raises LogUnavailable."""
    first, last, behind = await link.script(_EDGES, _names(keys), (after,))
    return Edges(first.decode() or None, last.decode(), int(behind))


async def page(
    link: Link,
    keys: Keys,
    after: str,
    events_enough: int | None = None,
    *,
    block_ms: int | None = None,
) -> Page:
    """Return entries after an id: about SCAN_BYTES_TARGET, at most SCAN_ENTRIES_MAX of them.

    No more frames than have `events_enough`; one entry may be larger. Waits up to
    `block_ms` for the first one. Entries of other programs are in no index: where only
    they are to come, READ_UNSEEN_MAX are read. Raises LogUnavailable.
    """
    enough = SCAN_BYTES_TARGET if events_enough is None else max(1, events_enough)
    bounds = (after, SCAN_ENTRIES_MAX, SCAN_BYTES_TARGET, enough)
    behind, fit = await link.script(_AHEAD, _names(keys), bounds)
    blocking = () if block_ms is None else ("BLOCK", block_ms)
    reply = await link.call(
        "XREAD",
        *("COUNT", fit or READ_UNSEEN_MAX),
        *blocking,
        *("STREAMS", keys.stream, after),
        wait_s=(block_ms or 0) / 1000 + LOG_COMMAND_S_MAX,
    )
    return Page(_entries(reply[0][1]) if reply else [], int(behind))


async def entry_of(link: Link, keys: Keys, entry_id: str) -> Entry | None:
    """Return one entry; None if the log doesn't have it. Raises LogUnavailable."""
    found = _entries(await link.call("XRANGE", keys.stream, entry_id, entry_id))
    return found[0] if found else None


def before_ms(ms: int) -> str:
    """Return the last id that an entry before this millisecond can have."""
    return BEGINNING if ms <= 0 else f"{ms - 1}-{_PART_MAX}"


def _names(keys: Keys) -> tuple[str, str, str]:
    return keys.stream, keys.index, keys.counters


def _entries(rows: list[Any]) -> list[Entry]:
    return [Entry(entry_id.decode(), dict(pairs(flat))) for entry_id, flat in rows]
