"""The accept path: from the bytes of a request to a 202, in one page.

    body ──decode──▶ events ──documents, ids──▶ open frame ──XADD──▶ log, on disk ──▶ answer

Both HTTP layers call `Acceptor.accept` with the raw body. Everything up to the
open frame happens at once, in the caller's turn of the loop; the answer comes
when the log has the frame on disk. A refused request leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

from evp.clock import now
from evp.codec import Decoded, Media, decode, decode_one
from evp.documents import Admission, Documents
from evp.errors import AckUnknown, LogUnavailable, Refusal
from evp.metrics.counts import IngestCounts
from evp.metrics.families import Values
from evp.server.answer import JSON, Answer
from evp.server.backpressure import BacklogPart
from evp.server.lane import Announcer, Lane
from evp.server.logwatch import refusal_of
from evp.server.neighbours import Neighbours
from evp.server.problem import fault, problem
from evp.server.told import Tell, tell_batch, tell_event
from evp.settings import Settings
from evp.sift import Sifted, sift
from evp.stream.client import LogFull
from evp.stream.flusher import Done
from evp.stream.keys import Keys

Respond = Callable[[Answer], None]

_EVENT, _CLOUD_EVENT = Media.EVENT, Media.CLOUD_EVENT


class Acceptor:
    """Takes requests for one server process, each for the partition of the log whose turn it is."""

    def __init__(
        self, settings: Settings, store_knows: Callable[[], Awaitable[int]] | None = None
    ) -> None:
        self._admission = Admission(settings.default_source, settings.time_in_id)
        self.counts = IngestCounts()
        """What was counted since this process started."""
        self.announcer = Announcer(settings, store_knows)
        neighbours = Neighbours(settings.partitions)
        self.lanes = [
            Lane(settings, keys, self._admission, self.counts, self.announcer, neighbours)
            for keys in (Keys(settings.stream, number) for number in range(settings.partitions))
        ]
        self._turns = itertools.cycle(self.lanes)
        self._lane = next(self._turns)

    def accept(self, body: bytes, media: Media, respond: Respond) -> int:
        """Take one request; `respond` is called exactly once, now or when the log has it.

        Returns how many events were taken. Never raises. `respond` must not raise
        either; whoever has gone by then ignores the answer.
        """
        refusal = self.refusal_of(len(body))
        if refusal is not None:
            respond(self.refused(refusal))
            return 0
        try:
            if media is _EVENT or media is _CLOUD_EVENT:
                return self.take(decode_one(body, media), tell_event, respond, batch=False)
            return self.take(decode(body, media), tell_batch, respond, batch=True)
        except Refusal as error:
            respond(self.refused(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours ends one request, not a connection
            respond(fault(error))
        return 0

    def take(self, decoded: Decoded, tell: Tell, respond: Respond, *, batch: bool) -> int:
        """Take events that are decoded, and return how many; `tell` makes the body of the 202.

        Raises Refusal; then nothing was kept, and `respond` is never called.
        """
        lane = self._lane

        def done(result: str | LogUnavailable) -> None:
            if isinstance(result, LogUnavailable):
                respond(self._failed(lane, result))
                return
            try:
                told = tell(ids, lane.place + result, first, lane.log.durability)
                answer = Answer(202, told, JSON)
            except Exception as error:  # noqa: BLE001 - others wait for the same frame
                answer = fault(error)
            respond(answer)

        try:
            made, first = lane.flusher.add(decoded, done, batch=batch)
        except Refusal as refusal:
            lane, made, first = self._add_elsewhere(refusal, decoded, done, batch=batch)
        self._lane = next(self._turns)
        # `done` holds on to the ids alone: the documents are free as soon as they are encoded.
        ids = made.ids
        return len(ids)

    def _add_elsewhere(
        self, refusal: Refusal, decoded: Decoded, done: Done, *, batch: bool
    ) -> tuple[Lane, Documents, int]:
        """Add events to another partition than the one that has no room for their documents.

        Raises the refusal if no other one takes them.
        """
        for _ in self.lanes[1:]:
            lane = self._lane = next(self._turns)
            if lane.log.refusal is None:
                with contextlib.suppress(Refusal):
                    return lane, *lane.flusher.add(decoded, done, batch=batch)
        self._lane = next(self._turns)
        raise refusal

    def sift(self, body: bytes, media: Media) -> Sifted:
        """Return what `take` can take of a batch, and why not the rest. Raises Refusal.

        Changes nothing; for a large batch call it in a thread.
        """
        return sift(body, media, now(), self._admission)

    def _failed(self, lane: Lane, error: LogUnavailable) -> Answer:
        """Return the answer to a request whose frame the log did not acknowledge."""
        if isinstance(error, LogFull):
            lane.backpressure.overflowed()
            return self.refused(lane.backpressure.refusal(0))
        lane.log.look_now()
        if isinstance(error, AckUnknown):
            detail = "the log did not confirm it; send the same event again, with id and time"
            return self.refused(Refusal("ack_unknown", detail, retry_after_s=1))
        return self.refused(refusal_of(error))

    def refusal_of(self, size_bytes: int) -> Refusal | None:
        """Return why a body of this size can't be taken now; None if it can.

        A partition that can't take it is passed over while another one can.
        """
        lane = self._lane
        if lane.log.refusal is None and size_bytes <= lane.flusher.room_bytes:
            return None
        refusal = lane.refusal_of(size_bytes)
        for _ in self.lanes[1:]:
            self._lane = next(self._turns)
            if self._lane.refusal_of(size_bytes) is None:
                return None
        return refusal

    def refused(self, refusal: Refusal) -> Answer:
        """Return the answer to a request for events that is refused, and count it."""
        self.counts.requests[refusal.code] += 1
        return problem(refusal)

    async def start(self) -> None:
        """Connect and keep connected. Does not fail: `refusal` says what is wrong."""
        self.announcer.start()
        await asyncio.gather(*(lane.start() for lane in self.lanes))

    def refuse_new(self) -> None:
        """Refuse every request from now on; those already taken are still answered."""
        for lane in self.lanes:
            lane.log.end(Refusal("shutting_down", "this server is stopping", retry_after_s=1))

    async def drain(self) -> None:
        """Answer what was taken."""
        self.refuse_new()
        await asyncio.gather(*(lane.drain() for lane in self.lanes))

    async def close(self) -> None:
        """Disconnect. Whoever still waits for the log is told that nobody knows."""
        self.refuse_new()
        await asyncio.gather(*(lane.close() for lane in self.lanes))
        await self.announcer.close()

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing can be accepted here; None if it can, or only has to wait for the backlog."""
        refusals = [lane.log.refusal for lane in self.lanes]
        return None if None in refusals else refusals[0]

    @property
    def troubles(self) -> list[str]:
        """Which partitions can't be written to, and why, while others can."""
        if self.refusal is not None:
            return []
        return [
            f"partition {lane.keys.partition}: {lane.log.refusal.detail}"
            for lane in self.lanes
            if lane.log.refusal is not None
        ]

    @property
    def durability(self) -> str:
        """What a 202 is worth: fsync, declared or memory; empty before the first connection."""
        return next((lane.log.durability for lane in self.lanes if lane.log.durability), "")

    @property
    def backlog(self) -> BacklogPart:
        """What waits in the log, and whether more may be added; of the fullest partition."""
        fullest = max(
            self.lanes, key=lambda lane: (lane.backpressure.full, lane.backpressure.events)
        )
        return fullest.backpressure.part()

    def values(self) -> Values:
        """Return what metrics tell of this process."""
        connected = [one for lane in self.lanes if (one := lane.producer.durability) is not None]
        return {
            **self.counts.values(),
            "evp_log_durable": bool(connected) and all(one.label != "memory" for one in connected),
            "evp_ingest_ready": self.refusal is None,
            "evp_ingest_backlog_full": all(lane.backpressure.full for lane in self.lanes),
        }
