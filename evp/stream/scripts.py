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
