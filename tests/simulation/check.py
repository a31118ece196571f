"""What must hold once everything is quiet, and what `evp verify` must say about it.

| rule | holds if |
|---|---|
| lost | an event that was answered with 202 is stored, or a dead letter that counts, unless the log forgot its entry |
| unexpected | what is stored, or a dead letter, is what a client sent, and is not one whose every answer was a refusal |
| twice | no event of a client is in two documents |
| both | it is not stored and dead at once, by the same frame |
| innocent | no good event is dead, unless two of one id differ or workers were killed |
| sums | stored, duplicate, dead and missing of an outcome are all events of its frame |
| unsettled | every frame that has a header has an outcome |
| total | the outcomes say that so many events are stored as there are |
| rollups | the sums are those of the documents, by minute and type |
| erased | what was erased stays so |
| false finding | `evp verify` tells no loss that is none |
| missed | `evp verify` tells each loss of a frame that was recorded as acknowledged |
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from bson import Binary

from evp.batch.outcome import ERASED
from evp.clock import to_ms
from evp.frame import MINUTE_MS
from evp.storage.schema import DEAD_LETTERS, EVENTS, FRAMES, OUTCOMES, ROLLUPS
from evp.verify.report import Finding, Kind, Report
from tests.simulation.book import Accepted, Entry
from tests.simulation.events import GOOD, Sent
from tests.simulation.world import World

_OF_A_LOSS = frozenset((Kind.HOLE, Kind.ENTRY_LOST))


class Check:
    """Looks at one world after its end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._book = world.book
        store = world.store
        self._events = store.table(EVENTS)
        self._outcomes = store.table(OUTCOMES)
        self._letters = self._counting_letters(store.documents(DEAD_LETTERS))

    def all(self) -> None:
        """Check all rules but those about `evp verify`."""
        for one in self._book.accepted:
            self._accepted(one)
        self._strangers()
        self._outcomes_hold()
        self._rollups_hold()
        for id_ in self._book.erased:
            if id_ in self._events and ERASED not in self._events[id_].document:
                self._book.broken("erased", id_)

    def _counting_letters(self, letters: Iterable[dict[str, Any]]) -> set[tuple[Any, bytes, int]]:
        """Return the dead letters that their frames' outcomes list: (frame, event, content)."""
        counting = set()
        for letter in letters:
            outcome = self._outcomes.get(letter.get("frame_id"))
            if outcome is not None and letter["index"] in outcome.document["dead"]:
                content = letter["event"]["data"]["content"]
                counting.add((letter["frame_id"], bytes(letter["event_id"]), content))
        return counting

    def _accepted(self, one: Accepted) -> None:
        sent, entry = one.sent, one.entry
        stored = self._is_stored(one)
        dead = [letter for letter in self._letters if letter[1:] == (one.event_id, sent.content)]
        if not stored and not dead and not entry.is_lost:
            self._book.broken("lost", sent, entry.frame.entry_id)
        if stored and any(letter[0] == entry.frame.frame_id for letter in dead):
            self._book.broken("both", sent, entry.frame.entry_id)
        if dead and sent.kind == GOOD and not self._is_explained(sent):
            self._book.broken("innocent", sent)

    def _is_explained(self, sent: Sent) -> bool:
        """Return whether a good event may be dead: by another one of its id, or as poison."""
        counts = self._world.counts
        return counts.crashes + counts.pauses >= 2 or self._world.client.is_disputed(sent)

    def _is_stored(self, one: Accepted) -> bool:
        row = self._events.get(Binary(one.event_id, 4))
        if row is None:
            return False
        return ERASED in row.document or row.document["data"]["content"] == one.sent.content

    def _strangers(self) -> None:
        """Compare what there is with what clients sent, by what they sent alone."""
        taken = {_told_of(sent) for sent, times in self._book.taken.items() if times > 0}
        documents = [row.document for row in self._events.values() if ERASED not in row.document]
        letters = [letter["event"] for letter in self._world.store.documents(DEAD_LETTERS)]
        for document in documents + letters:
            if not taken.intersection(_told_by(document)):
                self._book.broken("unexpected", document)
        told = [one for document in documents for one in _told_by(document) if one in taken]
        # Two of one id and time are the same event, whatever else they say.
        times = Counter(one[:2] if one[0] else one for one in told)
        for what, count in times.items():
            if count > 1:
                self._book.broken("twice", what)

    def _outcomes_hold(self) -> None:
        stored = 0
        headers = {document["_id"]: document for document in self._world.store.documents(FRAMES)}
        for frame_id, header in headers.items():
            row = self._outcomes.get(frame_id)
            if row is None:
                self._book.broken("unsettled", header["entry"])
                continue
            outcome = row.document
            parts = (outcome["stored"], outcome["duplicate"], len(outcome["dead"]))
            if sum(parts) + len(outcome.get("missing", ())) != header["n"] or min(parts) < 0:
                self._book.broken("sums", header["entry"], parts)
            stored += outcome["stored"]
        if stored != len(self._events):
            self._book.broken("total", f"{stored} by outcomes, {len(self._events)} documents")

    def _rollups_hold(self) -> None:
        """Compare the sums of each level with the documents."""
        for level, width_ms in (("10s", MINUTE_MS), ("hour", 60 * MINUTE_MS)):
            wanted: Counter[tuple[int, str]] = Counter()
            for row in self._events.values():
                at_ms = to_ms(row.document["time"]) // width_ms * width_ms
                wanted[at_ms, row.document["type"]] += 1
            found: Counter[tuple[int, str]] = Counter()
            for cell in self._world.store.documents(ROLLUPS):
                if cell["level"] == level:
                    for type_, count in cell["types"]:
                        found[to_ms(cell["at"]), type_] += count
            if +wanted != +found:
                self._book.broken("rollups", level, f"documents {+wanted}, sums {+found}")

    # What verify says.

    def findings(self, report: Report, *, at_rest: bool) -> None:
        """Check that what `evp verify` found is so.

        What a worker has of a frame that is lost it may still write, unless all is `at_rest`.
        """
        for finding in report.findings:
            for why in self._why_false(finding, at_rest=at_rest):
                self._book.broken("false finding", why, finding)

    def _why_false(self, finding: Finding, *, at_rest: bool) -> Iterator[str]:
        """Give what is not so of a finding."""
        if finding.kind not in _OF_A_LOSS:
            yield "nothing of this kind happens here"
            return
        entries = self._entries_of(finding)
        if finding.kind is Kind.HOLE:
            had = {entry.numbers[1] for entry in entries}
            first, last = finding.first_seq or 0, finding.last_seq or 0
            if never := [seq for seq in range(first, last + 1) if seq not in had]:
                yield f"numbers that no frame had: {never}"
        if not entries:
            yield "a frame that never was"
        for entry in entries:
            if not entry.is_lost:
                yield f"the log has not forgotten {entry.frame.entry_id}"
            if at_rest and self._has_written(entry):
                yield f"all of {entry.frame.entry_id} is stored"
        ids = {id_ for entry in entries for id_ in entry.frame.ids}
        for id_ in (UUID(one).bytes for one in finding.event_ids):
            if id_ not in ids or Binary(id_, 4) in self._events:
                yield f"{id_.hex()} is stored, or of another frame"

    def nothing_missed(self, report: Report, reached: dict[bytes, int]) -> None:
        """Check that every loss was found of which a server had recorded the number.

        `reached` is how far the epochs were ever recorded.
        """
        told = {id(entry) for one in report.findings for entry in self._entries_of(one)}
        for entry in {id(one.entry): one.entry for one in self._book.accepted}.values():
            srv, seq = entry.numbers
            if not seq or not entry.is_lost or seq > reached.get(srv, 0):
                continue
            if id(entry) not in told and self._is_nowhere(entry):
                self._book.broken("missed", entry.frame.entry_id, srv.hex(), seq)

    def _entries_of(self, finding: Finding) -> list[Entry]:
        if finding.frame_id is not None:
            return [
                one for one in self._book.entries if str(one.frame.frame_id) == finding.frame_id
            ]
        if finding.srv is None or finding.first_seq is None or finding.last_seq is None:
            return []
        srv, seqs = bytes.fromhex(finding.srv), range(finding.first_seq, finding.last_seq + 1)
        return [
            one for one in self._book.entries if one.numbers[0] == srv and one.numbers[1] in seqs
        ]

    def _has_written(self, entry: Entry) -> bool:
        """Return whether the store has all of a frame, by that frame itself."""
        if entry.frame.frame_id in self._world.store.table(FRAMES):
            return all(self._book.has(entry, index) for index in range(entry.frame.count))
        rows = [self._events.get(Binary(id_, 4)) for id_ in entry.frame.ids]
        return all(row and row.document["frame_id"] == entry.frame.frame_id for row in rows)

    def _is_nowhere(self, entry: Entry) -> bool:
        """Return whether neither the log nor the store knows a frame, or some event of it."""
        stream = self._world.log.memory.streams.get(entry.key)
        if stream is not None and entry.id in stream.entries:
            return False  # It may have been sent a second time, by a call that came late.
        if entry.frame.frame_id not in self._world.store.table(FRAMES):
            return True
        return not all(self._book.has(entry, index) for index in range(entry.frame.count))


_Told = tuple[str | None, datetime | None, str, int]
"""Of an event of a client: id and time, if it gave them, type, content."""


def _told_of(sent: Sent) -> _Told:
    return sent.id or None, None if sent.is_plain else sent.at, sent.kind, sent.content


def _told_by(document: Mapping[str, Any]) -> list[_Told]:
    """Return what a client may have sent for a document to be this; most likely one first."""
    id_, at = document["id"], document["time"]
    type_, content = document["type"], document["data"]["content"]
    return [(id_, at, type_, content), (id_, None, type_, content), (None, None, type_, content)]
