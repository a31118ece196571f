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
-- KEYS stream, counters.  ARGV n, requests, bytes, then the entry's fields and values.
-- Answer: the entry id.
-- XADD comes before the counters: on a full server it fails and nothing was counted.
local at = tonumber(redis.call('HGET', KEYS[2], 'events') or '0') + tonumber(ARGV[1])
local entry = redis.call('XADD', KEYS[1], '*', 'at', string.format('%.0f', at), unpack(ARGV, 4))
redis.call('HINCRBY', KEYS[2], 'events', ARGV[1])
redis.call('HINCRBY', KEYS[2], 'frames', 1)
redis.call('HINCRBY', KEYS[2], 'requests', ARGV[2])
redis.call('HINCRBY', KEYS[2], 'bytes', ARGV[3])
return entry
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

FORGET_EPOCHS: Final = Script("""
-- Remove records of epochs that are still the ones that were seen.
-- KEYS servers.  ARGV epoch, its record, epoch, its record, …  Answer: how many were removed.
local removed = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    removed = removed + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return removed
""")

SWAP_LEASE: Final = Script("""
-- Take a lease from the holder that was seen, extend an own one, or give it up.
-- KEYS lease.  ARGV seen holder, new holder, milliseconds (0: give up).  Answer: 1 if done.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
""")

HEADERS: Final = Script("""
-- What entries hold, without their payload.
-- KEYS stream.  ARGV first id, last id, count.
-- Answer: for each entry {entry id, frame id, srv, seq, n}; empty texts where it has no such field.
local answer = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  local found = {id = '', srv = '', seq = '', n = ''}
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if found[fields[i]] then found[fields[i]] = fields[i + 1] end
  end
  answer[#answer + 1] = {entry[1], found.id, found.srv, found.seq, found.n}
end
return answer
""")

POSITION: Final = Script("""
-- Where in the stream a group stands, in events, without sending payloads.
-- KEYS stream.  ARGV first id, last id.
-- Answer: {} or {entry id, its `at` or '', its `n` or ''} of the first entry in that range.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', 1)
if #found == 0 then return {} end
local at, n = '', ''
local fields = found[1][2]
for i = 1, #fields, 2 do
  if fields[i] == 'at' then at = fields[i + 1] elseif fields[i] == 'n' then n = fields[i + 1] end
end
return {found[1][1], at, n}
""")

BACKLOG: Final = Script("""
-- How many events of the stream a group is not known to have done with, at most.
-- KEYS stream, counters.  ARGV group, how many entries to look at.
-- Answer: a number; -1 if none of those entries has a running count.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local first = '-'
for _, facts in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #facts, 2 do group[facts[i]] = facts[i + 1] end
  if group['name'] == ARGV[1] then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
    first = pending[1] > 0 and pending[2] or '(' .. group['last-delivered-id']
  end
end
for _ = 1, ARGV[2] do
  local entry = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', 1)[1]
  if not entry then return 0 end
  local at, n
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'at' then at = tonumber(entry[2][i + 1]) end
    if entry[2][i] == 'n' then n = tonumber(entry[2][i + 1]) end
  end
  if at and n then
    return tonumber(redis.call('HGET', KEYS[2], 'events') or '0') - at + n
  end
  first = '(' .. entry[1]
end
return -1
""")
