"""How many entries one reply may hold: bounded in bytes, whatever frames were like so far.

A reply that is too large to be read in time would be asked for again, and again
be too large. So before entries are read, new ones, own pending ones or stale ones
of others, the index is asked how many of them are READ_BYTES_TARGET together. One
entry alone may be larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from evp.limits import READ_BYTES_TARGET
from evp.stream.client import Link, pairs
from evp.stream.keys import Keys
from evp.stream.scripts import GIVEN_TO, Script

_FITTING: Final = Script(
    GIVEN_TO
    + """
-- How many of the next frames of a group have at most so many bytes together.
-- KEYS stream, index, counters.  ARGV group, most frames, most bytes.
-- Answer: at least 1; all of them if they fit; 0 if there is none yet, or no group.
local last = given_to(KEYS[1], ARGV[1])
if not last then return 0 end
local frames, bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
-- Each mark tells how many bytes were before its frame, so the one behind is needed as well.
local marks = redis.call('XRANGE', KEYS[2], '(' .. last, '+', 'COUNT', frames + 1)
local ends = {}
for i = 2, #marks do ends[i - 1] = tonumber(marks[i][2][4]) end
if #marks > 0 and #marks <= frames then
  ends[#marks] = tonumber(redis.call('HGET', KEYS[3], 'bytes') or 0)
end
for i, after in ipairs(ends) do
  if after - tonumber(marks[1][2][4]) > bytes then return math.max(1, i - 1) end
end
return #marks > 0 and frames or 0
"""
)

_MEASURE = """
-- How many bytes an entry has: by the index, or by itself where another program wrote it.
local function size_of(id)
  local marks = redis.call('XRANGE', KEYS[2], id, '+', 'COUNT', 2)
  if marks[1] and marks[1][1] == id then
    local after = marks[2] and marks[2][2][4] or redis.call('HGET', KEYS[3], 'bytes') or 0
    return math.max(0, after - marks[1][2][4])
  end
  local size, entry = 0, redis.call('XRANGE', KEYS[1], id, id)[1]
  for _, text in ipairs(entry and entry[2] or {}) do size = size + #text end
  return size
end

-- Of pending entries those first ones, at least one, that have at most so many bytes together:
-- their ids; {id, times delivered, …} of them; 1 if there may be more behind.
local function portion(rows, most, bytes_max)
  local bytes, ids, told = 0, {}, {}
  for _, row in ipairs(rows) do
    bytes = bytes + size_of(row[1])
    if #ids > 0 and bytes > bytes_max then break end
    ids[#ids + 1] = row[1]
    told[2 * #ids - 1], told[2 * #ids] = row[1], row[4]
  end
  return ids, told, (#ids < #rows or #rows == most) and 1 or 0
end
"""

_OWN: Final = Script(
    _MEASURE
    + """
-- What is pending under a consumer's own name.
-- KEYS stream, index, counters.
-- ARGV group, consumer, most entries, most bytes, an id before the first one.
-- Answer: {entry id, times delivered, …}, 1 if there may be more.
local most, after = tonumber(ARGV[3]), '(' .. ARGV[5]
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], after, '+', most, ARGV[2])
if rows.err then return rows end
local _, told, more = portion(rows, most, tonumber(ARGV[4]))
return {told, more}
"""
)

_STALE: Final = Script(
    _MEASURE
    + """
-- Give a consumer what nobody worked on for a time, whoever had it.
-- KEYS stream, index, counters.
-- ARGV group, consumer, most entries, most bytes, an id before the first one, milliseconds.
-- Answer: {entry id, times delivered before, …}, 1 if there may be more, the entries. Of those
-- that are in the first and not in the last the log has nothing any more.
local most, after = tonumber(ARGV[3]), '(' .. ARGV[5]
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[6], after, '+', most)
if rows.err then return rows end
local ids, told, more = portion(rows, most, tonumber(ARGV[4]))
if #ids == 0 then return {told, more, {}} end
return {told, more, redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))}
"""
)


class Portion(Struct, frozen=True):
    """Pending entries of a size that can be read at once.

    `times` tells by id how often each was delivered before. `last` is where the
    next portion begins; None if there is none. `entries` are ids and flat fields
    of what was taken over.
    """

    times: dict[str, int]
    last: str | None
    entries: list[tuple[bytes, list[bytes]]]


async def fitting(link: Link, keys: Keys, group: str, frames_max: int) -> int:
    """Return how many of the next new frames fit; 0 if there is none yet. Raises LogUnavailable.

    Entries of other programs between them are not counted.
    """
    arguments = (group, frames_max, READ_BYTES_TARGET)
    return int(await link.script(_FITTING, _names(keys), arguments))


async def own_pending(
    link: Link, keys: Keys, group: str, consumer: str, after: str, entries_max: int
) -> Portion:
    """Return what is pending under the consumer's own name from an id on, without the entries.

    Raises LogUnavailable and GroupLost.
    """
    arguments = (group, consumer, entries_max, READ_BYTES_TARGET, after)
    told, more = await link.script(_OWN, _names(keys), arguments)
    return _portion(told, more)


async def take_stale(
    link: Link, keys: Keys, group: str, consumer: str, after: str, entries_max: int, idle_ms: int
) -> Portion:
    """Deliver to the consumer what nobody worked on for `idle_ms`, from an id on (XCLAIM).

    What is in `times` and not among the entries was deleted from the log while it
    was pending, and is pending no longer. Raises as `own_pending`.
    """
    arguments = (group, consumer, entries_max, READ_BYTES_TARGET, after, idle_ms)
    told, more, entries = await link.script(_STALE, _names(keys), arguments)
    return _portion(told, more, [(entry_id, flat) for entry_id, flat in entries])


def _names(keys: Keys) -> tuple[str, str, str]:
    return keys.stream, keys.index, keys.counters


def _portion(
    told: list[Any], more: int, entries: Sequence[tuple[bytes, list[bytes]]] = ()
) -> Portion:
    times = {entry_id.decode(): count for entry_id, count in pairs(told)}
    return Portion(times, next(reversed(times)) if more and times else None, list(entries))
