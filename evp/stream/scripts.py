"""What the log must do in one step, as Lua. Each script says keys, arguments and answer.

Scripts are sent by their SHA-1 and loaded when the server doesn't know them
(EVALSHA, SCRIPT LOAD).
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final


class Script:
    """A Lua text and the digest the server knows it by."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


APPEND: Final = Script("""
-- Append a frame and count it.
-- KEYS stream, counters, index.  ARGV n, requests, bytes, then the entry's fields and values.
-- Answer: the entry id.  An error means that nothing was appended: XADD is the first to write,
-- so a full server fails there, and what comes after it can't make the answer an error.
local fields = {'events', 'bytes', 'frames', 'requests'}
local before = redis.call('HMGET', KEYS[2], unpack(fields))
local more, after = {ARGV[1], ARGV[3], 1, ARGV[2]}, {}
for i = 1, 4 do
  before[i] = tonumber(before[i]) or 0
  after[2 * i - 1] = fields[i]
  after[2 * i] = string.format('%.0f', before[i] + more[i])
end
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
local mark = {'XADD', KEYS[3], entry}
for i = 1, 2 do
  mark[#mark + 1] = fields[i]
  mark[#mark + 1] = string.format('%.0f', before[i])
end
if redis.pcall(unpack(mark)).err then
  -- The stream was deleted without its index, whose ids are of a time to come.
  redis.pcall('DEL', KEYS[3])
  redis.pcall(unpack(mark))
end
redis.pcall('HSET', KEYS[2], unpack(after))
return entry
""")

PROBE: Final = Script("""
-- How many elements an answer to XAUTOCLAIM has.  KEYS a key to try it with.
redis.call('XGROUP', 'CREATE', KEYS[1], 'probe', '0', 'MKSTREAM')
local elements = #redis.call('XAUTOCLAIM', KEYS[1], 'probe', 'probe', 0, '0')
redis.call('DEL', KEYS[1])
return elements
""")

CREATE_GROUP: Final = Script("""
-- Register a group's name, then create it at the beginning of the stream.
-- KEYS stream, groups.  ARGV group.  Answer: 1 if it was created, 0 if it was there.
redis.call('SADD', KEYS[2], ARGV[1])
local answer = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if answer.err then
  if string.find(answer.err, 'BUSYGROUP') then return 0 end
  return answer
end
return 1
""")

KEEP: Final = Script("""
-- Say that entries are still being worked on, as far as they are still this consumer's.
-- KEYS stream.  ARGV group, consumer, then entry ids.  Answer: the ids that are.
local mine = {}
for i = 3, #ARGV do
  local row = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if row and row[2] == ARGV[2] then mine[#mine + 1] = ARGV[i] end
end
if #mine > 0 then
  local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(mine)}
  claim[#claim + 1] = 'JUSTID'
  redis.call(unpack(claim))
end
return mine
""")

DELETE_CONSUMER: Final = Script("""
-- Delete a consumer that owns nothing: with it would go what is pending under its name.
-- KEYS stream, lease on the name.  ARGV group, consumer, least milliseconds since its last read.
-- Answer: 1 if it was deleted.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local row = {}
  for i = 1, #flat, 2 do row[flat[i]] = flat[i + 1] end
  if row.name == ARGV[2] and row.pending == 0 and row.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0
""")

RETIRE_EPOCHS: Final = Script("""
-- Mark epochs as over and known to the store, unless they have grown since. Of those that are
-- over, forget what is too old; and of too many, those first that never had a frame (seq 0:
-- nothing is proved by them), then those that were over longest ago.
-- KEYS servers: epoch -> 'seq events', 'seq events unknown', once over 'seq events unknown ms'.
-- ARGV ms to keep them, how many to keep, then epoch, seq, events, unknown, epoch, seq, …
-- Answer: how many were forgotten.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i = 3, #ARGV, 4 do
  local there = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local seq, unknown, retired = string.match(there, '^(%d+) %d+ ?(%d*) ?(%d*)$')
  local more = seq and tonumber(seq) - tonumber(ARGV[i + 1]) or -1
  if more == 0 then more = (tonumber(unknown) or 0) - tonumber(ARGV[i + 3]) end
  if more < 0 or (more == 0 and retired == '') then
    local row = {ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], string.format('%.0f', now)}
    -- A full log refuses it: whoever looks next marks it.
    redis.pcall('HSET', KEYS[1], ARGV[i], table.concat(row, ' '))
  end
end
local flat, rows, forgotten = redis.call('HGETALL', KEYS[1]), {}, 0
for i = 1, #flat, 2 do
  local seq, retired = string.match(flat[i + 1], '^(%d+) %d+ %d+ (%d+)$')
  if retired then rows[#rows + 1] = {tonumber(retired), flat[i], tonumber(seq) > 0} end
end
table.sort(rows, function(a, b)
  if a[3] ~= b[3] then return a[3] end
  if a[1] ~= b[1] then return a[1] > b[1] end
  return a[2] < b[2]
end)
for i, row in ipairs(rows) do
  if i > tonumber(ARGV[2]) or now - row[1] > tonumber(ARGV[1]) then
    forgotten = forgotten + redis.call('HDEL', KEYS[1], row[2])
  end
end
return forgotten
""")

SWAP_LEASE: Final = Script("""
-- Take a lease from the holder that was seen, extend an own one, or give it up.
-- KEYS lease.  ARGV seen holder, new holder, milliseconds (0: give up).  Answer: 1 if done.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
""")

RAISE_PARTITIONS: Final = Script("""
-- Note how many partitions there are, if that is more than ever before.
-- KEYS partitions.  ARGV count.  Answer: the most there ever were.
local known = tonumber(redis.call('GET', KEYS[1]) or '1')
local count = tonumber(ARGV[1])
if not known or count > known then
  redis.call('SET', KEYS[1], count)
  return count
end
return known
""")

POSITION: Final = Script("""
-- Where in the stream the first entry of a range stands, without sending its payload.
-- KEYS stream, index.  ARGV first id, last id.
-- Answer: {} or {entry id, events before it; '' if there is no frame at or after it}.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', 1)[1]
if not found then return {} end
local mark = redis.call('XRANGE', KEYS[2], found[1], '+', 'COUNT', 1)[1]
return {found[1], mark and mark[2][2] or ''}
""")

ORDER: Final = """
-- An entry id is two numbers of up to 64 bits, more than a Lua number holds: text, longer is more.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  if a_ms ~= b_ms then return less(a_ms, b_ms) end
  return less(a_seq, b_seq)
end
"""

GIVEN_TO: Final = """
-- The last id that was given to a group; nothing if there is no such group.
local function given_to(stream, name)
  if name == '' or redis.call('TYPE', stream).ok ~= 'stream' then return nil end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
    if group.name == name then return group['last-delivered-id'] end
  end
end
"""

_FLOORS = (
    ORDER
    + """
local function plus_one(digits)
  if digits == '18446744073709551615' then return nil end
  local head, last, nines = string.match(digits, '^(%d*)([0-8])(9*)$')
  if not last then return '1' .. string.rep('0', #digits) end
  return head .. (last + 1) .. string.rep('0', #nines)
end
local function successor(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  local next_seq = plus_one(seq)
  if next_seq then return ms .. '-' .. next_seq end
  local next_ms = plus_one(ms)
  return next_ms and next_ms .. '-0' or id
end

-- For every group that is registered or exists: its floor, the first id it may still need.
-- A registered group that does not exist may need everything.
local function floors(stream, registered)
  local found = {}
  for _, row in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #row, 2 do group[row[i]] = row[i + 1] end
    local floor = successor(group['last-delivered-id'])
    local pending = redis.call('XPENDING', stream, group.name, '-', '+', 1)[1]
    if pending and before(pending[1], floor) then floor = pending[1] end
    found[#found + 1] = {name = group.name, floor = floor, exists = 1, pending = pending}
    registered[group.name] = nil
  end
  for name in pairs(registered) do
    found[#found + 1] = {name = name, floor = '0-0', exists = 0}
  end
  return found
end

-- How many events and bytes were accepted before the first frame at or after an id, and that id.
local function position(index, counters, id)
  local mark = redis.call('XRANGE', index, id, '+', 'COUNT', 1)[1]
  if mark then
    return {id = mark[1], events = tonumber(mark[2][2]), bytes = tonumber(mark[2][4])}
  end
  local totals = redis.call('HMGET', counters, 'events', 'bytes')
  return {events = tonumber(totals[1] or 0), bytes = tonumber(totals[2] or 0)}
end

-- The group with the lowest floor, what it has still to do, and what of that waits for it alone.
local function lowest(groups, stream, index, counters)
  table.sort(groups, function(a, b)
    if a.floor ~= b.floor then return before(a.floor, b.floor) end
    return a.name < b.name
  end)
  local first = groups[1] or {name = '', floor = '0-0', exists = 0}
  local here, last = position(index, counters, first.floor), position(index, counters, '+')
  local next_one = groups[2] and position(index, counters, groups[2].floor) or last
  if not here.id then
    -- Only entries that are no frames can wait here.
    local plain = redis.call('XRANGE', stream, first.floor, '+', 'COUNT', 1)[1]
    here.id = plain and plain[1]
  end
  local function text(number) return string.format('%.0f', number) end
  return {
    floor = first.floor, at = here,
    told = {
      first.name, first.exists, here.id or '', text(last.events - here.events),
      text(last.bytes - here.bytes), text(next_one.bytes - here.bytes), text(last.events),
      text(here.events), text(here.bytes)
    }
  }
end

local function registered_in(key)
  local names = {}
  for _, name in ipairs(redis.call('SMEMBERS', key)) do names[name] = true end
  return names
end

local function now_ms()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end
"""
)

TRIM: Final = Script(
    _FLOORS
    + """
-- Remove from the stream's beginning what every group has done and retention does not keep.
-- KEYS stream, groups, counters, index.
-- ARGV retention ms, retention bytes, room in bytes (below 0: too little is free; '': not known),
--      most entries, then names of groups that must be there.
-- Answer: {entries removed, 1 if there is more to remove, now in ms, what `lowest` tells}; the
-- last one is missing where there is no stream or no group is registered: nothing is removed.
local function cut(key, id, most)
  -- Whole nodes first, which is quick and bounded; then what is left of one node.
  local removed = redis.call('XTRIM', key, 'MINID', '~', id, 'LIMIT', most)
  if removed * 2 >= most then return removed, 1 end
  return removed + redis.call('XTRIM', key, 'MINID', id), 0
end

local stream, index, now = KEYS[1], KEYS[4], now_ms()
local names = registered_in(KEYS[2])
for i = 5, #ARGV do
  -- Not added to the log's own list: the operator may be deleting this group just now.
  names[ARGV[i]] = true
end
if redis.call('TYPE', stream).ok ~= 'stream' or not next(names) then return {0, 0, now} end

local pin = lowest(floors(stream, names), stream, index, KEYS[3])
local retention_ms, allowed = tonumber(ARGV[1]), tonumber(ARGV[2])
local oldest = redis.call('XRANGE', index, '-', '+', 'COUNT', 1)[1]
local done = oldest and pin.at.bytes - tonumber(oldest[2][4]) or 0
if ARGV[3] ~= '' then allowed = math.min(allowed, done + tonumber(ARGV[3])) end

local target, more = pin.floor, 0
if allowed > 0 and retention_ms > 0 then
  local kept = string.format('%.0f-0', math.max(0, now - retention_ms))
  if done > allowed then
    local last = nil
    more = 1
    for _, mark in ipairs(redis.call('XRANGE', index, '-', '+', 'COUNT', 1000)) do
      last = mark[1]
      if pin.at.bytes - tonumber(mark[2][4]) <= allowed then more = 0 break end
    end
    if before(kept, last) then kept = last end
  end
  if before(kept, target) then target = kept end
end
local removed, unfinished = cut(stream, target, tonumber(ARGV[4]))
if unfinished == 0 then cut(index, target, tonumber(ARGV[4])) end
return {removed, math.max(more, unfinished), now, pin.told}
"""
)

BACKLOG: Final = Script(
    _FLOORS
    + """
-- What waits in the stream, and who else adds to it.
-- KEYS stream, groups, counters, index, serving.
-- ARGV this server process, how long a server counts as alive, ms (0: it goes).
-- Answer: {live servers, now in ms, what `lowest` tells}.
local now, most_ms = now_ms(), tonumber(ARGV[2])
if most_ms == 0 then
  redis.call('ZREM', KEYS[5], ARGV[1])
else
  -- A full server refuses this one; nobody may add to it anyway.
  redis.pcall('ZADD', KEYS[5], now, ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - most_ms)
end
local groups = {}
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  groups = floors(KEYS[1], registered_in(KEYS[2]))
end
local pin = lowest(groups, KEYS[1], KEYS[4], KEYS[3])
return {redis.call('ZCARD', KEYS[5]), now, pin.told}
"""
)

UNSETTLED: Final = Script(
    _FLOORS
    + """
-- What a group has not done with; everything if there is no such group.
-- KEYS stream, counters, index.  ARGV group.
-- Answer: {events at most, as text; 1 if there is any entry, plain ones too}.
local first, any = '0-0', 0
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  for _, group in ipairs(floors(KEYS[1], {})) do
    if group.name == ARGV[1] then
      first = group.floor
      if group.pending then any = 1 end
    end
  end
  if redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', 1)[1] then any = 1 end
end
local last = position(KEYS[3], KEYS[2], '+')
return {string.format('%.0f', last.events - position(KEYS[3], KEYS[2], first).events), any}
"""
)

CHANGE_API_KEYS: Final = Script("""
-- Change the copy of the API keys, if it is still the one that was seen.
-- KEYS api keys.  ARGV its version as seen ('' for none), its version from now on ('' for none),
-- how many fields and values follow, these, and then the fields to be removed.
-- Answer: 1, or 0 if somebody else has changed it: then nothing was done.
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
-- A removal needs no memory, and a script that has written is let go on: so a full server, too,
-- learns that a key is revoked. An append fails first and leaves such a server as it is.
redis.call('HDEL', KEYS[1], 'version')
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'version', ARGV[2]) end
local last = 3 + tonumber(ARGV[3])
for i = 4, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
return 1
""")
