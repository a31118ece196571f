"""The commands that evp sends, done in a simulated log's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.memory import (
    Flat,
    Group,
    Id,
    Memory,
    Refused,
    bound,
    id_of,
    text_of,
)

Command = Callable[[Memory, Sequence[bytes]], Any]
"""Carries out a command; the second argument is what comes behind its name."""

_UNDERSTOOD = {b"appendonly": b"yes", b"appendfsync": b"always", b"maxmemory-policy": b"noeviction"}
_INFO = b"used_memory:1000000\r\nmaxmemory:1000000000\r\ntotal_system_memory:1000000000\r\n"
_NO_STREAM = "ERR no such key"


def carry_out(memory: Memory, words: Sequence[bytes]) -> Any:
    """Return the reply to a command that is no script. Raises Refused."""
    command = COMMANDS.get(words[0].upper())
    if command is None:
        raise Refused(f"ERR unknown command {words[0]!r}: not simulated")
    return command(memory, words[1:])


def _xadd(memory: Memory, words: Sequence[bytes]) -> bytes:
    stream = memory.stream(words[0])
    id_ = stream.next_id(memory.now_ms()) if words[1] == b"*" else id_of(words[1])
    stream.add(id_, list(words[2:]))
    return text_of(id_)


def _xack(memory: Memory, words: Sequence[bytes]) -> int:
    stream = memory.streams.get(words[0])
    group = None if stream is None else stream.groups.get(words[1])
    if group is None:
        return 0
    return sum(group.pending.pop(id_of(one), None) is not None for one in words[2:])


def _xrange(memory: Memory, words: Sequence[bytes]) -> list[Any]:
    most = int(words[4]) if len(words) > 3 else None
    if words[0] not in memory.streams:
        return []
    found = memory.streams[words[0]].range(bound(words[1]), bound(words[2], upper=True), most)
    return [_entry(*one) for one in found]


def _xpending(memory: Memory, words: Sequence[bytes]) -> list[Any]:
    """The long form alone: first id, last id, most entries, and perhaps a consumer."""
    group, now_ms = memory.group(words[0], words[1]), memory.now_ms()
    first, last = bound(words[2]), bound(words[3], upper=True)
    consumer = words[5] if len(words) > 5 else None
    rows = group.rows(first, last, int(words[4]), consumer)
    return [[text_of(id_), one.consumer, now_ms - one.since_ms, one.times] for id_, one in rows]


def _xclaim(memory: Memory, words: Sequence[bytes]) -> list[Any]:
    if int(words[3]):
        raise Refused("ERR a least idle time is not simulated")
    ids: list[Id] = []
    idle_ms, counted = 0, True
    rest = list(words[4:])
    while rest:
        word = rest.pop(0)
        if word == b"IDLE":
            idle_ms = int(rest.pop(0))
        elif word == b"JUSTID":
            counted = False
        else:
            ids.append(id_of(word))
    found = memory.claim(words[0], words[1], words[2], ids, idle_ms=idle_ms, counted=counted)
    return [_entry(*one) if counted else text_of(one[0]) for one in found]


def _xreadgroup(memory: Memory, words: Sequence[bytes]) -> list[Any] | None:
    """GROUP group consumer COUNT n [BLOCK ms] STREAMS key id; None if there is nothing new."""
    key, after = words[-2], words[-1]
    since = None if after == b">" else id_of(after)
    found = memory.deliver(key, words[1], words[2], since, int(words[4]))
    if not found and since is None:
        return None
    return [[key, [_entry(*one) for one in found]]]


def _xgroup(memory: Memory, words: Sequence[bytes]) -> int:
    if words[0] != b"DESTROY":
        raise Refused(f"ERR XGROUP {words[0]!r} is not simulated")
    if words[1] not in memory.streams:
        raise Refused("ERR The XGROUP subcommand requires the key to exist.")
    return int(memory.streams[words[1]].groups.pop(words[2], None) is not None)


def _xinfo(memory: Memory, words: Sequence[bytes]) -> list[Any]:
    stream = memory.streams.get(words[1])
    if stream is None:
        raise Refused(_NO_STREAM)
    if words[0] == b"GROUPS":
        return [_group(name, group) for name, group in sorted(stream.groups.items())]
    group = memory.group(words[1], words[2])
    return consumers_of(memory, group)


def consumers_of(memory: Memory, group: Group) -> list[Any]:
    """Return what XINFO tells of a group's consumers."""
    now_ms = memory.now_ms()
    rows = []
    for name, seen_ms in sorted(group.consumers.items()):
        pending = sum(one.consumer == name for one in group.pending.values())
        rows.append([b"name", name, b"pending", pending, b"idle", now_ms - seen_ms])
    return rows


def _group(name: bytes, group: Group) -> list[Any]:
    facts = [b"name", name, b"consumers", len(group.consumers), b"pending", len(group.pending)]
    return [*facts, b"last-delivered-id", text_of(group.last)]


def _set(memory: Memory, words: Sequence[bytes]) -> bytes | None:
    options = list(words[2:])
    if b"NX" in options and memory.text(words[0]) is not None:
        return None
    lasts_ms = None
    for name, unit_ms in ((b"PX", 1), (b"EX", 1000)):
        if name in options:
            lasts_ms = int(options[options.index(name) + 1]) * unit_ms
    memory.set_text(words[0], words[1], lasts_ms)
    return b"OK"


def _hset(memory: Memory, words: Sequence[bytes]) -> int:
    fields = memory.hash(words[0])
    more = dict(zip(words[1::2], words[2::2], strict=True))
    fresh = len(more.keys() - fields.keys())
    fields.update(more)
    return fresh


def _hgetall(memory: Memory, words: Sequence[bytes]) -> Flat:
    return [item for pair in memory.hashes.get(words[0], {}).items() for item in pair]


def _time(memory: Memory, _words: Sequence[bytes]) -> list[bytes]:
    now_ms = memory.now_ms()
    return [b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)]


def _srem(memory: Memory, words: Sequence[bytes]) -> int:
    members = memory.sets.get(words[0], set())
    gone = members & set(words[1:])
    members -= gone
    return len(gone)


COMMANDS: dict[bytes, Command] = {
    b"XADD": _xadd,
    b"XACK": _xack,
    b"XRANGE": _xrange,
    b"XPENDING": _xpending,
    b"XCLAIM": _xclaim,
    b"XREADGROUP": _xreadgroup,
    b"XGROUP": _xgroup,
    b"XINFO": _xinfo,
    b"GET": lambda memory, words: memory.text(words[0]),
    b"SET": _set,
    b"EXISTS": lambda memory, words: int(memory.text(words[0]) is not None),
    b"HSET": _hset,
    b"HGET": lambda memory, words: memory.hashes.get(words[0], {}).get(words[1]),
    b"HGETALL": _hgetall,
    b"SMEMBERS": lambda memory, words: sorted(memory.sets.get(words[0], set())),
    b"SREM": _srem,
    b"TIME": _time,
    b"ROLE": lambda _memory, _words: [b"master", 0, []],
    b"INFO": lambda _memory, _words: _INFO,
    b"CONFIG": lambda _memory, _words: [item for pair in _UNDERSTOOD.items() for item in pair],
    b"COMMAND": lambda _memory, words: [[name] for name in words[1:]],
    b"WAITAOF": lambda _memory, _words: [1, 0],
}
"""By name; those of the settings and of durability say that all is well."""


def _entry(id_: Id, flat: Flat | None) -> list[Any]:
    return [text_of(id_), None if flat is None else list(flat)]
