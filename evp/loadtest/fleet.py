"""The generator processes of one load test: started together, heard, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence

from evp.clock import monotonic_s
from evp.errors import EngineFailed, Unavailable
from evp.limits import CHILD_READY_S_MAX
from evp.loadtest.counts import Counts, Sample
from evp.loadtest.histogram import Histogram
from evp.loadtest.limits import LOADTEST_START_S
from evp.loadtest.plan import Share
from evp.loadtest.process import START, Done, Failed, Message, Progress, Ready, framed, read_message


class Fleet:
    """Runs one process for each share; `watch` is given the samples of all."""

    def __init__(self, shares: Sequence[Share], watch: Callable[[Sample], None]) -> None:
        self._shares = shares
        self._watch = watch
        self._children: list[Process] = []
        self._progress: dict[int, Progress] = {}

    async def prepare(self) -> None:
        """Start the processes, until each could begin.

        Raises Unavailable if one can't begin, as without a server, or fails.
        """
        for share in self._shares:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "evp.loadtest.process",
                stdin=PIPE,
                stdout=PIPE,
                # Ctrl-C is for this process, which then asks them to stop.
                start_new_session=True,
            )
            self._children.append(child)
            _stdin(child).write(framed(share))
        try:
            async with asyncio.timeout(CHILD_READY_S_MAX):
                for child in self._children:
                    message = await _next(child)
                    if isinstance(message, Failed):
                        raise Unavailable(message.error)
                    if not isinstance(message, Ready):
                        raise _ended(child)
        except TimeoutError:
            raise EngineFailed("the load generators did not become ready") from None

    def begin(self) -> float:
        """Let them begin at the same time; return when, by the monotonic clock they all have."""
        start_s = monotonic_s() + LOADTEST_START_S
        for child in self._children:
            _stdin(child).write(START.pack(start_s))
        return start_s

    async def wait(self) -> list[Done]:
        """Return what each has done, by process, once all have.

        Raises EngineFailed if one of them ends before its time.
        """
        pairs = zip(self._shares, self._children, strict=True)
        return await asyncio.gather(*(self._hear(share, child) for share, child in pairs))

    def stop(self) -> None:
        """Have them send nothing new; what is under way is still answered."""
        for child in self._children:
            _stdin(child).close()

    async def end(self) -> None:
        """End the processes, whatever they do."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await asyncio.gather(*(child.wait() for child in self._children))

    def totals(self) -> tuple[Counts, Histogram]:
        """Return how things stand in all processes together, as far as they have told."""
        total, latency = Counts(), Histogram()
        for one in self._progress.values():
            total.add(one.counts)
            latency.add(one.latency)
        return total, latency

    async def _hear(self, share: Share, child: Process) -> Done:
        while True:
            message = await _next(child)
            if isinstance(message, Sample):
                self._watch(message)
            elif isinstance(message, Progress):
                self._progress[share.process] = message
            elif isinstance(message, Done):
                self._progress[share.process] = message.progress
                return message
            else:
                raise _ended(child)


async def _next(child: Process) -> Message | None:
    return None if child.stdout is None else await read_message(child.stdout)


def _stdin(child: Process) -> asyncio.StreamWriter:
    if child.stdin is None:
        raise _ended(child)
    return child.stdin


def _ended(child: Process) -> EngineFailed:
    return EngineFailed(
        f"a load generator (process {child.pid}) ended before its time: was it killed, "
        "or is there too little memory?"
    )
