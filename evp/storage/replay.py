"""Delivering dead letters once more: events to the store, entries through the present rules.

The order makes it safe to end anywhere: insert the event, judge its frame by what
the store has then, and remove only a letter that no longer counts, and whose event
was inserted just now or is found in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.batch.outcome import ID_CONFLICT
from evp.documents import Admission
from evp.errors import FrameError, StoreUnavailable
from evp.frame import Frame
from evp.plain import fields_of, read_entry
from evp.storage.client import Database
from evp.storage.dead_letters import Origin, failure_of_entry
from evp.storage.dlq import (
    DEAD,
    DELIVERED,
    PROVISIONAL,
    PURGED,
    REOPENED,
    SETTLING,
    Body,
    Letter,
    bodies,
    look_again,
    refuse_again,
    remove,
)
from evp.storage.failures import Failure, told
from evp.storage.lookup import ids_of
from evp.storage.presence import standing, standing_letters
from evp.storage.schema import DEAD_LETTERS, FRAMES, OUTCOMES
from evp.storage.sweep import judge_again
from evp.storage.writer import Writer

_LOOKS_MAX = 20
_LOOK_S = 0.05
_NOT_WHOLE = "not all of it was kept"
_CONFLICT = Failure(ID_CONFLICT, "another event with the same source, id and time is stored")
_OTHER_ID = "its event is not stored, and has another id by the settings of now"
LEFT_ALONE = {
    PROVISIONAL: Failure(
        PROVISIONAL, "its frame was judged before this letter was written; try again"
    ),
    SETTLING: Failure(SETTLING, "its frame is not settled; try again once it is"),
    REOPENED: Failure(REOPENED, "its frame is judged again by somebody else; try again"),
    PURGED: Failure(PURGED, "it was purged meanwhile"),
}
"""Why letters in these states are neither delivered nor removed."""
_INCOMPLETE = Failure(
    "incomplete",
    "its event is stored, but its frame lacks others and still counts it as dead: see `evp verify`",
)
_UNWRITTEN = frozenset((*LEFT_ALONE, _INCOMPLETE.reason))
"""Reasons that say nothing of a letter's own event: they are told, and not written into it."""

Fates = dict[str, Failure | None]
"""By letter id why one stays, None if it may go. A letter that is not named is not touched."""


class Refused(Struct):
    """A letter that stays, and why."""

    id: str
    reason: str
    detail: str


class Delivered(Struct):
    """What became of letters, and of the events in them.

    `stored` were inserted now, also where the letter stays; `duplicate` stand in the
    store since before; `dead` are events of entries, each with a letter of its own
    now. `refused` has the letters that stay, and one for each entry with dead events.
    """

    refused: list[Refused] = []
    stored: int = 0
    duplicate: int = 0
    dead: int = 0

    def count(self, outcome: Mapping[str, Any], inserted: int) -> None:
        """Count the events of a frame by its outcome; so many of them were inserted now."""
        self.stored += inserted
        self.duplicate += outcome["stored"] + outcome["duplicate"] - inserted
        self.dead += len(outcome["dead"])


class Replayer:
    """Delivers letters; `timeout_ms` bounds each write to the store."""

    def __init__(self, db: Database, admission: Admission, timeout_ms: int) -> None:
        self._db = db
        self._admission = admission
        self._timeout_ms = timeout_ms

    async def deliver(self, letters: Sequence[Letter]) -> Delivered:
        """Deliver letters and remove those that were; those of entries go to what they held.

        Raises StoreUnavailable; calling again with the same is safe.
        """
        done = Delivered()
        kept = await bodies(self._db, letters)
        whole = [one for one in letters if one.id in kept and kept[one.id].is_whole(one)]
        events = [one for one in whole if one.frame_id is not None]
        whole_ids = {one.id for one in whole}
        rest = [one for one in letters if one.id not in whole_ids]
        fates = await self._not_whole(rest, kept, done)
        fates |= await self._events(events, kept, done)
        for one in whole:
            if one.frame_id is None:
                fates[one.id] = await self._entry(one, kept[one.id].raw, done)
        refused = {id_: why for id_, why in fates.items() if why is not None}
        done_with = fates.keys() - refused.keys()
        for one in letters:
            if one.id in refused and refused[one.id].reason not in _UNWRITTEN:
                await refuse_again(self._db, one, refused[one.id])
        await remove(self._db, [one for one in letters if one.id in done_with])
        done.refused += [Refused(id_, one.reason, one.detail) for id_, one in refused.items()]
        return done

    async def _not_whole(
        self, letters: Sequence[Letter], kept: Mapping[str, Body], done: Delivered
    ) -> Fates:
        """Return why letters can't be delivered; None if one was, and somebody died removing it.

        One that is gone by now was delivered as well, by another replay.
        """
        if not letters:
            return {}
        states = await look_again(self._db, letters)
        delivered = [one for one in letters if states.get(one.id) == DELIVERED]
        stored = await standing_letters(self._db, delivered, kept)
        done.duplicate += len(letters) - len(states) + len(stored)
        fates: Fates = dict.fromkeys(stored)
        for one in letters:
            if one.id in states and one.id not in stored:
                detail = f"{_NOT_WHOLE}: {one.payload_bytes} bytes were received"
                fates[one.id] = LEFT_ALONE.get(states[one.id], Failure(one.reason, detail))
        return fates

    async def _events(
        self, letters: Sequence[Letter], kept: Mapping[str, Body], done: Delivered
    ) -> Fates:
        """Insert events, judge their frames, count; return what becomes of the letters."""
        if not letters:
            return {}
        writer = Writer(self._db, self._timeout_ms)
        failures = await writer.deliver([RawBSONDocument(kept[one.id].raw) for one in letters])
        frame_ids = {ObjectId(one.frame_id) for one in letters}
        await judge_again(self._db, sorted(frame_ids))
        states = await self._states(letters)
        # An outcome may count as stored what the store has lost since.
        failed = [letters[place] for place in failures]
        lacking = {one.id for one in failed} - await standing_letters(self._db, failed, kept)
        fates: Fates = {}
        for place, one in enumerate(letters):
            state, is_stored = states.get(one.id), one.id not in lacking
            # One that is gone was removed by another replay, which has looked as well; one that
            # was purged meanwhile stays as it is, whatever became of its event.
            if state is not None and not (state == PURGED and is_stored):
                fates[one.id] = _why_kept(state, None if is_stored else failures[place])
            if place not in failures:
                done.stored += 1
            elif fates.get(one.id) is None:
                done.duplicate += 1
        return fates

    async def _states(self, letters: Sequence[Letter]) -> dict[str, str]:
        """Return what became of letters; an outcome that others replace just now is waited for."""
        states = await look_again(self._db, letters)
        for _ in range(_LOOKS_MAX):
            if REOPENED not in states.values():
                break
            await asyncio.sleep(_LOOK_S)
            states = await look_again(self._db, letters)
        return states

    async def _entry(self, letter: Letter, raw: bytes, done: Delivered) -> Failure | None:
        """Read an entry by the present rules, write it, count; return why its letter stays.

        Events of it that die have letters by then, so that its own says nothing more.
        """
        try:
            fields = fields_of(raw)
            frame = read_entry(letter.stream, letter.entry, fields, self._admission)
        except FrameError as error:
            return failure_of_entry(error)
        writer = Writer(self._db, self._timeout_ms, Origin(letter.stream, letter.group))
        [written] = await writer.write([frame])
        with told():
            # Where another one settled it at the same time, theirs may be what stands there.
            outcome = await self._db[OUTCOMES].find_one({"_id": frame.frame_id})
        if outcome is None:
            raise StoreUnavailable("an outcome was there and is gone")
        inserted = outcome["stored"]
        if written.outcome is None:
            # Settled before: nothing of it was written now.
            inserted, why = await self._restore(letter, frame, outcome["dead"])
            if why is not None:
                done.stored += inserted
                return why
        done.count(outcome, inserted)
        if outcome["dead"]:
            done.refused.append(await self._dead_again(letter, frame, outcome["dead"]))
        return None

    async def _restore(
        self, entry: Letter, frame: Frame, dead: Sequence[int]
    ) -> tuple[int, Failure | None]:
        """Insert what a settled frame does not count as dead, and the store has lost.

        Return how many were inserted, and why some are still not there; None if all are.
        """
        with told():
            header = await self._db[FRAMES].find_one({"_id": frame.frame_id})
        if header is None:
            raise StoreUnavailable("a header was there and is gone")
        # By other settings a plain entry may have got another id.
        ids = ids_of(bytes(header["ids"]))
        there = await standing(self._db, ids, [bytes(one.raw) for one in frame.documents])
        by_id = {
            id_: frame.documents[place]
            for place, id_ in enumerate(ids)
            if place not in there and place not in dead
        }
        lost = list(by_id.items())
        if not lost:
            return 0, None
        if ids != list(frame.ids):
            return 0, Failure(entry.reason, _OTHER_ID)
        writer = Writer(self._db, self._timeout_ms)
        failures = await writer.deliver([document for _, document in lost])
        # Another replay may have been quicker.
        failed = [lost[place] for place in failures]
        raw = [bytes(document.raw) for _, document in failed]
        there = await standing(self._db, [id_ for id_, _ in failed], raw)
        lacking = [why for place, why in enumerate(failures.values()) if place not in there]
        return len(lost) - len(failed), _named(lacking[0]) if lacking else None

    async def _dead_again(self, entry: Letter, frame: Frame, dead: Sequence[int]) -> Refused:
        """Return what to tell of an entry with dead events: their number, and the first of them."""
        first = f"{frame.frame_id}:{dead[0]}"
        with told():
            row = await self._db[DEAD_LETTERS].find_one({"_id": first}, ("reason", "detail")) or {}
        some = f"{len(dead):,} of the {frame.count:,} events of entry {entry.entry} are dead again"
        return Refused(first, row.get("reason", DEAD), f"{some}: {row.get('detail', '')}")


def _why_kept(state: str, failure: Failure | None) -> Failure | None:
    """Return why a letter stays that is in a state now; None if it may go.

    `failure` is why its event is not in the store; None if it is.
    """
    if state in LEFT_ALONE:
        return LEFT_ALONE[state]
    if failure is not None:
        return _named(failure)
    return _INCOMPLETE if state == DEAD else None


def _named(failure: Failure) -> Failure:
    """Return a failure with its reason, where an id is taken as well."""
    return failure if failure.reason else _CONFLICT
