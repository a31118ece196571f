"""Group commit: while one frame is on its way to the disk, the next one fills.

Load makes frames bigger; a lone event waits for nobody. Requests of a frame
share its fate. A request that goes away takes nothing with it: its callback is
called all the same and finds nobody to answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from evp.codec import Decoded
from evp.documents import Admission, Documents
from evp.errors import AckUnknown, LogUnavailable, Refusal
from evp.frame import OpenFrame
from evp.limits import FRAMES_WAITING_MAX
from evp.logs import get
from evp.stream.producer import Producer

_log = get("evp.accept")

Done = Callable[[str | LogUnavailable], None]
"""Told the entry id, or why there is none. Must not raise."""


class Flusher:
    """The one queue between the requests of a process and the log."""

    def __init__(self, producer: Producer, admission: Admission) -> None:
        self._producer = producer
        self._admission = admission
        self._frame = OpenFrame()
        self._waiting: list[Done] = []
        self._closed_frames: deque[tuple[OpenFrame, list[Done]]] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start flushing; needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="flusher")

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing can be added now; None if it can."""
        if len(self._closed_frames) < FRAMES_WAITING_MAX:
            return None
        detail = "more is waiting for the log than it takes"
        return Refusal("backlog_full", detail, retry_after_s=1)

    def add(self, decoded: Decoded, done: Done, *, batch: bool) -> tuple[Documents, int]:
        """Put the events of one request into the open frame; `done` is called exactly once.

        Returns their documents and the index of the first one in its frame.
        Raises Refusal; then nothing was added and `done` is never called.
        """
        if self.refusal is not None:
            raise self.refusal
        frame = self._frame
        first = frame.count
        made = frame.add(decoded, self._admission, batch=batch)
        self._waiting.append(done)
        if frame.full:
            self._close_frame()
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
            frame, waiting = self._closed_frames.popleft()
            result: str | LogUnavailable
            try:
                result = await self._producer.append(frame, len(waiting))
            except LogUnavailable as error:
                result = error
            except Exception as error:  # noqa: BLE001 - whoever waits must be answered, and the next frame sent
                _log.error("unexpected error in an append", exc_info=error)
                result = AckUnknown(f"unexpected error: {type(error).__name__}")
            for done in waiting:
                done(result)
            if not self._closed_frames and not self._waiting:
                self._work.clear()
                self._idle.set()

    def _close_frame(self) -> None:
        self._closed_frames.append((self._frame, self._waiting))
        self._frame = OpenFrame()
        self._waiting = []
