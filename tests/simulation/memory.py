"""What a log server has in memory: streams with their groups, and plain keys.

Only what evp uses of Redis or Valkey, as they do it; `test_log.py` holds it against a real
one. Ids are pairs of numbers; whatever a client gives or gets is bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Id = tuple[int, int]
Flat = list[bytes]

LOWEST: Id = (0, 0)
HIGHEST: Id = (2**64 - 1, 2**64 - 1)


class Refused(Exception):
    """An error reply; the text begins with its code."""


class Pending:
    """An entry that was delivered and not acked: to whom, when, how often."""

    __slots__ = ("consumer", "since_ms", "times")

    def __init__(self, consumer: bytes, since_ms: int, times: int) -> None:
        self.consumer = consumer
        self.since_ms = since_ms
        self.times = times


class Group:
    """A consumer group. `consumers` have the moment at which they last read."""

    def __init__(self, last: Id) -> None:
        self.last = last
        self.pending: dict[Id, Pending] = {}
        self.consumers: dict[bytes, int] = {}

    def copy(self) -> Group:
        """Return one that changes by itself."""
        other = Group(self.last)
        other.pending = {
            id_: Pending(one.consumer, one.since_ms, one.times) for id_, one in self.pending.items()
        }
        other.consumers = dict(self.consumers)
        return other

    def rows(
        self, first: Id, last: Id, most: int, consumer: bytes | None = None
    ) -> list[tuple[Id, Pending]]:
        """Return pending entries in order, XPENDING's long form."""
        found = []
        for id_ in sorted(self.pending):
            one = self.pending[id_]
            if first <= id_ <= last and consumer in {None, one.consumer}:
                found.append((id_, one))
                if len(found) == most:
                    break
        return found


class Stream:
    """Entries in the order of their ids, and the groups that read them."""

    def __init__(self) -> None:
        self.entries: dict[Id, Flat] = {}
        self.last: Id = LOWEST
        self.groups: dict[bytes, Group] = {}

    def copy(self) -> Stream:
        """Return one that changes by itself; entries never change."""
        other = Stream()
        other.entries = dict(self.entries)
        other.last = self.last
        other.groups = {name: group.copy() for name, group in self.groups.items()}
        return other

    def add(self, id_: Id, flat: Flat) -> None:
        """Append an entry (XADD)."""
        if id_ <= self.last:
            raise Refused(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item"
            )
        self.entries[id_] = flat
        self.last = id_

    def next_id(self, now_ms: int) -> Id:
        """Return the id that `*` stands for."""
        return (now_ms, 0) if now_ms > self.last[0] else (self.last[0], self.last[1] + 1)

    def range(self, first: Id, last: Id, most: int | None = None) -> list[tuple[Id, Flat]]:
        """Return entries in order (XRANGE)."""
        found = []
        for id_, flat in self.entries.items():
            if id_ > last:
                break
            if id_ >= first:
                found.append((id_, flat))
                if len(found) == most:
                    break
        return found

    def trim(self, first: Id) -> list[Id]:
        """Remove what is before an id (XTRIM MINID); return it."""
        gone = [id_ for id_ in self.entries if id_ < first]
        for id_ in gone:
            del self.entries[id_]
        return gone


class Memory:
    """All keys of a server. `now_ms` is its clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.streams: dict[bytes, Stream] = {}
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.sets: dict[bytes, set[bytes]] = {}
        self.scores: dict[bytes, dict[bytes, float]] = {}
        self.reached: dict[bytes, int] = {}
        """The most that was ever recorded of an epoch here, whatever its record says since."""
        self._texts: dict[bytes, tuple[bytes, int | None]] = {}

    def copy(self) -> Memory:
        """Return a memory that changes by itself."""
        other = Memory(self.now_ms)
        other.streams = {key: stream.copy() for key, stream in self.streams.items()}
        other.hashes = {key: dict(fields) for key, fields in self.hashes.items()}
        other.sets = {key: set(members) for key, members in self.sets.items()}
        other.scores = {key: dict(members) for key, members in self.scores.items()}
        other.reached = dict(self.reached)
        other._texts = dict(self._texts)
        return other

    def group(self, key: bytes, name: bytes) -> Group:
        """Return a group. Refuses with NOGROUP where there is none."""
        stream = self.streams.get(key)
        if stream is None or name not in stream.groups:
            raise Refused(f"NOGROUP No such key '{key!r}' or consumer group '{name!r}'")
        return stream.groups[name]

    def stream(self, key: bytes) -> Stream:
        """Return a stream, made where there is none."""
        return self.streams.setdefault(key, Stream())

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        """Return a hash, made where there is none."""
        return self.hashes.setdefault(key, {})

    def text(self, key: bytes) -> bytes | None:
        """Return a text (GET); None if there is none, or its time is over."""
        value, ends_at_ms = self._texts.get(key, (None, None))
        if ends_at_ms is not None and self.now_ms() >= ends_at_ms:
            del self._texts[key]
            return None
        return value

    def set_text(self, key: bytes, value: bytes, lasts_ms: int | None = None) -> None:
        """Set a text (SET), for a while or for good."""
        self._texts[key] = (value, None if lasts_ms is None else self.now_ms() + lasts_ms)

    def remove(self, key: bytes) -> None:
        """Remove a key, whatever it holds."""
        kinds: tuple[dict[bytes, Any], ...] = (self.streams, self.hashes, self.sets, self.scores)
        for keys in (*kinds, self._texts):
            keys.pop(key, None)

    def deliver(
        self, key: bytes, name: bytes, consumer: bytes, after: Id | None, most: int
    ) -> list[tuple[Id, Flat | None]]:
        """Read by a group (XREADGROUP): new entries, or own pending ones after an id."""
        group, now_ms = self.group(key, name), self.now_ms()
        group.consumers[consumer] = now_ms
        entries = self.streams[key].entries
        if after is not None:
            rows = group.rows((after[0], after[1] + 1), HIGHEST, most, consumer)
            for _, one in rows:
                one.since_ms, one.times = now_ms, one.times + 1
            return [(id_, entries.get(id_)) for id_, _ in rows]
        found = self.streams[key].range((group.last[0], group.last[1] + 1), HIGHEST, most)
        for id_, _ in found:
            group.pending[id_] = Pending(consumer, now_ms, 1)
            group.last = id_
        return list(found)

    def claim(
        self,
        key: bytes,
        name: bytes,
        consumer: bytes,
        ids: Iterable[Id],
        *,
        idle_ms: int = 0,
        counted: bool = True,
        force: bool = False,
    ) -> list[tuple[Id, Flat]]:
        """Give pending entries to a consumer (XCLAIM with a least idle time of 0).

        What the log no longer has leaves the list of what is pending.
        """
        group, entries = self.group(key, name), self.streams[key].entries
        group.consumers[consumer] = self.now_ms()
        found = []
        for id_ in ids:
            one = group.pending.get(id_)
            if id_ not in entries:
                group.pending.pop(id_, None)
                continue
            if one is None:
                if not force:
                    continue
                one = group.pending[id_] = Pending(consumer, 0, 1)
            one.consumer, one.since_ms = consumer, self.now_ms() - idle_ms
            one.times += counted
            found.append((id_, entries[id_]))
        return found

    def trim(self, key: bytes, first: Id) -> list[Id]:
        """Trim a stream, if there is one; return what was removed."""
        return self.streams[key].trim(first) if key in self.streams else []


def id_of(text: bytes, number: int = 0) -> Id:
    """Return an id that may lack its second number."""
    moment, dash, rest = text.partition(b"-")
    return int(moment), int(rest) if dash else number


def text_of(id_: Id) -> bytes:
    """Return an id as it is written."""
    return b"%d-%d" % id_


def bound(text: bytes, *, upper: bool = False) -> Id:
    """Return the least or greatest id of a range as XRANGE and XPENDING take it."""
    if text in {b"-", b"+"}:
        return LOWEST if text == b"-" else HIGHEST
    if not text.startswith(b"("):
        return id_of(text, HIGHEST[1] if upper else 0)
    moment, number = id_of(text[1:])
    if upper:
        return (moment, number - 1) if number else (moment - 1, HIGHEST[1])
    return moment, number + 1


def pairs_of(flat: list[Any]) -> dict[bytes, Any]:
    """Return names and values that stand one after the other."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
