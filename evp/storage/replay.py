"""Delivering dead letters once more: events to the store, entries through the present rules.

The order makes it safe to end anywhere: insert the event, judge its frame by what
the store has then, and remove only a letter that no longer counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from msgspec import Struct

from evp.batch.outcome import ID_CONFLICT
from evp.documents import Admission
from evp.errors import FrameError
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
    Letter,
    bodies,
    look_again,
    refuse_again,
    remove,
)
from evp.storage.failures import Failure
from evp.storage.sweep import judge_again
from evp.storage.writer import Writer

_LOOKS_MAX = 20
_LOOK_S = 0.05
_NOT_WHOLE = "not all of it was kept"
_CONFLICT = Failure(ID_CONFLICT, "another event with the same source, id and time is stored")
LEFT_ALONE = {
    PROVISIONAL: Failure(PROVISIONAL, "its frame was judged before it was there; try again"),
    SETTLING: Failure(SETTLING, "its frame is not settled; try again once it is"),
    REOPENED: Failure(REOPENED, "its frame is judged again by somebody else; try again"),
    PURGED: Failure(PURGED, "it was purged meanwhile"),
}
"""Why letters in these states are neither delivered nor removed."""


class Refused(Struct):
    """A letter that stays, and why."""

    id: str
    reason: str
    detail: str


class Replayer:
    """Delivers letters; `timeout_ms` bounds each write to the store."""

    def __init__(self, db: Database, admission: Admission, timeout_ms: int) -> None:
        self._db = db
        self._admission = admission
        self._timeout_ms = timeout_ms

    async def deliver(self, letters: Sequence[Letter]) -> list[Refused]:
        """Deliver letters and remove those that were; return those that stay.

        Raises StoreUnavailable; calling again with the same is safe.
        """
        kept = await bodies(self._db, letters)
        whole = [one for one in letters if one.id in kept and kept[one.id].is_whole(one)]
        ids = {one.id for one in whole}
        refused = await self._not_whole([one for one in letters if one.id not in ids])
        events = [one for one in whole if one.frame_id is not None]
        refused |= await self._events(events, [kept[one.id].raw for one in events])
        for one in whole:
            if one.frame_id is None:
                refused |= await self._entry(one, kept[one.id].raw)
        for one in letters:
            if one.id in refused and refused[one.id].reason not in LEFT_ALONE:
                await refuse_again(self._db, one, refused[one.id])
        await remove(self._db, [one for one in letters if one.id not in refused])
        return [Refused(id_, one.reason, one.detail) for id_, one in refused.items()]

    async def _not_whole(self, letters: Sequence[Letter]) -> dict[str, Failure]:
        """Return why letters can't be delivered; one that is gone by now was, by another replay."""
        states = await look_again(self._db, letters) if letters else {}
        return {
            one.id: LEFT_ALONE.get(
                states[one.id],
                Failure(one.reason, f"{_NOT_WHOLE}: {one.payload_bytes} bytes were received"),
            )
            for one in letters
            if one.id in states
        }

    async def _events(self, letters: Sequence[Letter], raw: Sequence[bytes]) -> dict[str, Failure]:
        """Insert events and judge their frames; return by letter why some are dead still."""
        if not letters:
            return {}
        writer = Writer(self._db, self._timeout_ms)
        failures = await writer.deliver([RawBSONDocument(one) for one in raw])
        frame_ids = {ObjectId(one.frame_id) for one in letters}
        await judge_again(self._db, sorted(frame_ids))
        states = await self._states(letters)
        refused: dict[str, Failure] = {}
        for place, one in enumerate(letters):
            # Another replay may have delivered it, and removed the letter.
            state = states.get(one.id, DELIVERED)
            failure = failures.get(place, _CONFLICT)
            if state == DEAD:
                refused[one.id] = failure if failure.reason else _CONFLICT
            elif state in LEFT_ALONE:
                refused[one.id] = LEFT_ALONE[state]
        return refused

    async def _states(self, letters: Sequence[Letter]) -> dict[str, str]:
        """Return what became of letters; an outcome that others replace just now is waited for."""
        states = await look_again(self._db, letters)
        for _ in range(_LOOKS_MAX):
            if REOPENED not in states.values():
                break
            await asyncio.sleep(_LOOK_S)
            states = await look_again(self._db, letters)
        return states

    async def _entry(self, letter: Letter, raw: bytes) -> dict[str, Failure]:
        """Read an entry by the present rules and write it; return why if it is no frame still."""
        try:
            fields = fields_of(raw)
            frame = read_entry(letter.stream, letter.entry, fields, self._admission)
        except FrameError as error:
            return {letter.id: failure_of_entry(error)}
        writer = Writer(self._db, self._timeout_ms, Origin(letter.stream, letter.group))
        await writer.write([frame])
        return {}
