"""Where in the stream a group stands, or would stand, as Lua. See `evp.stream.scripts`.

A target is `-`, before the first entry; `+`, behind the last one there is; or a moment in
milliseconds by the log's clock: before the first entry of then or later.
"""

from __future__ import annotations

from typing import Final

from evp.stream.scripts import GIVEN_TO, ORDER, Script

_PLACES = (
    ORDER
    + """
-- The id up to which a group must have been given everything, so that a target comes next.
-- An id of an entry: one that is set in the future would pass over what is still to come.
local function place(stream, target)
  if target == '-' then return '0-0' end
  local upto = target == '+' and '+' or '(' .. target .. '-0'
  local last = redis.call('XREVRANGE', stream, upto, '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

-- The first entry behind an id; empty if there is none.
local function next_after(stream, id)
  local found = redis.call('XRANGE', stream, '(' .. id, '+', 'COUNT', 1)[1]
  return found and found[1] or ''
end

-- How many entries were ever added up to an id, by which XINFO tells the lag; -1: nobody knows.
-- All that were added less those behind the id. These are counted in the index, up to a bound,
-- if it has a mark for each entry and none of the entries was deleted.
local function entries_read(stream, index, id, most)
  if redis.call('TYPE', stream).ok ~= 'stream' then return -1 end
  local facts, flat = {}, redis.call('XINFO', 'STREAM', stream)
  for i = 1, #flat, 2 do facts[flat[i]] = flat[i + 1] end
  local first, from = next_after(stream, '0-0'), next_after(stream, id)
  if from == '' then return facts['entries-added'] end
  if not before(facts['max-deleted-entry-id'], first) then return -1 end
  if from == first then return facts['entries-added'] - facts.length end
  if redis.call('XLEN', index) ~= facts.length or next_after(index, '0-0') ~= first then
    return -1
  end
  local behind = #redis.call('XRANGE', index, from, '+', 'COUNT', most + 1)
  return behind <= most and facts['entries-added'] - behind or -1
end
"""
)

LOOK: Final = Script(
    _PLACES
    + GIVEN_TO
    + """
-- Where a group stands, and where it would stand at a target. Nothing is changed.
-- KEYS stream, counters, index.  ARGV group, target.
-- Answer: {} if there is no such group, else {now in ms, entries pending, the first of them or '',
-- events ever accepted, then three times an id, the first entry behind it or '', and how many
-- events were accepted before that one}: the beginning, where it stands, where it would stand.
local here = given_to(KEYS[1], ARGV[1])
if not here then return {} end
local accepted = redis.call('HGET', KEYS[2], 'events') or '0'
local clock, pending = redis.call('TIME'), redis.call('XPENDING', KEYS[1], ARGV[1])
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local answer = {now, pending[1], pending[2] or '', accepted}
for _, id in ipairs({'0-0', here, place(KEYS[1], ARGV[2])}) do
  local entry = next_after(KEYS[1], id)
  local mark = entry ~= '' and redis.call('XRANGE', KEYS[3], entry, '+', 'COUNT', 1)[1]
  answer[#answer + 1] = id
  answer[#answer + 1] = entry
  answer[#answer + 1] = mark and mark[2][2] or accepted
end
return answer
"""
)

SET_POSITION: Final = Script(
    _PLACES
    + GIVEN_TO
    + """
-- Set a group to another position, if nothing has changed since it was looked at: the group was
-- given nothing more, and what would come next is still there. From then on no trim passes it.
-- KEYS stream, index.  ARGV group, the id it stands at, the id to set, the first entry behind
-- that one ('' if there was none), how many entries may be counted.
-- Answer: 1, or 0 if something has changed: then nothing was done.
if given_to(KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[4] ~= '' and next_after(KEYS[1], ARGV[3]) ~= ARGV[4] then return 0 end
local read = entries_read(KEYS[1], KEYS[2], ARGV[3], tonumber(ARGV[5]))
local count = string.format('%.0f', read)
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[3], 'ENTRIESREAD', count)
return 1
"""
)

CREATE_AT: Final = Script(
    _PLACES
    + """
-- Register a group's name, then create it at a target.
-- KEYS stream, groups, index.  ARGV group, target, how many entries may be counted.
-- Answer: 1 if it was created, 0 if it was there.
redis.call('SADD', KEYS[2], ARGV[1])
local id = place(KEYS[1], ARGV[2])
local count = string.format('%.0f', entries_read(KEYS[1], KEYS[3], id, tonumber(ARGV[3])))
local create = {'XGROUP', 'CREATE', KEYS[1], ARGV[1], id, 'MKSTREAM', 'ENTRIESREAD', count}
local answer = redis.pcall(unpack(create))
if answer.err then
  if string.find(answer.err, 'BUSYGROUP') then return 0 end
  return answer
end
return 1
"""
)
