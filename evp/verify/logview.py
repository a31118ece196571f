"""The log as a verification sees it: everything once, single entries later, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import Enum

from evp.errors import LogUnavailable
from evp.frame import entry_order
from evp.settings import Settings
from evp.storage.evidence import FrameHeader
from evp.stream.client import KeptLink
from evp.stream.headers import Header, all_headers, clock_ms, deliver_again, header_of
from evp.stream.keys import Keys
from evp.stream.ledger import Record, recorded_epochs

Place = tuple[int, int]


class Whereabouts(Enum):
    """What the log says of a frame: workers may still be given it, have done with it, or can't."""

    WAITING = "waiting"
    ACKED = "acked"
    GONE = "gone"
    UNKNOWN = "unknown"


class LogView:
    """Looks into the log, over a connection that is dialled again when it has gone.

    `group` is the one that writes: what it has acked must be in the store.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = Keys(settings.stream)
        self._link = KeptLink(settings.redis_url, self._keys)
        self._oldest: Place | None = None
        self._newest: Place = (0, 0)
        self.group = settings.consumer_group
        self.error: str | None = None
        self.frames = 0
        self.events = 0
        self.looked_at_ms = 0

    async def records(self) -> list[Record]:
        """Return the epochs that the log has recorded; none, and `error` set, if it is away."""
        try:
            return await recorded_epochs(await self._link.get(), self._keys)
        except LogUnavailable as error:
            self.error = str(error)
            return []

    async def pages(self, *, counted: bool = True) -> AsyncIterator[list[Header]]:
        """Give all entries, oldest first; `counted` ones are those of `frames` and `events`.

        Raises LogUnavailable.
        """
        if self.error is not None:
            return
        link = await self._link.get()
        if counted:
            self.looked_at_ms = await clock_ms(link)
        async for page in all_headers(link, self._keys, self.group):
            if counted:
                self._oldest = self._oldest or entry_order(page[0].entry_id)
                self._newest = entry_order(page[-1].entry_id)
                self.frames += len(page)
                self.events += sum(one.count or 1 for one in page)
            yield page

    def settled(self, frame: FrameHeader) -> None:
        """Take a frame that is settled off what was counted, if it was."""
        place = entry_order(frame.entry_id)
        if self._oldest is not None and self._oldest <= place <= self._newest:
            self.frames -= 1
            self.events -= frame.count

    async def where(self, frame: FrameHeader) -> Whereabouts:
        """Return how a frame stands in the log now. Raises LogUnavailable.

        Entry ids may be issued again after a failover, so the frame must be the same.
        """
        if self.error is not None:
            return Whereabouts.UNKNOWN
        try:
            header = await self._header_of(frame)
        except LogUnavailable:
            # The log may have closed a connection that was idle for long.
            header = await self._header_of(frame)
        same = b"" if frame.external else frame.frame_id.binary
        if header is None or header.frame_id != same:
            return Whereabouts.GONE
        return Whereabouts.ACKED if header.acked else Whereabouts.WAITING

    async def deliver_again(self, entry_ids: Sequence[str]) -> int:
        """Have acked entries delivered once more; return how many. Raises LogUnavailable."""
        return await deliver_again(await self._link.get(), self._keys, self.group, entry_ids)

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _header_of(self, frame: FrameHeader) -> Header | None:
        return await header_of(await self._link.get(), self._keys, frame.entry_id, self.group)
