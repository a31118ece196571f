"""Writing frames: headers, events, outcome, settle. What `write` returned may be acked.

Each step can be done again, by anyone, at the same time, and gives the same
answer. A frame's header comes first, so that the store knows about the frame
whatever happens next; its outcome comes last and says that it is settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bson import Binary, ObjectId
from bson.raw_bson import RawBSONDocument
from msgspec import Struct
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from evp.batch.outcome import ID_CONFLICT, Outcome, judge
from evp.clock import from_ms, now
from evp.errors import StoreUnavailable
from evp.frame import Frame
from evp.storage.bounded import Bounded
from evp.storage.client import Database
from evp.storage.dead_letters import letter_of, letter_of_entry
from evp.storage.failures import Failure, failures_of, permanent, unavailable
from evp.storage.isolation import Witness, forget_attempts, insert_alone
from evp.storage.ledger import record_deleted
from evp.storage.lookup import portions
from evp.storage.schema import DEAD_LETTERS, EVENTS, FRAMES
from evp.storage.settle import settle, settled_among

BUCKET_MS = 10_000

Place = tuple[int, int]
"""Frame's place in the batch, event's index in the frame."""


class Written(Struct):
    """What became of a frame in this write; `outcome` is None if it was settled before."""

    frame: Frame
    outcome: Outcome | None


class Writer:
    """Writes batches of frames. `timeout_ms` bounds each call to the store."""

    def __init__(self, db: Database, timeout_ms: int) -> None:
        self._db = db
        self._bounded = Bounded(timeout_ms)

    async def write(self, frames: Sequence[Frame]) -> list[Written]:
        """Write frames; when it returns, all of them are settled and may be acked.

        Raises StoreUnavailable on whatever may pass: keep the frames and call
        again with the same ones.
        """
        done = await self._write_headers(frames)
        fresh = [frame for frame in frames if frame.frame_id not in done]
        failures = await self._write_events(fresh)
        outcomes = [
            await self._judge(frame, failures.get(place, {})) for place, frame in enumerate(fresh)
        ]
        await self._bounded(settle(self._db, outcomes))
        settled = {outcome.frame_id: outcome for outcome in outcomes}
        return [Written(frame, settled.get(frame.frame_id)) for frame in frames]

    async def write_alone(self, frame: Frame, witness: Witness) -> Written:
        """Write a frame that may kill whoever writes it; raises as `write`, and as `killed`."""
        if await self._write_headers([frame]):
            return Written(frame, None)

        failures = await insert_alone(self._db, self._bounded, witness, frame, self._insert)
        outcome = await self._judge(frame, failures)
        await self._bounded(settle(self._db, [outcome]))
        await self._bounded(forget_attempts(self._db, frame))
        return Written(frame, outcome)

    async def bury(self, stream: str, entries: Iterable[tuple[str, bytes, str]]) -> None:
        """Keep entries that are no frames as dead letters: (entry id, payload, why).

        Raises StoreUnavailable.
        """
        letters = [
            letter_of_entry(stream, entry_id, payload, Failure("corrupt_frame", why))
            for entry_id, payload, why in entries
        ]
        await self._write_letters(letters)

    async def count_deleted(self, stream: str, entries: Sequence[str]) -> None:
        """Record that entries were deleted from the log before they were acked.

        Raises StoreUnavailable.
        """
        await self._bounded(record_deleted(self._db, stream, entries))

    async def _write_headers(self, frames: Sequence[Frame]) -> set[ObjectId]:
        """Put each frame's header; return the ids of those that are settled already."""
        try:
            await self._bounded(
                self._db[FRAMES].insert_many([_header(frame) for frame in frames], ordered=False)
            )
        except BulkWriteError as error:
            failures = failures_of(error)
            refused = next((one for one in failures.values() if one.reason), None)
            if refused is not None:
                raise StoreUnavailable(f"a frame's header is refused: {refused.detail}") from error
            known = [frames[place].frame_id for place in failures]
            return await self._bounded(settled_among(self._db, known))
        return set()

    async def _write_events(self, frames: Sequence[Frame]) -> dict[int, dict[int, Failure]]:
        """Insert all events; return by frame's place and event's index those that were not."""
        places: list[Place] = []
        documents: list[RawBSONDocument] = []
        for place, frame in enumerate(frames):
            places += [(place, index) for index in range(frame.count)]
            documents += frame.documents
        failures: dict[int, dict[int, Failure]] = {}
        for position, failure in (await self._insert(documents)).items():
            place, index = places[position]
            failures.setdefault(place, {})[index] = failure
        return failures

    async def _insert(self, documents: list[RawBSONDocument]) -> dict[int, Failure]:
        """Insert documents; return by position why some were not.

        An error of the whole call that speaks of a document says not of which:
        halves are tried until the culprit is alone.
        """
        if not documents:
            return {}
        try:
            await self._bounded(self._db[EVENTS].insert_many(documents, ordered=False))
        except BulkWriteError as error:
            return failures_of(error)
        except StoreUnavailable as error:
            failure = permanent(error.__cause__) if isinstance(error.__cause__, Exception) else None
            if failure is None:
                raise
            if len(documents) == 1:
                return {0: failure}
            middle = len(documents) // 2
            failures = await self._insert(documents[:middle])
            rest = await self._insert(documents[middle:])
            return failures | {middle + place: found for place, found in rest.items()}
        return {}

    async def _judge(self, frame: Frame, failures: dict[int, Failure]) -> Outcome:
        """Return the outcome of a frame, its dead letters written."""
        if not failures:
            return judge(frame, range(frame.count), {})
        inserted = set(range(frame.count)) - failures.keys()
        lettered: set[int] = set()
        while True:
            outcome = judge(frame, inserted, await self._look_up(frame, failures))
            if lettered.issuperset(outcome.dead):
                return outcome
            await self._write_letters(
                letter_of(frame, index, _reason(failures[index])) for index in outcome.dead
            )
            # Judged again: another worker may have stored one of them in the meantime.
            lettered.update(outcome.dead)

    async def _look_up(self, frame: Frame, failures: dict[int, Failure]) -> dict[bytes, Any]:
        """Return by id what the store has of the events that were not inserted."""
        found: dict[bytes, Any] = {}
        for portion in portions(sorted({frame.ids[index] for index in failures})):
            wanted = [Binary(id_, 4) for id_ in portion]
            cursor = self._db[EVENTS].find({"_id": {"$in": wanted}})
            for document in await self._bounded(cursor.to_list()):
                found[bytes(document["_id"])] = document
        for index, failure in failures.items():
            if not failure.reason and frame.ids[index] not in found:
                raise StoreUnavailable("an event's id was taken and its document is gone")
        return found

    async def _write_letters(self, letters: Iterable[UpdateOne]) -> None:
        writes = list(letters)
        if not writes:
            return
        try:
            await self._bounded(self._db[DEAD_LETTERS].bulk_write(writes, ordered=False))
        except BulkWriteError as error:
            raise unavailable(error) from error


def _header(frame: Frame) -> dict[str, Any]:
    header = {
        "_id": frame.frame_id,
        "srv": frame.srv,
        "seq": frame.seq,
        "n": frame.count,
        "ids": b"".join(frame.ids),
        "bucket": from_ms(frame.accepted_ms // BUCKET_MS * BUCKET_MS),
        "entry": frame.entry_id,
    }
    if frame.external:
        header["external"] = True
    header["written_at"] = now()
    return header


def _reason(failure: Failure) -> Failure:
    if failure.reason:
        return failure
    return Failure(ID_CONFLICT, "another event with the same source, id and time is stored")
