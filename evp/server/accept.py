"""The accept path: from the bytes of a request to a 202, in one page.

    body ──decode──▶ events ──documents, ids──▶ open frame ──XADD──▶ log, on disk ──▶ answer

Both HTTP layers call `Acceptor.accept` with the raw body. Everything up to the
open frame happens at once, in the caller's turn of the loop; the answer comes
when the log has the frame on disk. A refused request leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable

from evp.clock import now
from evp.codec import Decoded, Media, decode, decode_one
from evp.documents import Admission
from evp.errors import AckUnknown, LogUnavailable, Refusal
from evp.metrics.counts import IngestCounts
from evp.metrics.families import Values
from evp.server.answer import JSON, Answer
from evp.server.backpressure import BacklogPart, Backpressure
from evp.server.logwatch import LogWatch, refusal_of
from evp.server.problem import fault, problem
from evp.server.told import Tell, tell_batch, tell_event
from evp.settings import Settings
from evp.sift import Sifted, sift
from evp.stream.client import LogFull
from evp.stream.flusher import Flusher
from evp.stream.keys import Keys
from evp.stream.producer import Epoch, Producer

Respond = Callable[[Answer], None]

_EVENT, _CLOUD_EVENT = Media.EVENT, Media.CLOUD_EVENT


class Acceptor:
    """Takes requests for one server process."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer(
            settings.redis_url,
            Keys(settings.stream),
            settings.durability,
            settings.durability_replicas,
        )
        self._admission = Admission(settings.default_source, settings.time_in_id)
        self._flusher = Flusher(self._producer, self._admission)
        self._backpressure = Backpressure(settings, self._flusher)
        self._log = LogWatch(self._producer, self._backpressure)

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

        def done(result: str | LogUnavailable) -> None:
            if isinstance(result, LogUnavailable):
                respond(self._failed(result))
                return
            try:
                answer = Answer(202, tell(ids, result, first, self._log.durability), JSON)
            except Exception as error:  # noqa: BLE001 - others wait for the same frame
                answer = fault(error)
            respond(answer)

        made, first = self._flusher.add(decoded, done, batch=batch)
        # `done` holds on to the ids alone: the documents are free as soon as they are encoded.
        ids = made.ids
        return len(ids)

    def sift(self, body: bytes, media: Media) -> Sifted:
        """Return what `take` can take of a batch, and why not the rest. Raises Refusal.

        Changes nothing; for a large batch call it in a thread.
        """
        return sift(body, media, now(), self._admission)

    def _failed(self, error: LogUnavailable) -> Answer:
        """Return the answer to a request whose frame the log did not acknowledge."""
        if isinstance(error, LogFull):
            self._backpressure.overflowed()
            return self.refused(self._backpressure.refusal(0))
        self._log.look_now()
        if isinstance(error, AckUnknown):
            detail = "the log did not confirm it; send the same event again, with id and time"
            return self.refused(Refusal("ack_unknown", detail, retry_after_s=1))
        return self.refused(refusal_of(error))

    def refusal_of(self, size_bytes: int) -> Refusal | None:
        """Return why a body of this size can't be taken now; None if it can."""
        if self._log.refusal is None and size_bytes <= self._flusher.room_bytes:
            return None
        return self._log.refusal or self._backpressure.refusal(size_bytes)

    def refused(self, refusal: Refusal) -> Answer:
        """Return the answer to a request for events that is refused, and count it."""
        self.counts.requests[refusal.code] += 1
        return problem(refusal)

    async def start(self) -> None:
        """Connect and keep connected. Does not fail: `refusal` says what is wrong."""
        self._flusher.start()
        await self._log.start()
        self._backpressure.start()

    def refuse_new(self) -> None:
        """Refuse every request from now on; those already taken are still answered."""
        self._log.end(Refusal("shutting_down", "this server is stopping", retry_after_s=1))

    async def drain(self) -> None:
        """Answer what was taken."""
        self.refuse_new()
        await self._flusher.drain()
        await self._stop_looking()

    async def close(self) -> None:
        """Disconnect. Whoever still waits for the log is told that nobody knows."""
        self.refuse_new()
        await self._stop_looking()
        await self._producer.close()
        await self._flusher.drain()
        await self._flusher.stop()

    async def _stop_looking(self) -> None:
        await self._log.close()
        await self._backpressure.close()

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing can be accepted here; None if it can, or only has to wait for the backlog."""
        return self._log.refusal

    @property
    def durability(self) -> str:
        """What a 202 is worth: fsync, declared or memory; empty before the first connection."""
        return self._log.durability

    @property
    def backlog(self) -> BacklogPart:
        """What waits in the log, and whether more may be added."""
        return self._backpressure.part()

    @property
    def counts(self) -> IngestCounts:
        """What was counted since this process started."""
        return self._flusher.counts

    def values(self) -> Values:
        """Return what metrics tell of this process."""
        durability = self._producer.durability
        lasts = durability is not None and durability.label != "memory"
        return {
            **self.counts.values(),
            "evp_log_durable": lasts,
            "evp_ingest_ready": self.refusal is None,
            "evp_ingest_backlog_full": self._backpressure.full,
        }

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        """Return this process's epochs to record: (those that are closed, those that may grow)."""
        return self._producer.epochs()

    def forget(self, closed: list[Epoch]) -> None:
        """Forget closed epochs that the store has recorded."""
        self._producer.forget(closed)
