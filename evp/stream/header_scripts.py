"""What a verification asks of the log in one step, as Lua. See `evp.stream.scripts`."""

from __future__ import annotations

from typing import Final

from evp.stream.scripts import GIVEN_TO, ORDER, Script

_ACKED = (
    ORDER
    + GIVEN_TO
    + """
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
-- How many of the next entries may be gone through at once. Each mark of the index tells how many
-- bytes were before its frame; entries without a mark are of other programs, and of any size.
local function fitting(index, first, last, most, bytes)
  if most == 1 then return 1 end
  local marks = redis.call('XRANGE', index, first, last, 'COUNT', most + 1)
  for i = 2, #marks do
    if marks[i][2][4] - marks[1][2][4] > bytes then return math.max(1, i - 2) end
  end
  return #marks > 0 and most or math.min(most, 16)
end

-- What entries hold, without their payload, and whether a group has acked them.
-- KEYS stream, index.  ARGV first id, last id, most entries, most bytes, group.
-- Answer: for each entry {entry id, frame id, srv, seq, n, 1 if it is acked}; empty texts where it
-- has no such field. At least one, if there is one.
local first, last, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local given, answer = given_to(KEYS[1], ARGV[5]), {}
most = fitting(KEYS[2], first, last, most, tonumber(ARGV[4]))
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], first, last, 'COUNT', most)) do
  local found, fields = {id = '', srv = '', seq = '', n = ''}, entry[2]
  for i = 1, #fields, 2 do
    if found[fields[i]] then found[fields[i]] = fields[i + 1] end
  end
  local acked = is_acked(KEYS[1], ARGV[5], given, entry[1]) and 1 or 0
  answer[#answer + 1] = {entry[1], found.id, found.srv, found.seq, found.n, acked}
end
return answer
"""
)

CARRIERS: Final = Script(
    """
-- The carriers in an entry, unless they are larger than told.
-- KEYS stream.  ARGV entry id, most bytes.  Answer: the field `docs`, or an empty text.
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
local fields = entry and entry[2] or {}
for i = 1, #fields, 2 do
  if fields[i] == 'docs' and #fields[i + 1] <= tonumber(ARGV[2]) then return fields[i + 1] end
end
return ''
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
