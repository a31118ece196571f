"""Gathering what log and store have of one event.

    its receipt, or what the store has → each frame that holds it → what became of it there

The log is asked first and the store then, as events move. One of the two may be away;
then the other one tells what it can.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from bson import ObjectId

from evp.batch.raw import member
from evp.errors import LogUnavailable, StoreUnavailable, UsageError
from evp.limits import EVENT_LETTERS_MAX, TRACE_STORE_REACH_S_MAX, TRACE_STORE_S_MAX
from evp.settings import Settings
from evp.storage.bounded import limited
from evp.storage.client import Database, opened, reach
from evp.storage.dlq import letters_of_entry
from evp.storage.groups import writer
from evp.storage.partitions import known_partitions
from evp.storage.whereabouts import Whereabouts, begun, begun_frame, has_gone, whereabouts
from evp.storage.workers import heard, worker_rows
from evp.stream.asking import told_away
from evp.stream.keys import Keys
from evp.trace.log import EntryPlace, LogReader, Notify, Search
from evp.trace.story import Searched, Story
from evp.trace.tell import Asked, Evidence, Held, complete


async def trace(settings: Settings, asked: Asked, notify: Notify) -> Story:
    """Return the story of an event; what is away is told in it.

    Raises UsageError if a receipt's frame has fewer events than `nth` asks for.
    """
    log = LogReader(settings)
    try:
        async with opened(settings, connections_max=1) as db:
            evidence = Evidence(asked, settings.consumer_group, asked.event_id)
            return await _Tracer(settings.stream, log, db, evidence).trace(notify)
    finally:
        await log.close()


class _Tracer:
    """Asks log and store in turn; the store and each partition no more once it is away."""

    def __init__(self, stream: str, log: LogReader, db: Database, evidence: Evidence) -> None:
        self._stream = stream
        self._log = log
        self._db = db
        self._evidence = evidence
        self._story = Story()
        self._away: dict[int, str] = {}
        self._stored_partitions = 1

    async def trace(self, notify: Notify) -> Story:
        asked, frames = self._evidence.asked, self._evidence.frames
        if asked.receipt is not None:
            self._add(EntryPlace(asked.receipt.partition, asked.receipt.entry_id))
        await self._ask_store(self._ask_who_writes)
        await self._log.find(self._stored_partitions)
        await self._see_entries()
        await self._ask_store(self._look_up)
        await self._see_entries()
        if asked.search or (asked.receipt is None and not frames):
            await self._search(notify)
            await self._see_entries()
            # It may have moved meanwhile.
            await self._ask_store(self._look_up)
        self._story.partitions = self._log.partitions
        self._story.log_error = told_away(self._away, self._log.partitions)
        complete(self._story, self._evidence)
        return self._story

    async def _ask_log(self, partition: int, look: Callable[[], Awaitable[None]]) -> None:
        if partition not in self._away:
            try:
                await look()
            except LogUnavailable as error:
                self._away[partition] = str(error)

    async def _ask_store(self, look: Callable[[], Awaitable[None]]) -> None:
        if self._story.store_error is None:
            try:
                await reach(self._db, TRACE_STORE_REACH_S_MAX)
                with limited(TRACE_STORE_S_MAX):
                    await look()
            except StoreUnavailable as error:
                self._story.store_error = str(error)

    async def _ask_who_writes(self) -> None:
        working = heard(await worker_rows(self._db))
        self._story.stored_per_s = sum(one.stored_per_s for one in working)
        writing = await writer(self._db)
        if writing is not None:
            self._evidence.group = writing[1]
        self._stored_partitions = await known_partitions(self._db)

    async def _see_edges(self, partition: int) -> None:
        if partition not in self._evidence.edges:
            self._evidence.edges[partition] = await self._log.edges(partition)

    async def _see_entries(self) -> None:
        """Look into the log for each frame that was not looked for there."""
        for frame in self._evidence.frames.values():
            if frame.in_log is None:
                await self._ask_log(frame.place.partition, partial(self._see, frame))
        self._name_event()

    async def _see(self, frame: Held) -> None:
        await self._see_edges(frame.place.partition)
        frame.sight = await self._log.sight(frame.place, self._evidence.group)
        frame.in_log = frame.sight is not None

    async def _search(self, notify: Notify) -> None:
        """Look through the log for frames that hold the event."""
        if self._evidence.event_id is None:
            return
        for partition in range(self._log.partitions):
            await self._ask_log(partition, partial(self._see_edges, partition))
        edges = self._evidence.edges
        search = Search(self._evidence.event_id)
        search.expected = sum(one.events_behind for one in edges.values())
        for partition, end in edges.items():
            through = partial(self._log.search, partition, search, end, notify)
            await self._ask_log(partition, through)
        for place in search.found:
            self._add(place)
        if len(self._away) < self._log.partitions:
            self._story.searched = Searched(search.events, search.whole and not self._away)

    async def _look_up(self) -> None:
        """Ask the store for each frame, then for the event and the frames that it is of."""
        evidence = self._evidence
        for frame in evidence.frames.values():
            partition, entry_id = frame.place
            frame.begun = await begun(self._db, entry_id, partition)
            is_readable = frame.sight is not None and frame.sight.error is None
            if frame.begun is None and not is_readable:
                stream, most = Keys(self._stream, partition).stream, EVENT_LETTERS_MAX
                frame.letters = await letters_of_entry(self._db, stream, entry_id, most)
        self._name_event()
        if evidence.event_id is None:
            return
        evidence.found = found = await whereabouts(self._db, evidence.event_id)
        for frame_id in _frames_of(found):
            known = await begun_frame(self._db, frame_id)
            if known is not None:
                self._add(EntryPlace(known.partition, known.entry_id)).begun = known
        for frame in evidence.frames.values():
            if found.nothing and frame.begun is not None and frame.begun.settled:
                frame.has_gone = await has_gone(self._db, frame.begun)

    def _add(self, place: EntryPlace) -> Held:
        return self._evidence.frames.setdefault(place, Held(place))

    def _name_event(self) -> None:
        """Find the id of the event that a receipt is about."""
        evidence, receipt = self._evidence, self._evidence.asked.receipt
        if receipt is None or evidence.event_id is not None:
            return
        place = EntryPlace(receipt.partition, receipt.entry_id)
        ids, index = evidence.frames[place].ids, receipt.first + evidence.asked.nth
        if ids and index >= len(ids):
            raise UsageError(
                f"there is no such event: entry {receipt.entry_id} holds {len(ids):,}, and number "
                f"{index + 1:,} is asked for"
            )
        if ids:
            evidence.event_id = ids[index]


def _frames_of(found: Whereabouts) -> list[ObjectId]:
    """Return the frames that the store names: that of the stored event, and those of letters."""
    holder = None if found.event is None else member(found.event, "frame_id")
    named = [holder] if isinstance(holder, ObjectId) else []
    named += [ObjectId(one.frame_id) for one in found.letters if one.frame_id is not None]
    return list(dict.fromkeys(named))
