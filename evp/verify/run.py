"""`evp verify`, on one page: nothing that was accepted is nowhere.

    records → log → frames, outcomes → dead letters → events

An event moves through log and store from left to right, and is read in the same
order, so that none can slip past between two reads on a system that works. What
looks lost is looked at again, after a while, before it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from bson import ObjectId

from evp.clock import from_ms, monotonic_s, now, to_ms
from evp.errors import EXIT_OK
from evp.frame import entry_ms
from evp.limits import VERIFY_AGAIN_S, VERIFY_DOUBTS_MAX
from evp.settings import Settings
from evp.storage.buckets import BUCKET_MS
from evp.storage.client import Database, close, connect, database, ping
from evp.storage.evidence import (
    FrameHeader,
    earlier_frame_pages,
    epoch_rows,
    event_pages,
    frame_pages,
    frames_by_id,
    settled_frames,
    unreadable_entries,
)
from evp.storage.groups import writer
from evp.storage.lookup import portions
from evp.storage.sweep import judge_again
from evp.stream.headers import Header
from evp.verify import findings
from evp.verify.documents import Documents
from evp.verify.epochs import Epochs, Hole
from evp.verify.holes import Known, Part, Spans, counted, lost_events, parts_of
from evp.verify.judge import Fault, Judge
from evp.verify.logview import LogView, Whereabouts
from evp.verify.notes import Notes
from evp.verify.report import Kind, Report, Scope
from evp.verify.sample import Sample

Progress = Callable[[str, int, int | None], None]
"""Told what is looked at now, how much of it is done, and of how much if that is known."""

_LOST = (Kind.ENTRY_LOST, Kind.EVENT_MISSING, Kind.LETTER_MISSING)


async def verify(settings: Settings, scope: Scope, progress: Progress) -> Report:
    """Look at everything in the scope and return what differs.

    Works beside servers and workers, and changes nothing but what `repair` and
    `acknowledge` ask for. With the log away, what only the log can tell is counted as undecided.
    What can't be acknowledged is reported as it is, and why.
    So it is where one of several partitions goes away in the middle.
    Raises StoreUnavailable; and LogUnavailable if all of the log goes away while it is looked at.
    """
    client = connect(settings)
    log = LogView(settings)
    report = Report(stream=settings.stream, database=settings.mongo_db, scope=scope, began_at=now())
    started_at_s = monotonic_s()
    try:
        db = database(client, settings.mongo_db)
        await ping(db)
        await _Verification(db, log, report, progress).run()
    finally:
        await log.close()
        await close(client)
    report.took_s = round(monotonic_s() - started_at_s, 3)
    report.clean = report.exit_code == EXIT_OK
    return report


class _Verification:
    """One run."""

    def __init__(self, db: Database, log: LogView, report: Report, progress: Progress) -> None:
        self._db = db
        self._log = log
        self._report = report
        self._scope = report.scope
        self._progress = progress
        self._epochs = Epochs()
        self._judge = Judge(db, log, report.counts)
        self._sample = Sample(report.scope.sample or 0)
        self._doubts: list[ObjectId] = []
        self._undone: dict[int, list[str]] = {}
        self._notes = Notes(db, report)
        self._since = _start_of_bucket(report.scope.since)
        self._since_ms = 0 if self._since is None else to_ms(self._since)

    async def run(self) -> None:
        await self._read_records()
        await self._read_log()
        await self._read_frames()
        await self._read_sample()
        if self._since is not None:
            await self._find_beginnings(self._since)
        self._epochs.freeze()
        await self._settle_doubts()
        await self._deliver_undone()
        if self._scope.every_document:
            await self._read_documents()
        self._count()
        await self._notes.write(self._epochs.lost_events)

    async def _read_records(self) -> None:
        await self._notes.load()
        writing = await writer(self._db)
        if writing is not None and writing[0] == self._report.stream:
            self._log.group = writing[1]
        # The log's come first: they leave it only when the store has them. It keeps them for a
        # while all the same, as the store may be put back; the larger number counts.
        await self._log.find(self._db)
        for partition, one in await self._log.records():
            said_ms = one.retired_ms or None
            self._epochs.record(one.srv, one.seq, one.events, said_ms, partition=partition)
        async for row in epoch_rows(self._db):
            said_ms = None if row.seen_at is None else to_ms(row.seen_at)
            partition = row.partition
            # It may be one that servers have begun to write to just now.
            self._log.grow(partition + 1)
            self._epochs.record(row.srv, row.seq, row.events, said_ms, partition=partition)

    async def _read_log(self) -> None:
        async for page in self._log.pages():
            for one in page:
                if self._must_be_stored(one):
                    at_ms = entry_ms(one.entry_id)
                    self._epochs.expect(one.srv, one.seq, at_ms, partition=one.partition)
                elif one.srv:
                    self._saw(one, early=True)
            self._progress("log", self._log.frames, None)

    def _must_be_stored(self, one: Header) -> bool:
        """Return True if a frame was settled before it was looked at, and headers of then are read.

        That the log has it still is no proof: the store may have been put back since.
        """
        return bool(one.srv) and one.acked and entry_ms(one.entry_id) >= self._since_ms

    async def _read_frames(self) -> None:
        done = 0
        expected = self._epochs.recorded[0] if self._since is None else None
        with_ids = self._scope.sample is None
        async for page in frame_pages(self._db, since=self._since, with_ids=with_ids):
            self._saw_all(page)
            unsettled, suspects = await self._judge.quick(page, with_ids=with_ids)
            if self._scope.repair:
                await self._repair(unsettled)
            self._sample.offer(frame.frame_id for frame in page)
            await self._tell(unsettled, in_doubt=True)
            await self._tell(suspects)
            done += len(page)
            self._progress("frames", done, expected)

    def _saw_all(self, page: list[FrameHeader]) -> None:
        for frame in page:
            if frame.srv:
                at_ms = entry_ms(frame.entry_id)
                self._saw(frame, early=self._log.was_early(frame.partition, at_ms))

    def _saw(self, frame: Header | FrameHeader, *, early: bool) -> None:
        at_ms, partition = entry_ms(frame.entry_id), frame.partition
        self._epochs.saw(frame.srv, frame.seq, frame.count, at_ms, early=early, partition=partition)

    async def _repair(self, unsettled: Sequence[FrameHeader]) -> None:
        """Have frames settled that no worker will settle by itself.

        Those whose entry the log has lost by what the store has of them. Others are acked: a
        store that was put back to a moment amid a frame may have all of it but its outcome.
        """
        where = [(one, await self._log.where(one)) for one in unsettled]
        lost = [one.frame_id for one, place in where if place is Whereabouts.GONE]
        self._report.counts.repaired_frames += len(await judge_again(self._db, lost))
        acked = [one for one, place in where if place is Whereabouts.ACKED]
        # The outcome comes before the ack, so it may be there by now.
        settled = await settled_frames(self._db, [one.frame_id.binary for one in acked])
        for one in acked:
            if one.frame_id.binary not in settled:
                self._undone.setdefault(one.partition, []).append(one.entry_id)

    async def _read_sample(self) -> None:
        """Look at the ids of the frames that were drawn."""
        for portion in portions(self._sample.drawn):
            page = list((await frames_by_id(self._db, portion)).values())
            await self._tell(await self._judge.suspects(page))

    async def _tell(self, frames: Sequence[FrameHeader], *, in_doubt: bool = False) -> None:
        """Look at frames closely and tell what is wrong; of those in doubt later once more."""
        if not frames:
            return
        verdicts = await self._judge.closely([one.frame_id for one in frames])
        for fault in verdicts.faults:
            if in_doubt and self._may_doubt():
                self._doubts.append(fault.frame.frame_id)
            else:
                self._tell_fault(fault)
        for frame_id in verdicts.unsteady:
            if self._may_doubt():
                self._doubts.append(frame_id)
            else:
                self._judge.undecided += 1

    def _may_doubt(self) -> bool:
        return len(self._doubts) < VERIFY_DOUBTS_MAX

    def _tell_fault(self, fault: Fault) -> None:
        # Of what was never recorded as accepted the balance does not know.
        is_recorded = 0 < fault.frame.seq <= self._epochs.recorded_upto(fault.frame.srv)
        self._notes.add(findings.of_fault(fault), fault.unaccounted if is_recorded else 0)
        if fault.kind in _LOST:
            self._report.counts.lost_events += len(fault.event_ids)
        if fault.kind is Kind.ACKED_NOT_STORED:
            self._undone.setdefault(fault.frame.partition, []).append(fault.frame.entry_id)

    async def _find_beginnings(self, since: datetime) -> None:
        """Find out at which number each epoch stood when the time began that is looked at."""
        unclear = self._epochs.without_beginning(to_ms(since))
        if not unclear:
            return
        async for page in earlier_frame_pages(self._db, since):
            self._saw_all(page)
            latest: dict[bytes, int] = {}
            for frame in page:
                if frame.srv in unclear:
                    latest[frame.srv] = max(latest.get(frame.srv, 0), frame.seq)
            for srv, seq in latest.items():
                self._epochs.stood(srv, seq)
                unclear.discard(srv)
            if not unclear:
                return

    async def _settle_doubts(self) -> None:
        """Look again at what may have been on its way, and tell what is still nowhere."""
        holes = self._holes()
        if not holes and not self._doubts:
            return
        self._progress("what is in doubt", 0, None)
        await asyncio.sleep(VERIFY_AGAIN_S)
        if holes:
            await self._tell_holes(holes)
        for portion in portions(list(dict.fromkeys(self._doubts))):
            verdicts = await self._judge.closely(portion)
            self._judge.undecided += len(verdicts.unsteady)
            for fault in verdicts.faults:
                self._tell_fault(fault)

    async def _deliver_undone(self) -> None:
        """Have frames delivered once more that the store has, and has not done with."""
        if not self._scope.repair:
            return
        for partition, entry_ids in self._undone.items():
            for some in portions(list(dict.fromkeys(entry_ids))):
                again = await self._log.deliver_again(partition, some)
                self._report.counts.redelivered_frames += again

    def _holes(self) -> list[Hole]:
        """Return what is missing where the log could be asked."""
        return [hole for hole in self._epochs.holes() if self._log.tells_of(hole.partition)]

    async def _tell_holes(self, holes: list[Hole]) -> None:
        """Look for frames that are missing once more, and tell which still are."""
        # What was acked at the first look had its dead letter then.
        missing = Spans.of(holes)
        letters = unreadable_entries(self._db)
        known = Known(missing, [one async for one in letters if missing.has(one.srv, one.seq)])
        await self._look_for(holes, known)
        by_epoch: dict[bytes, list[Part]] = {}
        for hole in self._holes():
            upto = self._epochs.recorded_upto(hole.srv)
            self._epochs.can_mend(hole.srv, known.acked_events(hole, upto))
            by_epoch.setdefault(hole.srv, []).extend(parts_of(hole, known))
        undone: list[Part] = []
        for parts in by_epoch.values():
            undone += self._tell_parts(parts)
        if undone and self._scope.repair:
            await self._deliver_again(undone)

    def _tell_parts(self, parts: list[Part]) -> list[Part]:
        """Tell what is missing of an epoch; return what of it the log still has."""
        last = max((one.last for one in parts if one.events is None), default=0)
        parts = counted(parts, self._epochs.nowhere_events(parts[0].srv, last))
        lost, is_known = lost_events(parts)
        self._report.counts.lost_events += lost
        self._report.counts.lost_events_at_least |= not is_known
        for part in parts:
            self._notes.add(findings.of_part(part))
        return [part for part in parts if part.kind is Kind.ACKED_NOT_STORED]

    async def _look_for(self, holes: list[Hole], known: Known) -> None:
        """Look through log and frames again, from where the first hole begins."""
        async for headers in self._log.pages(counted=False):
            for one in headers:
                if self._must_be_stored(one):
                    known.offer(one)
                elif one.srv:
                    self._saw(one, early=False)
        after = [hole.gap.after_ms for hole in holes]
        told = [one for one in after if one is not None]
        # A hole at an epoch's beginning may be anywhere.
        since = from_ms(min(told)) if len(told) == len(after) else None
        async for page in frame_pages(self._db, since=_start_of_bucket(since), with_ids=False):
            self._saw_all(page)

    async def _deliver_again(self, parts: list[Part]) -> None:
        """Have frames delivered once more that the log has and the store lacks."""
        missing = Spans((part.srv, part.first, part.last) for part in parts)
        async for headers in self._log.pages(counted=False):
            ids = [one.entry_id for one in headers if missing.has(one.srv, one.seq)]
            again = await self._log.deliver_again(headers[0].partition, ids)
            self._report.counts.redelivered_frames += again

    async def _read_documents(self) -> None:
        documents, counts = Documents(self._db), self._report.counts
        async for page in event_pages(self._db):
            for stranger in await documents.strangers(page):
                self._notes.add(findings.of_stranger(stranger))
            counts.documents_scanned += len(page)
            self._progress("events", counts.documents_scanned, None)

    def _count(self) -> None:
        self._report.partitions, self._report.log_error = self._log.partitions, self._log.error
        counts = self._report.counts
        counts.epochs = len(self._epochs)
        counts.recorded_frames, counts.recorded_events = self._epochs.recorded
        counts.in_log_frames, counts.in_log_events = self._log.frames, self._log.events
        self._report.undecided_frames = self._judge.undecided + sum(
            hole.frames for hole in self._epochs.holes() if not self._log.tells_of(hole.partition)
        )


def _start_of_bucket(moment: datetime | None) -> datetime | None:
    return None if moment is None else from_ms(to_ms(moment) // BUCKET_MS * BUCKET_MS)
