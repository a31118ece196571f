"""The log as a verification sees it: everything once, single entries later, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator

from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.storage.evidence import FrameHeader
from evp.stream.client import Link
from evp.stream.headers import Header, all_headers, clock_ms, header_of
from evp.stream.keys import Keys
from evp.stream.ledger import Record, recorded_epochs

Place = tuple[int, int]


class LogView:
    """Looks into the log, over a connection that is dialled again when it has gone."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.redis_url
        self._keys = Keys(settings.stream)
        self._link: Link | None = None
        self._oldest: Place | None = None
        self._newest: Place = (0, 0)
        self.error: str | None = None
        self.frames = 0
        self.events = 0
        self.looked_at_ms = 0

    async def records(self) -> list[Record]:
        """Return the epochs that the log has recorded; none, and `error` set, if it is away."""
        try:
            return await recorded_epochs(await self._dialled(), self._keys)
        except LogUnavailable as error:
            self.error = str(error)
            return []

    async def pages(self, *, counted: bool = True) -> AsyncIterator[list[Header]]:
        """Give all entries, oldest first; `counted` ones are those of `frames` and `events`.

        Raises LogUnavailable.
        """
        if self.error is not None:
            return
        link = await self._dialled()
        if counted:
            self.looked_at_ms = await clock_ms(link)
        async for page in all_headers(link, self._keys):
            if counted:
                self._oldest = self._oldest or _place(page[0].entry_id)
                self._newest = _place(page[-1].entry_id)
                self.frames += len(page)
                self.events += sum(one.count or 1 for one in page)
            yield page

    def settled(self, frame: FrameHeader) -> None:
        """Take a frame that is settled off what was counted, if it was."""
        place = _place(frame.entry_id)
        if self._oldest is not None and self._oldest <= place <= self._newest:
            self.frames -= 1
            self.events -= frame.count

    async def has(self, frame: FrameHeader) -> bool | None:
        """Return whether the log has a frame now, None if it is away. Raises LogUnavailable.

        Entry ids may be issued again after a failover, so the frame must be the same.
        """
        if self.error is not None:
            return None
        try:
            header = await header_of(await self._dialled(), self._keys, frame.entry_id)
        except LogUnavailable:
            # The log may have closed a connection that was idle for long.
            header = await header_of(await self._dialled(), self._keys, frame.entry_id)
        if header is None:
            return False
        return header.frame_id == (b"" if frame.external else frame.frame_id.binary)

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            await self._link.close()

    async def _dialled(self) -> Link:
        if self._link is None or not self._link.is_open:
            self._link = await Link.open(self._url)
        return self._link


def _place(entry_id: str) -> Place:
    """Return an entry id as numbers, to compare."""
    moment, _, number = entry_id.partition("-")
    return int(moment), int(number or 0)
