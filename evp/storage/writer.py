"""Writing frames: headers, events, outcome, settle. What `write` returned may be acked.

Each step can be done again, by anyone, at the same time, and gives the same
answer. A frame's header comes first, so that the store knows about the frame
whatever happens next; then its bucket is marked, if it is closed, beside the
insert of the events; its outcome comes last and says that it is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

from bson import Binary, ObjectId
from bson.raw_bson import RawBSONDocument
from msgspec import Struct
from pymongo.errors import BulkWriteError

from evp.batch.outcome import ID_CONFLICT, Outcome, judge, stored_whole
from evp.clock import now
from evp.errors import FrameError, StoreUnavailable
from evp.frame import Frame
from evp.signals import end
from evp.storage.bounded import Bounded
from evp.storage.buckets import bucket_of, mark
from evp.storage.client import Database
from evp.storage.dead_letters import NOWHERE, NewLetter, Origin, keep, letter_of, letter_of_entry
from evp.storage.failures import Failure, failures_of, permanent, unavailable
from evp.storage.isolation import Witness, forget_attempts, insert_alone
from evp.storage.ledger import record_deleted
from evp.storage.lookup import portions, raw_events
from evp.storage.schema import EVENTS, FRAMES
from evp.storage.settle import settle, settled_among


class Written(Struct):
    """What became of a frame in this write; `outcome` is None if it was settled before.

    `reasons` are those of its dead letters.
    """

    frame: Frame
    outcome: Outcome | None
    reasons: Sequence[str] = ()


class Writer:
    """Writes batches of frames that were read at `origin`.

    `timeout_ms` bounds each call to the store.
    """

    def __init__(self, db: Database, timeout_ms: int, origin: Origin = NOWHERE) -> None:
        self._db = db
        self._origin = origin
        self._bounded = Bounded(timeout_ms)

    async def write(self, frames: Sequence[Frame]) -> list[Written]:
        """Write frames; when it returns, all of them are settled and may be acked.

        Raises StoreUnavailable on whatever may pass: keep the frames and call
        again with the same ones.
        """
        done = await self._write_headers(frames)
        fresh = [frame for frame in frames if frame.frame_id not in done]
        failures = await self._write_events_and_mark(fresh)
        outcomes = [
            await self._judge(frame, failures.get(place, {})) for place, frame in enumerate(fresh)
        ]
        await self._bounded(settle(self._db, outcomes, self._origin.consumer))
        settled = {
            outcome.frame_id: (outcome, _reasons(outcome, failures.get(place, {})))
            for place, outcome in enumerate(outcomes)
        }
        return [Written(frame, *settled.get(frame.frame_id, (None,))) for frame in frames]

    async def write_alone(self, frame: Frame, witness: Witness) -> Written:
        """Write a frame that may kill whoever writes it; raises as `write`, and as `killed`.

        Each of its writes is done `alone`; who was killed is asked between them.
        """
        async with self.alone():
            if await self._write_headers([frame]):
                return Written(frame, None)
            await self._mark([frame])
        failures = await insert_alone(
            self._db, self._bounded, witness, frame, self._insert, self.alone
        )
        async with self.alone():
            outcome = await self._judge(frame, failures)
            await self._bounded(settle(self._db, [outcome], self._origin.consumer))
            await self._bounded(forget_attempts(self._db, frame))
        return Written(frame, outcome, _reasons(outcome, failures))

    def alone(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Have nobody else in this process write for a while; here there is nobody else."""
        return contextlib.nullcontext()

    async def deliver(self, documents: list[RawBSONDocument]) -> dict[int, Failure]:
        """Insert events that were dead; return by position why some were not inserted.

        The reason is empty where an id is taken. Their frames must be judged
        again. Raises StoreUnavailable.
        """
        return await self._insert(documents)

    async def bury(self, stream: str, entries: Iterable[tuple[str, bytes, FrameError]]) -> None:
        """Keep entries that are no frames as dead letters: (entry id, payload, why).

        Raises StoreUnavailable.
        """
        origin = Origin(stream, self._origin.group)
        for entry_id, payload, why in entries:
            await self._keep([letter_of_entry(origin, entry_id, payload, why)])

    async def count_deleted(self, stream: str, entries: Sequence[str]) -> None:
        """Record that entries were deleted from the log before they were acked.

        Raises StoreUnavailable.
        """
        await self._bounded(record_deleted(self._db, stream, entries))

    async def _write_headers(self, frames: Sequence[Frame]) -> set[ObjectId]:
        """Put each frame's header; return the ids of those that are settled already."""
        headers = [_header(frame, self._origin.partition) for frame in frames]
        try:
            await self._bounded(self._db[FRAMES].insert_many(headers, ordered=False))
        except BulkWriteError as error:
            failures = failures_of(error)
            refused = next((one for one in failures.values() if one.reason), None)
            if refused is not None:
                raise StoreUnavailable(f"a frame's header is refused: {refused.detail}") from error
            known = [frames[place].frame_id for place in failures]
            return await self._bounded(settled_among(self._db, known))
        return set()

    async def _write_events_and_mark(
        self, frames: Sequence[Frame]
    ) -> dict[int, dict[int, Failure]]:
        """Insert all events as `_write_events` does, and mark the frames' buckets meanwhile.

        The headers are there and the outcomes are not: any time between will do,
        so the mark takes none of its own.
        """
        if not frames:
            return {}
        marking = asyncio.create_task(self._mark(frames))
        try:
            failures = await self._write_events(frames)
            await marking
        finally:
            await end(marking)
        return failures

    async def _mark(self, frames: Sequence[Frame]) -> None:
        """Make the frames' buckets due, those that are closed."""
        await self._bounded(mark(self._db, {bucket_of(frame.accepted_ms) for frame in frames}))

    async def _write_events(self, frames: Sequence[Frame]) -> dict[int, dict[int, Failure]]:
        """Insert all events; return by frame's place and event's index those that were not."""
        starts: list[int] = []
        documents: list[RawBSONDocument] = []
        for frame in frames:
            starts.append(len(documents))
            documents += frame.documents
        failures: dict[int, dict[int, Failure]] = {}
        for position, failure in (await self._insert(documents)).items():
            place = bisect_right(starts, position) - 1
            failures.setdefault(place, {})[position - starts[place]] = failure
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
            failure = permanent(error.__cause__, documents)
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
            return stored_whole(frame)
        inserted = set(range(frame.count)) - failures.keys()
        lettered: set[int] = set()
        while True:
            outcome = judge(frame, inserted, await self._look_up(frame, failures))
            if lettered.issuperset(outcome.dead):
                return outcome
            await self._keep(
                [
                    letter_of(self._origin, frame, index, _reason(failures[index]))
                    for index in outcome.dead
                ]
            )
            # Judged again: another worker may have stored one of them in the meantime.
            lettered.update(outcome.dead)

    async def _look_up(self, frame: Frame, failures: dict[int, Failure]) -> dict[bytes, Any]:
        """Return by id what the store has of the events that were not inserted."""
        events = raw_events(self._db)
        found: dict[bytes, Any] = {}
        for portion in portions(sorted({frame.ids[index] for index in failures})):
            wanted = [Binary(id_, 4) for id_ in portion]
            cursor = events.find({"_id": {"$in": wanted}})
            for document in await self._bounded(cursor.to_list()):
                found[bytes(document["_id"])] = document
        for index, failure in failures.items():
            if not failure.reason and frame.ids[index] not in found:
                raise StoreUnavailable("an event's id was taken and its document is gone")
        return found

    async def _keep(self, letters: Sequence[NewLetter]) -> None:
        try:
            await self._bounded(keep(self._db, letters))
        except BulkWriteError as error:
            raise unavailable(error) from error


def _header(frame: Frame, partition: int) -> dict[str, Any]:
    header = {
        "_id": frame.frame_id,
        "srv": frame.srv,
        "seq": frame.seq,
        "n": frame.count,
        "ids": b"".join(frame.ids),
        "bucket": bucket_of(frame.accepted_ms),
        "entry": frame.entry_id,
    }
    if partition:
        header["partition"] = partition
    if frame.external:
        header["external"] = True
    header["written_at"] = now()
    return header


def _reasons(outcome: Outcome, failures: dict[int, Failure]) -> list[str]:
    return [_reason(failures[index]).reason for index in outcome.dead]


def _reason(failure: Failure) -> Failure:
    if failure.reason:
        return failure
    return Failure(ID_CONFLICT, "another event with the same source, id and time is stored")
