"""Whether the log can be written to: a connection kept up, its settings looked at now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from evp.batch.retry import Backoff
from evp.errors import LogNotDurable, LogUnavailable, Refusal
from evp.logs import get
from evp.server.backpressure import Backpressure
from evp.server.limits import DURABILITY_CHECK_S, RECONNECT_LONGEST_S
from evp.stream.producer import Producer

_log = get("evp.accept")


class LogWatch:
    """Keeps a producer connected from `start` to `close`; never raises.

    `announce` says that its stream is written to; it may raise LogUnavailable.

    `refusal` is why nothing can be accepted, None if it can; `durability` what a 202 is
    worth: fsync, declared or memory, and empty before the first connection.
    """

    def __init__(
        self,
        producer: Producer,
        backpressure: Backpressure,
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self.refusal: Refusal | None = Refusal("log_unavailable", "the log is not connected yet")
        self.durability = ""
        self._producer = producer
        self._backpressure = backpressure
        self._announce = announce
        self._ended = False
        self._look_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, and keep connected."""
        await self._look()
        self._task = asyncio.create_task(self._run(), name="log watch")

    def look_now(self) -> None:
        """Don't wait for the next look: an append has failed."""
        self._look_now.set()

    def end(self, refusal: Refusal) -> None:
        """Refuse everything from now on, whatever becomes of the log."""
        self._ended = True
        self.refusal = refusal

    async def close(self) -> None:
        """Stop looking; the producer is left connected."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff(longest_s=RECONNECT_LONGEST_S)
        while True:
            if self.refusal is None:
                backoff.reset()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DURABILITY_CHECK_S):
                        await self._look_now.wait()
            else:
                await asyncio.sleep(backoff.next_s())
            self._look_now.clear()
            await self._look()

    async def _look(self) -> None:
        before, found = self.refusal, None
        try:
            durability = await self._producer.connect()
            # Before the first append: what nobody knows of nobody would read.
            await self._announce()
            if before is not None:
                await self._backpressure.look()
        except LogUnavailable as error:
            found = refusal_of(error)
        else:
            self.durability = durability.label
        if self._ended:
            return
        self.refusal = found
        if found is None and before is not None:
            _log.info("accepting", durability=self.durability)
        elif found is not None and (before is None or before.detail != found.detail):
            _log.error("not accepting", code=found.code, reason=found.detail)


def refusal_of(error: LogUnavailable) -> Refusal:
    """Return what a request is told that the log can't take."""
    code = "log_not_durable" if isinstance(error, LogNotDurable) else "log_unavailable"
    return Refusal(code, str(error), retry_after_s=1)
