"""What really happened: every entry the log ever had, and what was answered to whom.

It is told by the simulated log and by the clients, never by evp. What must hold at every
moment is checked here, as it happens:

- an entry is acked by the group that writes only when each of its events is stored or a dead
  letter;
- a trim removes only what every group there is, or should be, has acked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bson import Binary
from msgspec import Struct

from evp.documents import Admission
from evp.frame import Frame
from evp.plain import read_entry
from evp.storage.schema import DEAD_LETTERS, EVENTS
from tests.simulation.events import Sent
from tests.simulation.log import SimulatedLog, Watcher
from tests.simulation.memory import Flat, Id, pairs_of, text_of
from tests.simulation.store import SimulatedStore

ADMISSION = Admission("evp", time_in_id=True)


class Entry(Struct):
    """An entry that the log ever had; `is_lost` once the log has forgotten it by a fault."""

    key: bytes
    id: Id
    frame: Frame
    is_lost: bool = False

    @property
    def numbers(self) -> tuple[bytes, int]:
        """Epoch and number of its frame; none if it is a plain one."""
        return self.frame.srv, self.frame.seq


class Accepted(Struct, frozen=True):
    """One event that was answered with 202, and the entry that holds it."""

    sent: Sent
    entry: Entry

    @property
    def event_id(self) -> bytes:
        """The `_id` that it gets: of one without id only its frame knows."""
        return self.sent.event_id if self.sent.id else self.entry.frame.ids[0]


class Violation(Struct, frozen=True):
    """A promise that was broken; `facts` are for people."""

    rule: str
    facts: str


class Book(Watcher):
    """Keeps what happened. The world sets `log` before anything does."""

    def __init__(self, store: SimulatedStore, writing_group: bytes) -> None:
        self.violations: list[Violation] = []
        self.entries: list[Entry] = []
        self.accepted: list[Accepted] = []
        self.taken: Counter[Sent] = Counter()
        """How often events were sent and not refused: answered with 202, or of unknown outcome."""
        self.erased: set[Any] = set()
        self.groups = {writing_group}
        self.log: SimulatedLog
        self._writing = writing_group
        self._store = store
        self._here: dict[tuple[bytes, Id], Entry] = {}

    def broken(self, rule: str, *facts: object) -> None:
        """Write down that a promise was broken."""
        found = Violation(rule, " ".join(map(str, facts)))
        if found not in self.violations:
            self.violations.append(found)

    def sent(self, some: Iterable[Sent]) -> None:
        """Take note of a request, which may be carried out from now on."""
        self.taken.update(some)

    def refused(self, some: Iterable[Sent]) -> None:
        """Take note of an answer by which a request was not carried out, and never will be."""
        self.taken.subtract(some)

    def answered(self, sent: Sequence[Sent], key: bytes, id_: Id) -> None:
        """Take note of a 202 whose receipt names an entry."""
        entry = self._here[key, id_]
        self.accepted += [Accepted(one, entry) for one in sent]

    def appended(self, key: bytes, id_: Id, flat: Flat) -> None:
        """Take note of an entry."""
        name = key.decode()
        frame = read_entry(name, text_of(id_).decode(), pairs_of(flat), ADMISSION)
        entry = Entry(key, id_, frame)
        self.entries.append(entry)
        # An id that is given again after a failover stands for the new one from now on.
        self._here[key, id_] = entry

    def lost(self, key: bytes, ids: Sequence[Id]) -> None:
        """Take note of what the log has forgotten."""
        for id_ in ids:
            entry = self._here.pop((key, id_), None)
            if entry is not None:
                entry.is_lost = True

    def to_be_acked(self, key: bytes, group: bytes, ids: Sequence[Id]) -> None:
        """Check that nothing is acked before the store has it."""
        if group != self._writing:
            return
        pending = self._pending(key, group)
        for id_ in ids:
            entry = self._here.get((key, id_))
            if entry is None or id_ not in pending:
                continue
            nowhere = [index for index in range(entry.frame.count) if not self.has(entry, index)]
            if nowhere:
                self.broken("acked before stored", entry.frame.entry_id, "events", nowhere)

    def trimmed(self, key: bytes, ids: Sequence[Id]) -> None:
        """Check that nothing is trimmed that a group has not acked."""
        groups = self.log.memory.streams[key].groups if ids else {}
        for name in self.groups | set(groups):
            group = groups.get(name)
            for id_ in ids:
                if group is None or id_ > group.last or id_ in group.pending:
                    self.broken("trimmed before acked", key, name, text_of(id_))

    def reached(self) -> dict[bytes, int]:
        """Return how far each epoch was ever recorded where it is remembered.

        What the log has forgotten by a fault is no record; one that evp overwrote still is.
        """
        found = dict(self._store.reached)
        for name, seq in self.log.memory.reached.items():
            srv = bytes.fromhex(name.decode())
            found[srv] = max(found.get(srv, 0), seq)
        return found

    def has(self, entry: Entry, index: int) -> bool:
        """Return whether an event of an entry is stored, or a dead letter."""
        events, letters = self._store.table(EVENTS), self._store.table(DEAD_LETTERS)
        return (
            Binary(entry.frame.ids[index], 4) in events
            or f"{entry.frame.frame_id}:{index}" in letters
        )

    def _pending(self, key: bytes, group: bytes) -> Any:
        stream = self.log.memory.streams.get(key)
        found = None if stream is None else stream.groups.get(group)
        return {} if found is None else found.pending
