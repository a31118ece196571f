"""Frames, judged by their events: each stored, or dead with its letter there.

A page is looked at quickly, and what looks wrong once more by itself, in the order in
which an event moves: log, outcome, dead letter, document. So whatever was on its
way during the first look is found in the second, and only what is nowhere is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId
from msgspec import Struct

from evp.storage.client import Database
from evp.storage.evidence import (
    FrameHeader,
    Settled,
    frames_by_id,
    letter_id,
    lettered,
    outcomes_by_id,
    owners,
    stored_ids,
)
from evp.storage.retention import has_expired
from evp.verify.logview import LogView, Whereabouts
from evp.verify.report import Counts, Kind

_LOOKS_MAX = 5
_KINDS = {Whereabouts.GONE: Kind.ENTRY_LOST, Whereabouts.ACKED: Kind.ACKED_NOT_STORED}


class Fault(Struct, frozen=True):
    """What is wrong with a frame, and with which of its events, in their order.

    `unaccounted` is how many numbered events the account of its frame does not count.
    """

    kind: Kind
    frame: FrameHeader
    event_ids: list[bytes]
    unaccounted: int = 0


class Verdicts(Struct, frozen=True):
    """What a close look found, and frames whose outcome changed each time it was looked at."""

    faults: list[Fault]
    unsteady: list[ObjectId]


class Judge:
    """Judges frames. `counts` is added to; what only the log could tell goes to `undecided`."""

    def __init__(self, db: Database, log: LogView, counts: Counts) -> None:
        self._db = db
        self._log = log
        self._counts = counts
        self.undecided = 0
        self._has_expired = False

    async def quick(
        self, page: Sequence[FrameHeader], *, with_ids: bool
    ) -> tuple[list[FrameHeader], list[FrameHeader]]:
        """Count a page; return (frames that are not settled for good, frames that look wrong).

        Without ids, all that are settled are taken as good, but for losses that expired frames
        keep. Raises StoreUnavailable.
        """
        outcomes = await outcomes_by_id(self._db, [one.frame_id for one in page])
        unsettled: list[FrameHeader] = []
        suspects: list[FrameHeader] = []
        settled: list[tuple[FrameHeader, Settled]] = []
        for frame in page:
            outcome = outcomes.get(frame.frame_id)
            if _is_expired(frame, outcome):
                self._counts.expired_frames += 1
                suspects += [frame] if frame.lost else []
                continue
            self._count(frame, outcome)
            if outcome is None or not outcome.final:
                unsettled.append(frame)
            else:
                settled.append((frame, outcome))
        if with_ids:
            suspects += await self._suspects(settled)
        return unsettled, suspects

    async def suspects(self, page: Sequence[FrameHeader]) -> list[FrameHeader]:
        """Return the settled frames of a page that look wrong; counts their ids only."""
        outcomes = await outcomes_by_id(self._db, [one.frame_id for one in page])
        pairs = [(one, outcomes[one.frame_id]) for one in page if one.frame_id in outcomes]
        return await self._suspects(
            [pair for pair in pairs if pair[1].final and not _is_expired(*pair)]
        )

    def _count(self, frame: FrameHeader, outcome: Settled | None) -> None:
        counts = self._counts
        counts.frames += 1
        counts.events += frame.count
        counts.external_events += frame.count if frame.external else 0
        if outcome is None:
            return
        counts.stored += outcome.stored
        counts.duplicate += outcome.duplicate
        counts.dead += len(outcome.dead)
        if outcome.final:
            self._log.settled(frame)

    async def _suspects(self, settled: Sequence[tuple[FrameHeader, Settled]]) -> list[FrameHeader]:
        """Return the settled frames of which something was not found in a quick look."""
        letters, there = await self._evidence(settled)
        self._counts.ids_checked += sum(len(_to_be_stored(*pair)) for pair in settled)
        return [
            frame
            for frame, outcome in settled
            if not _adds_up(frame, outcome)
            or not there.issuperset(_to_be_stored(frame, outcome))
            or any(letter_id(frame.frame_id, index) not in letters for index in outcome.dead)
        ]

    async def closely(self, frame_ids: Sequence[ObjectId]) -> Verdicts:
        """Return what is wrong with frames that look wrong, which may be nothing.

        Raises StoreUnavailable, and LogUnavailable if all of the log has gone away meanwhile.
        """
        faults: list[Fault] = []
        before: dict[ObjectId, Settled | None] = dict.fromkeys(frame_ids)
        for _ in range(_LOOKS_MAX):
            found, outcomes = await self._look(list(before))
            changed = {}
            for fault in found:
                frame_id = fault.frame.frame_id
                outcome = outcomes.get(frame_id)
                # An outcome that changes says that somebody works on the frame.
                if outcome == before[frame_id]:
                    faults.append(fault)
                else:
                    changed[frame_id] = outcome
            before = changed
            if not changed:
                break
        return Verdicts(faults, list(before))

    async def _look(
        self, frame_ids: Sequence[ObjectId]
    ) -> tuple[list[Fault], dict[ObjectId, Settled]]:
        """Return what is wrong now, and the outcomes it was judged by."""
        frames = list((await frames_by_id(self._db, frame_ids)).values())
        # An entry is acked, and leaves the log, when its frame is settled: so the log comes first.
        where = {one.frame_id: await self._log.where(one) for one in frames}
        outcomes = await outcomes_by_id(self._db, frame_ids)
        faults: list[Fault] = []
        settled: list[tuple[FrameHeader, Settled]] = []
        for frame in frames:
            outcome = outcomes.get(frame.frame_id)
            if _is_expired(frame, outcome):
                if frame.lost:
                    faults.append(_lost(Kind.ENTRY_LOST, frame, frame.lost_ids))
                continue
            if outcome is not None and outcome.final:
                settled.append((frame, outcome))
            elif where[frame.frame_id] is not Whereabouts.WAITING and (
                lost := await self._nowhere(frame)
            ):
                kind = _KINDS.get(where[frame.frame_id])
                if kind is None:
                    self.undecided += 1
                else:
                    faults.append(_lost(kind, frame, lost))
        return faults + await self._look_at_settled(settled), outcomes

    async def _look_at_settled(self, settled: Sequence[tuple[FrameHeader, Settled]]) -> list[Fault]:
        letters, there = await self._evidence(settled)
        faults: list[Fault] = []
        for frame, outcome in settled:
            dead = set(outcome.dead)
            missing = [
                index
                for index, id_ in enumerate(frame.event_ids)
                if index not in dead and id_ not in there
            ]
            unlettered = [
                index for index in outcome.dead if letter_id(frame.frame_id, index) not in letters
            ]
            if not _adds_up(frame, outcome):
                less = 0 if frame.external else frame.count - _sum_of(outcome)
                faults.append(Fault(Kind.COUNTS_WRONG, frame, [], less))
            if missing and not await self._were_expired(frame, outcome, missing):
                faults.append(Fault(Kind.EVENT_MISSING, frame, _picked(frame, missing)))
            if unlettered:
                faults.append(Fault(Kind.LETTER_MISSING, frame, _picked(frame, unlettered)))
        return faults

    async def _were_expired(
        self, frame: FrameHeader, outcome: Settled, missing: Sequence[int]
    ) -> bool:
        """Return whether only duplicates are missing, of events that retention may have deleted.

        A duplicate is the document of another frame: if that one is not expired, it tells the loss.
        """
        ids = frame.event_ids
        if len({ids[index] for index in missing}) > outcome.duplicate:
            return False
        self._has_expired = self._has_expired or await has_expired(self._db)
        if not self._has_expired:
            return False
        own = [one for one in (await owners(self._db, ids)).values() if one == frame.frame_id]
        return len(own) >= outcome.stored

    async def _evidence(
        self, settled: Sequence[tuple[FrameHeader, Settled]]
    ) -> tuple[set[str], set[bytes]]:
        """Return the dead letters and the documents there are of settled frames."""
        # Letters before documents: a letter that is replayed goes when its event is stored.
        places = [(frame.frame_id, index) for frame, outcome in settled for index in outcome.dead]
        letters = await lettered(self._db, places)
        wanted = [id_ for pair in settled for id_ in _to_be_stored(*pair)]
        return letters, await stored_ids(self._db, wanted)

    async def _nowhere(self, frame: FrameHeader) -> list[bytes]:
        """Return the ids of events that are neither stored nor kept as a dead letter."""
        ids = frame.event_ids
        there = await stored_ids(self._db, ids)
        absent = [index for index, id_ in enumerate(ids) if id_ not in there]
        letters = await lettered(self._db, [(frame.frame_id, index) for index in absent])
        absent = [one for one in absent if letter_id(frame.frame_id, one) not in letters]
        # Again: a letter that is replayed goes when its event is stored.
        there = await stored_ids(self._db, [ids[index] for index in absent])
        return [ids[index] for index in absent if ids[index] not in there]


def _lost(kind: Kind, frame: FrameHeader, ids: list[bytes]) -> Fault:
    """Return that events of a frame are nowhere, and in no account."""
    return Fault(kind, frame, ids, 0 if frame.external else len(ids))


def _picked(frame: FrameHeader, indexes: Sequence[int]) -> list[bytes]:
    ids = frame.event_ids
    return [ids[index] for index in indexes]


def _is_expired(frame: FrameHeader, outcome: Settled | None) -> bool:
    return frame.expired or (outcome is not None and outcome.expired)


def _adds_up(frame: FrameHeader, outcome: Settled) -> bool:
    return _sum_of(outcome) == frame.count


def _sum_of(outcome: Settled) -> int:
    return outcome.stored + outcome.duplicate + len(outcome.dead)


def _to_be_stored(frame: FrameHeader, outcome: Settled) -> list[bytes]:
    """Return the ids of the events that are not dead."""
    if not outcome.dead:
        return frame.event_ids
    dead = set(outcome.dead)
    return [id_ for index, id_ in enumerate(frame.event_ids) if index not in dead]
