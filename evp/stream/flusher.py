"""Group commit: while one frame is on its way to the disk, the next one fills.

Load makes frames bigger; a lone event waits for nobody. Requests of a frame
share its fate. A request that goes away takes nothing with it: its callback is
called all the same and finds nobody to answer.

How much may wait is bounded, in frames and in bytes, and so is what may be added
until somebody has looked again how full the log is (`allow`). All of it comes
down to one number, `room_bytes`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable

from evp.clock import monotonic_s
from evp.codec import Decoded
from evp.documents import Admission, Documents
from evp.errors import AckUnknown, LogUnavailable, Refusal
from evp.frame import OpenFrame
from evp.limits import FRAMES_WAITING_BYTES_MAX, FRAMES_WAITING_MAX
from evp.logs import get
from evp.metrics.counts import ACCEPTED, REFUSED, UNKNOWN, IngestCounts
from evp.stream.producer import Producer

_log = get("evp.accept")

Done = Callable[[str | LogUnavailable], None]
"""Told the entry id, or why there is none. Must not raise."""


class Flusher:
    """The one queue between the requests of a process and a stream; several may share `counts`."""

    def __init__(
        self, producer: Producer, admission: Admission, counts: IngestCounts | None = None
    ) -> None:
        self._producer = producer
        self._admission = admission
        self.added_bytes = 0
        """What was ever added, in bytes of documents."""
        self.answered_bytes = 0
        """What of it was answered."""
        self.counts = counts or IngestCounts()
        self.room_bytes = FRAMES_WAITING_BYTES_MAX
        """How large a request may be that is added now, in the log; below 0 none may."""
        self.refuse: Callable[[int], Refusal] = _refuse
        """Says why a request of so many bytes can't be added."""
        self._limit_bytes = sys.maxsize
        self._frame = OpenFrame()
        self._waiting: list[Done] = []
        self._opened_at_s = 0.0
        self._closed_frames: deque[tuple[OpenFrame, list[Done], float]] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start flushing; needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="flusher")

    def allow(self, limit_bytes: int) -> None:
        """Say up to which `added_bytes` requests may be added; without a word there is no end."""
        self._limit_bytes = limit_bytes
        self._measure()

    def add(self, decoded: Decoded, done: Done, *, batch: bool) -> tuple[Documents, int]:
        """Put the events of one request into the open frame; `done` is called exactly once.

        Returns their documents and the index of the first one in its frame.
        Raises Refusal; then nothing was added and `done` is never called.
        """
        if self.room_bytes < 0:
            raise self.refuse(0)
        frame = self._frame
        first = frame.count
        made, carrier = frame.encode(decoded, self._admission, batch=batch)
        size_bytes = len(carrier)
        if size_bytes > self.room_bytes:
            # In the log it may take six times what it took as JSON.
            raise self.refuse(size_bytes)
        if first == 0:
            self._opened_at_s = monotonic_s()
        frame.join(made, carrier)
        self._waiting.append(done)
        self.added_bytes += size_bytes
        self.room_bytes -= size_bytes
        if frame.full:
            self._close_frame()
        if self._idle.is_set():
            self._idle.clear()
            self._work.set()
        return made, first

    async def drain(self) -> None:
        """Wait until everything that was added has been answered."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Stop flushing. Call `drain` first: what still waits would never be answered."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            # Everything else that is ready now gets into this frame.
            await asyncio.sleep(0)
            if not self._closed_frames:
                self._close_frame()
            frame, waiting, opened_at_s = self._closed_frames.popleft()
            self._measure()
            result: str | LogUnavailable
            became = ACCEPTED
            try:
                result = await self._producer.append(frame, len(waiting))
            except LogUnavailable as error:
                result = error
                became = UNKNOWN if isinstance(error, AckUnknown) else REFUSED
            except Exception as error:  # noqa: BLE001 - whoever waits must be answered, and the next frame sent
                _log.error("unexpected error in an append", exc_info=error)
                result, became = AckUnknown(f"unexpected error: {type(error).__name__}"), UNKNOWN
            self.counts.answered(became, frame.count, len(waiting), monotonic_s() - opened_at_s)
            self.answered_bytes += frame.size_bytes
            self._measure()
            for done in waiting:
                done(result)
            if not self._closed_frames and not self._waiting:
                self._work.clear()
                self._idle.set()

    def _close_frame(self) -> None:
        self._closed_frames.append((self._frame, self._waiting, self._opened_at_s))
        self._frame = OpenFrame()
        self._waiting = []
        self._measure()

    def _measure(self) -> None:
        if len(self._closed_frames) >= FRAMES_WAITING_MAX:
            self.room_bytes = -1
        else:
            may_wait_bytes = self.answered_bytes + FRAMES_WAITING_BYTES_MAX
            self.room_bytes = min(self._limit_bytes, may_wait_bytes) - self.added_bytes


def _refuse(_size_bytes: int) -> Refusal:
    detail = "more is waiting for the log than it takes"
    return Refusal("backlog_full", detail, retry_after_s=1)
