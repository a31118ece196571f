"""What a verification asks of the log in one step, as Lua. See `evp.stream.scripts`."""

from __future__ import annotations

from typing import Final

from evp.stream.scripts import ORDER, Script

_ACKED = (
    ORDER
    + """
-- The last id that was given to a group; nothing if there is no such group.
local function given_to(stream, name)
  if name == '' or redis.call('TYPE', stream).ok ~= 'stream' then return nil end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
    if group.name == name then return group['last-delivered-id'] end
  end
end

-- Whether a group, which was given all up to an id, has done with an entry.
local function is_acked(stream, name, given, id)
  if not given or before(given, id) then return false end
  return #redis.call('XPENDING', stream, name, id, id, 1) == 0
end
"""
)

HEADERS: Final = Script(
    _ACKED
    + """
-- What entries hold, without their payload, and whether a group has acked them.
-- KEYS stream.
-- ARGV first id, last id, most entries, bytes after which no further one is looked at, group.
-- Answer: for each entry {entry id, frame id, srv, seq, n, 1 if it is acked}; empty texts where it
-- has no such field.
local given, answer, size, from = given_to(KEYS[1], ARGV[5]), {}, 0, ARGV[1]
while #answer < tonumber(ARGV[3]) and size < tonumber(ARGV[4]) do
  -- One by one: the next one may be as large as all others together.
  local entry = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', 1)[1]
  if not entry then break end
  local id, fields = entry[1], entry[2]
  local found = {id = '', srv = '', seq = '', n = ''}
  for i = 1, #fields, 2 do
    if found[fields[i]] then found[fields[i]] = fields[i + 1] end
    size = size + #fields[i] + #fields[i + 1]
  end
  local acked = is_acked(KEYS[1], ARGV[5], given, id) and 1 or 0
  answer[#answer + 1] = {id, found.id, found.srv, found.seq, found.n, acked}
  from = '(' .. id
end
return answer
"""
)

DELIVER_AGAIN: Final = Script(
    _ACKED
    + """
-- Make entries that a group has acked pending again, for whoever claims stale ones next.
-- KEYS stream.  ARGV group, consumer, idle ms, then entry ids.  Answer: how many are pending now.
local given, claim = given_to(KEYS[1], ARGV[1]), {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0}
local head = #claim
for i = 4, #ARGV do
  if is_acked(KEYS[1], ARGV[1], given, ARGV[i]) then claim[#claim + 1] = ARGV[i] end
end
if #claim == head then return 0 end
for _, word in ipairs({'IDLE', ARGV[3], 'FORCE', 'JUSTID'}) do claim[#claim + 1] = word end
return #redis.call(unpack(claim))
"""
)
