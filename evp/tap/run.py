"""All streams of the log, each read by itself, and told as they come."""

from __future__ import annotations

import asyncio
import contextlib

from evp.clock import monotonic_s
from evp.documents import Admission
from evp.errors import LogUnavailable
from evp.limits import PARTITIONS_LOOK_S
from evp.settings import Settings
from evp.signals import end
from evp.stream.partitions import Partitions
from evp.tap.showing import Counts, Portion, Showing
from evp.tap.tail import Tail
from evp.tap.wanted import Start, Wanted


class Tap:
    """Reads the log for as long as it is asked for the `next` portion.

    A partition that is away does not stop the others. One that is new is read from its
    first entry on: all of it came after the start.
    """

    def __init__(
        self,
        settings: Settings,
        wanted: Wanted,
        *,
        shown_per_s: float,
        shown_max: int | None = None,
    ) -> None:
        self._partitions = Partitions(settings)
        self._admission = Admission(settings.default_source, settings.time_in_id)
        self._showing = Showing(wanted, shown_per_s=shown_per_s, shown_max=shown_max)
        self._tails: list[Tail] = []
        #: What each tail reads now, the one that was told longest ago first.
        self._reading: dict[Tail, asyncio.Task[Portion]] = {}
        self._look_at_s = 0.0
        self._start: Start | None = None

    @property
    def counts(self) -> Counts:
        """What became of the events so far."""
        return self._showing.counts

    @property
    def is_done(self) -> bool:
        """Whether as many events were shown as are wanted."""
        return self._showing.is_done

    async def begin(self, start: Start) -> None:
        """Find the place to begin at in each stream; one that is away begins when it is back.

        Raises LogUnavailable if all are away.
        """
        self._start = start
        await self._look()
        away = await asyncio.gather(*map(_why_not_begun, self._tails))
        if None not in away:
            raise next(filter(None, away))

    async def next(self) -> Portion:
        """Return what came next in one of the streams, waiting a moment for it.

        It may be nothing. Of a partition that is away that is told once.
        """
        for tail in self._tails:
            if tail not in self._reading:
                self._reading[tail] = asyncio.create_task(self._read(tail), name="tail")
        await asyncio.wait(self._reading.values(), return_when=asyncio.FIRST_COMPLETED)
        tail = next(one for one, reading in self._reading.items() if reading.done())
        portion = self._reading.pop(tail).result()
        if portion.notice is not None and len(self._tails) > 1:
            portion.notice = f"partition {tail.number}: {portion.notice}"
        self._showing.counts.shown += len(portion.events)
        return portion

    async def close(self) -> None:
        """End what is under way, and close the connections."""
        if self._reading:
            await end(*self._reading.values())
        await self._partitions.close()

    async def _read(self, tail: Tail) -> Portion:
        portion = await tail.next()
        # Between two reads the link to the stream that knows how many there are is free.
        is_due = tail.number == 0 and monotonic_s() >= self._look_at_s
        if is_due and self._partitions[0].link.is_open:
            await self._look()
        return portion

    async def _look(self) -> None:
        """Find out how many streams there are, if their number can be asked, and have them read."""
        self._look_at_s = monotonic_s() + PARTITIONS_LOOK_S
        with contextlib.suppress(LogUnavailable):
            await self._partitions.look()
            start, self._start = self._start, None
            self._add_tails(start)
        self._add_tails(self._start)

    def _add_tails(self, start: Start | None) -> None:
        for number in range(len(self._tails), len(self._partitions)):
            partition = self._partitions[number]
            self._tails.append(Tail(partition, self._admission, self._showing, start))


async def _why_not_begun(tail: Tail) -> LogUnavailable | None:
    try:
        await tail.begin()
    except LogUnavailable as error:
        return error
    return None
