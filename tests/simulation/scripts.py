"""Twins of evp's scripts: what each does in a simulated log's memory, in Python.

`test_log.py` gives both the same things to do, the twin here and the Lua on a real server,
and holds their answers against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evp.stream import portions, scripts
from evp.stream.header_scripts import CARRIERS, DELIVER_AGAIN, HEADERS
from tests.simulation.commands import consumers_of
from tests.simulation.memory import (
    HIGHEST,
    LOWEST,
    Flat,
    Group,
    Id,
    Memory,
    Pending,
    bound,
    id_of,
    pairs_of,
    text_of,
)

Twin = Callable[[Memory, Sequence[bytes], Sequence[bytes]], Any]
"""Does what a script does; takes its KEYS and ARGV, returns its answer, raises Refused."""

_COUNTED = (b"events", b"bytes", b"frames", b"requests")


def append(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> bytes:
    """APPEND: an entry, its mark in the index, the counters."""
    stream, index, counters = memory.stream(keys[0]), memory.stream(keys[2]), memory.hash(keys[1])
    before = [int(counters.get(name, b"0")) for name in _COUNTED]
    more = (int(argv[0]), int(argv[2]), 1, int(argv[1]))
    id_ = stream.next_id(memory.now_ms())
    stream.add(id_, list(argv[3:]))
    mark = [b"events", b"%d" % before[0], b"bytes", b"%d" % before[1]]
    if id_ <= index.last:
        # The stream was deleted without its index, whose ids are of a time to come.
        memory.remove(keys[2])
        index = memory.stream(keys[2])
    index.add(id_, mark)
    for name, was, added in zip(_COUNTED, before, more, strict=True):
        counters[name] = b"%d" % (was + added)
    return text_of(id_)


def _create_group(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    memory.sets.setdefault(keys[1], set()).add(argv[0])
    groups = memory.stream(keys[0]).groups
    if argv[0] in groups:
        return 0
    groups[argv[0]] = Group(LOWEST)
    return 1


def _keep(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> Flat:
    mine = []
    for text in argv[2:]:
        row = memory.group(keys[0], argv[0]).pending.get(id_of(text))
        if row is not None and row.consumer == argv[1]:
            mine.append(text)
    if mine:
        memory.claim(keys[0], argv[0], argv[1], map(id_of, mine), counted=False)
    return mine


def _delete_consumer(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    if memory.text(keys[1]) is not None:
        return 0
    group = memory.group(keys[0], argv[0])
    for flat in consumers_of(memory, group):
        row = pairs_of(flat)
        may_go = row[b"pending"] == 0 and row[b"idle"] >= int(argv[2])
        if row[b"name"] == argv[1] and may_go:
            del group.consumers[argv[1]]
            return 1
    return 0


def _swap_lease(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    if memory.text(keys[0]) != argv[0]:
        return 0
    if argv[2] == b"0":
        memory.remove(keys[0])
    else:
        memory.set_text(keys[0], argv[1], int(argv[2]))
    return 1


def _retire_epochs(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    """Marks only: a simulation is too short for anything to be forgotten."""
    servers = memory.hash(keys[0])
    for name, seq, events, unknown in zip(*(argv[2 + part :: 4] for part in range(4)), strict=True):
        words = servers.get(name, b"").split()
        more = int(words[0]) - int(seq) if words else -1
        if more == 0:
            more = (int(words[2]) if len(words) > 2 else 0) - int(unknown)
        if more < 0 or (more == 0 and len(words) < 4):
            servers[name] = b" ".join((seq, events, unknown, b"%d" % memory.now_ms()))
    return 0


def _raise_partitions(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    known, count = int(memory.text(keys[0]) or b"1"), int(argv[0])
    if count > known:
        memory.set_text(keys[0], argv[0])
    return max(known, count)


# Where a group stands.


def _floor(group: Group) -> Id:
    after = (group.last[0], group.last[1] + 1)
    return min([after, *group.pending])


def _position(memory: Memory, keys: Sequence[bytes], id_: Id) -> tuple[Id | None, int, int]:
    """Return (the first mark from an id on, events before it, bytes before it)."""
    counters, index = keys
    found = memory.stream(index).range(id_, HIGHEST, 1)
    if found:
        mark = pairs_of(found[0][1])
        return found[0][0], int(mark[b"events"]), int(mark[b"bytes"])
    totals = memory.hash(counters)
    return None, int(totals.get(b"events", b"0")), int(totals.get(b"bytes", b"0"))


def _lowest(
    memory: Memory, stream: bytes, index: bytes, counters: bytes, names: set[bytes]
) -> tuple[Id, int, list[Any]]:
    """Return (the lowest floor, bytes before it, what is told of the group it belongs to)."""
    known = memory.streams[stream].groups if stream in memory.streams else {}
    floors = [(_floor(group), name, 1) for name, group in known.items()]
    floors += [(LOWEST, name, 0) for name in names if name not in known]
    floors.sort()
    floor, name, exists = floors[0] if floors else (LOWEST, b"", 0)
    at, events, size = _position(memory, (counters, index), floor)
    totals = _position(memory, (counters, index), HIGHEST)
    behind = _position(memory, (counters, index), floors[1][0]) if floors[1:] else totals
    if at is None and stream in memory.streams:
        plain = memory.streams[stream].range(floor, HIGHEST, 1)
        at = plain[0][0] if plain else None
    numbers = (totals[1] - events, totals[2] - size, behind[2] - size, totals[1], events, size)
    told = [name, exists, b"" if at is None else text_of(at), *(b"%d" % one for one in numbers)]
    return floor, size, told


def trim(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> list[Any]:
    """TRIM: what every group has done and retention does not keep."""
    stream, groups, counters, index = keys
    now_ms = memory.now_ms()
    names = memory.sets.get(groups, set()) | set(argv[4:])
    if stream not in memory.streams or not names:
        return [0, 0, now_ms]
    floor, size, told = _lowest(memory, stream, index, counters, names)
    marks = memory.stream(index).range(LOWEST, HIGHEST)
    sizes = [(id_, int(pairs_of(flat)[b"bytes"])) for id_, flat in marks]
    done = size - sizes[0][1] if sizes else 0
    retention_ms, allowed = int(argv[0]), int(argv[1])
    if argv[2]:
        allowed = min(allowed, done + int(argv[2]))
    target, more = floor, 0
    if allowed > 0 and retention_ms > 0:
        kept: Id = (max(0, now_ms - retention_ms), 0)
        if done > allowed:
            more, last = 1, LOWEST
            for id_, before in sizes[:1000]:
                last = id_
                if size - before <= allowed:
                    more = 0
                    break
            kept = max(kept, last)
        target = min(kept, target)
    removed = memory.trim(stream, target)
    memory.trim(index, target)
    return [len(removed), more, now_ms, told]


def _backlog(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> list[Any]:
    now_ms, most_ms = memory.now_ms(), int(argv[1])
    serving = memory.scores.setdefault(keys[4], {})
    if most_ms:
        serving[argv[0]] = now_ms
        for name in [name for name, at_ms in serving.items() if at_ms <= now_ms - most_ms]:
            del serving[name]
    else:
        serving.pop(argv[0], None)
    names = memory.sets.get(keys[1], set()) if keys[0] in memory.streams else set()
    _, _, told = _lowest(memory, keys[0], keys[3], keys[2], names)
    return [len(serving), now_ms, told]


# Reading: how much of it at once.


def _fitting(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    stream = memory.streams.get(keys[0])
    if stream is None or argv[0] not in stream.groups:
        return 0
    frames, most_bytes = int(argv[1]), int(argv[2])
    after = stream.groups[argv[0]].last
    marks = memory.stream(keys[1]).range((after[0], after[1] + 1), HIGHEST, frames + 1)
    if not marks:
        return 0
    before = [int(pairs_of(flat)[b"bytes"]) for _, flat in marks]
    ends = before[1:]
    if len(marks) <= frames:
        ends.append(int(memory.hash(keys[2]).get(b"bytes", b"0")))
    for place, end in enumerate(ends):
        if end - before[0] > most_bytes:
            return max(1, place)
    return frames


def _size_of(memory: Memory, keys: Sequence[bytes], id_: Id) -> int:
    marks = memory.stream(keys[1]).range(id_, HIGHEST, 2)
    if marks and marks[0][0] == id_:
        behind = (
            pairs_of(marks[1][1])[b"bytes"]
            if marks[1:]
            else memory.hash(keys[2]).get(b"bytes", b"0")
        )
        return max(0, int(behind) - int(pairs_of(marks[0][1])[b"bytes"]))
    return sum(map(len, memory.streams[keys[0]].entries.get(id_, ())))


def _portion(
    memory: Memory, keys: Sequence[bytes], rows: list[tuple[Id, Pending]], most: int, limit: int
) -> tuple[list[Id], list[Any], int]:
    """Return what has at most so many bytes: ids, {id, times delivered, …}, 1 if more may come."""
    ids: list[Id] = []
    told: list[Any] = []
    size = 0
    for id_, row in rows:
        size += _size_of(memory, keys, id_)
        if ids and size > limit:
            break
        ids.append(id_)
        told += [text_of(id_), row.times]
    return ids, told, int(len(ids) < len(rows) or len(rows) == most)


def _own(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> list[Any]:
    group, most = memory.group(keys[0], argv[0]), int(argv[2])
    rows = group.rows(bound(b"(" + argv[4]), HIGHEST, most, argv[1])
    _, told, more = _portion(memory, keys, rows, most, int(argv[3]))
    return [told, more]


def _stale(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> list[Any]:
    group, most, since_ms = memory.group(keys[0], argv[0]), int(argv[2]), memory.now_ms()
    since_ms -= int(argv[5])
    rows = [
        (id_, one)
        for id_, one in group.rows(bound(b"(" + argv[4]), HIGHEST, len(group.pending))
        if one.since_ms <= since_ms
    ][:most]
    ids, told, more = _portion(memory, keys, rows, most, int(argv[3]))
    taken = memory.claim(keys[0], argv[0], argv[1], ids) if ids else []
    return [told, more, [[text_of(id_), list(flat)] for id_, flat in taken]]


# What verify asks.


def _acked(group: Group | None, id_: Id) -> bool:
    return group is not None and id_ <= group.last and id_ not in group.pending


def _headers(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> list[Any]:
    """Without the bound in bytes, which no simulated page reaches."""
    stream = memory.streams.get(keys[0])
    if stream is None:
        return []
    group = stream.groups.get(argv[4])
    rows: list[Any] = []
    for id_, flat in stream.range(bound(argv[0]), bound(argv[1], upper=True), int(argv[2])):
        fields = pairs_of(flat)
        told = [fields.get(name, b"") for name in (b"id", b"srv", b"seq", b"n")]
        rows.append([text_of(id_), *told, int(_acked(group, id_))])
    return rows


def _carriers(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> bytes:
    stream = memory.streams.get(keys[0])
    flat = stream.entries.get(id_of(argv[0]), []) if stream is not None else []
    docs: bytes = pairs_of(flat).get(b"docs", b"")
    return docs if len(docs) <= int(argv[1]) else b""


def _deliver_again(memory: Memory, keys: Sequence[bytes], argv: Sequence[bytes]) -> int:
    stream = memory.streams.get(keys[0])
    group = stream.groups.get(argv[0]) if stream is not None else None
    ids = [id_ for id_ in map(id_of, argv[3:]) if _acked(group, id_)]
    if not ids:
        return 0
    idle_ms = int(argv[2])
    found = memory.claim(keys[0], argv[0], argv[1], ids, idle_ms=idle_ms, counted=False, force=True)
    return len(found)


TWINS: dict[bytes, tuple[str, Twin]] = {
    script.digest.encode(): (name, twin)
    for script, name, twin in (
        (scripts.APPEND, "append", append),
        (scripts.PROBE, "probe", lambda _memory, _keys, _argv: 3),
        (scripts.CREATE_GROUP, "create group", _create_group),
        (scripts.KEEP, "keep", _keep),
        (scripts.DELETE_CONSUMER, "delete consumer", _delete_consumer),
        (scripts.RETIRE_EPOCHS, "retire epochs", _retire_epochs),
        (scripts.SWAP_LEASE, "swap lease", _swap_lease),
        (scripts.RAISE_PARTITIONS, "raise partitions", _raise_partitions),
        (scripts.TRIM, "trim", trim),
        (scripts.BACKLOG, "backlog", _backlog),
        (portions._FITTING, "fitting", _fitting),
        (portions._OWN, "own", _own),
        (portions._STALE, "stale", _stale),
        (HEADERS, "headers", _headers),
        (CARRIERS, "carriers", _carriers),
        (DELIVER_AGAIN, "deliver again", _deliver_again),
    )
}
"""By digest: what a script is called in a trace, and its twin."""
