"""How many events a group was given and has not acked.

A worker that hangs holds one entry while others go on: what lies behind that one is not
pending, so entries are counted each by itself as long as there are few.
"""

from __future__ import annotations

from typing import Final

from evp.limits import PENDING_ENTRIES_COUNTED_MAX
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.scripts import Script

_COUNT: Final = Script("""
-- How many events those entries hold that a group was given and has not acked.
-- KEYS stream, counters, index.  ARGV group, how many entries at most.
-- Answer: events, a plain entry being one; -1 if there are more entries.
local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[2] + 1)
if #rows > tonumber(ARGV[2]) then return -1 end
local accepted, events = redis.call('HGET', KEYS[2], 'events') or 0, 0
for _, row in ipairs(rows) do
  local marks = redis.call('XRANGE', KEYS[3], row[1], '+', 'COUNT', 2)
  if marks[1] and marks[1][1] == row[1] then
    events = events + (marks[2] and marks[2][2][2] or accepted) - marks[1][2][2]
  else
    events = events + 1
  end
end
return events
""")


async def pending_events(link: Link, keys: Keys, group: str | bytes) -> int | None:
    """Return how many events are pending; None if there are too many entries to count.

    Raises LogUnavailable.
    """
    names = (keys.stream, keys.counters, keys.index)
    counted = int(await link.script(_COUNT, names, (group, PENDING_ENTRIES_COUNTED_MAX)))
    return counted if counted >= 0 else None
