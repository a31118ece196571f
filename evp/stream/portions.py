"""How many entries one reply may hold: bounded in bytes, whatever frames were like so far.

A reply that is too large to be read in time would be asked for again, and again
be too large. So before entries are read, new ones, own pending ones or stale ones
of others, the index is asked how many of them are READ_BYTES_TARGET together. One
entry alone may be larger.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from evp.limits import READ_BYTES_TARGET
from evp.stream.client import Link, pairs
from evp.stream.keys import Keys
from evp.stream.scripts import Script

_FITTING: Final = Script("""
-- How many of the next frames of a group have at most so many bytes together.
-- KEYS stream, index, counters.  ARGV group, most frames, most bytes.
-- Answer: at least 1; all of them if they fit; 0 if there is none yet, or no group.
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return 0 end
local last = nil
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
  if group.name == ARGV[1] then last = group['last-delivered-id'] end
end
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
""")

_PENDING: Final = Script("""
-- The next pending entries that have at most so many bytes together, at least one.
-- KEYS stream, index, counters.
-- ARGV group, consumer, an id before the first one, most entries, most bytes,
--      milliseconds of idleness ('': the consumer's own ones; else any one's, which it gets).
-- Answer: {entry id, times delivered, …}, ids of which there is no entry any more (where they
-- are its own ones they are among the others), 1 if there may be more behind the last one.
local stream, index, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]

local function size_of(id)
  local marks = redis.call('XRANGE', index, id, '+', 'COUNT', 2)
  if marks[1] and marks[1][1] == id then
    local after = marks[2] and marks[2][2][4] or redis.call('HGET', KEYS[3], 'bytes') or 0
    return math.max(0, after - marks[1][2][4])
  end
  -- Other programs wrote it.
  local size, entry = 0, redis.call('XRANGE', stream, id, id)[1]
  for _, text in ipairs(entry and entry[2] or {}) do size = size + #text end
  return size
end

local span, idle = {'(' .. ARGV[3], '+', ARGV[4]}, {}
if ARGV[6] == '' then span[4] = consumer else idle = {'IDLE', ARGV[6]} end
for _, text in ipairs(span) do idle[#idle + 1] = text end
local rows = redis.pcall('XPENDING', stream, group, unpack(idle))
if rows.err then return rows end

local bytes, ids, told = 0, {}, {}
for _, row in ipairs(rows) do
  bytes = bytes + size_of(row[1])
  if #ids > 0 and bytes > tonumber(ARGV[5]) then break end
  ids[#ids + 1] = row[1]
  told[2 * #ids - 1], told[2 * #ids] = row[1], row[4]
end
local more = (#ids < #rows or #rows == tonumber(ARGV[4])) and 1 or 0
if ARGV[6] == '' or #ids == 0 then return {told, {}, more} end

-- Without their payload, so that nobody else takes them and they can be fetched at leisure.
local claim = {'XCLAIM', stream, group, consumer, 0, unpack(ids)}
claim[#claim + 1] = 'JUSTID'
local there, deleted = {}, {}
for _, id in ipairs(redis.call(unpack(claim))) do there[id] = true end
for _, id in ipairs(ids) do
  if not there[id] then deleted[#deleted + 1] = id end
end
return {told, deleted, more}
""")


class Portion(Struct, frozen=True):
    """Pending entries that may be read at once: how often each was delivered, by its id.

    `deleted` are those that the log no longer has. `last` is where the next
    portion begins; None if there is none.
    """

    times: dict[str, int]
    deleted: list[bytes]
    last: str | None


async def fitting(link: Link, keys: Keys, group: str, frames_max: int) -> int:
    """Return how many of the next new frames fit; 0 if there is none yet. Raises LogUnavailable."""
    names = (keys.stream, keys.index, keys.counters)
    arguments = (group, frames_max, READ_BYTES_TARGET)
    return int(await link.script(_FITTING, names, arguments))


async def own_pending(
    link: Link, keys: Keys, group: str, consumer: str, after: str, entries_max: int
) -> Portion:
    """Return what is pending under the consumer's own name from an id on.

    Those that were deleted are among the others as well. Raises LogUnavailable
    and GroupLost.
    """
    return await _pending(link, keys, group, consumer, after, entries_max, "")


async def take_stale(
    link: Link, keys: Keys, group: str, consumer: str, after: str, entries_max: int, idle_ms: int
) -> Portion:
    """Give the consumer what nobody worked on for `idle_ms`, from an id on; return what it is.

    This is no delivery yet: fetch them (XCLAIM). Those that were deleted are no
    longer pending. Raises as `own_pending`.
    """
    return await _pending(link, keys, group, consumer, after, entries_max, idle_ms)


async def _pending(
    link: Link,
    keys: Keys,
    group: str,
    consumer: str,
    after: str,
    entries_max: int,
    idle_ms: int | str,
) -> Portion:
    names = (keys.stream, keys.index, keys.counters)
    arguments = (group, consumer, after, entries_max, READ_BYTES_TARGET, idle_ms)
    told, deleted, more = await link.script(_PENDING, names, arguments)
    times = {entry_id.decode(): count for entry_id, count in pairs(told)}
    return Portion(times, deleted, next(reversed(times)) if more and times else None)
