"""Reading as one consumer of a group, so that nothing is skipped and nothing acked blindly.

After every dial the consumer first goes through its own pending entries once,
with a cursor that moves: replies can be lost, and what was delivered to a lost
reply is never delivered as new again. Then it reads new ones. Whatever was read
over a connection that has gone can no longer be acked and must be dropped; it
comes again.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp.documents import Admission
from evp.errors import CorruptFrame, FrameError, LogUnavailable
from evp.frame import Frame
from evp.limits import LOG_COMMAND_S_MAX
from evp.plain import payload_of, read_entry
from evp.stream.client import Link, Reply
from evp.stream.keys import Keys
from evp.stream.scripts import CREATE_GROUP

_PAGE = 500
_GONE = "read over a connection that is gone; it will come again"
#: XCLAIM IDLE: long ago, so that whoever claims next takes the entry at once.
_GIVE_BACK_IDLE_MS = 24 * 3600 * 1000


class Delivery(Struct, gc=False):
    """One entry as it was read: a frame, or why it is none.

    `payload` holds the raw fields where there is no frame. `link` is what it
    was read over; only there can it be acked.
    """

    entry_id: str
    link: Link
    frame: Frame | None = None
    error: FrameError | None = None
    payload: bytes = b""


class Consumer:
    """One named consumer of one group of one stream; its calls take turns on one connection."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        group: str,
        name: str,
        *,
        block_ms: int,
        admission: Admission,
    ) -> None:
        self.group = group
        self.name = name
        self._url = url
        self._keys = keys
        self._block_ms = block_ms
        self._admission = admission
        self._link: Link | None = None
        self._own_after: str | None = "0"
        self._turn = asyncio.Lock()

    async def read(self, frames_max: int, *, block: bool = True) -> list[Delivery]:
        """Return up to `frames_max` entries; own pending ones first, then new ones.

        Waits up to `block_ms` for new ones if `block`. An empty list means that
        none came. Raises LogUnavailable or GroupLost: the caller must drop
        everything it holds; the next read dials anew.
        """
        async with self._turn:
            try:
                link = await self._dialled()
                if self._own_after is not None:
                    found = await self._own(link, frames_max)
                    if found:
                        return found
                return await self._new(link, frames_max, block=block)
            except LogUnavailable:
                await self.reset()
                raise

    async def ack(self, deliveries: list[Delivery]) -> None:
        """Acknowledge entries whose events are settled in the store (XACK).

        Raises LogUnavailable if the connection they were read over is gone:
        nothing was acked, or nobody knows; either way they come again.
        """
        if not deliveries:
            return
        async with self._turn:
            ids = self._ids_on_link(deliveries)
            await self._call("XACK", self._keys.stream, self.group, *ids)

    async def refresh(self, deliveries: list[Delivery]) -> None:
        """Say that these entries are still being worked on (XCLAIM JUSTID); raises as `ack`."""
        async with self._turn:
            await self._claim(self._ids_on_link(deliveries), "JUSTID")

    async def give_back(self) -> int:
        """Make everything pending under this name claimable at once; return how much it was.

        For the end of a worker: also gives back what was delivered to a reply
        that got lost. Raises LogUnavailable.
        """
        given = 0
        after = "-"
        while True:
            page = (self._keys.stream, self.group, after, "+", _PAGE, self.name)
            async with self._turn:
                link = await self._dialled()
                ids = [row[0].decode() for row in await link.call("XPENDING", *page)]
                await self._claim(ids, "IDLE", _GIVE_BACK_IDLE_MS, "JUSTID")
            given += len(ids)
            if len(ids) < _PAGE:
                return given
            after = f"({ids[-1]}"

    async def ensure_group(self) -> bool:
        """Register the group and create it at the stream's beginning; True if it was created.

        At 0, never at the end: what was accepted before is delivered too, and
        what is stored already is recognised. Raises LogUnavailable.
        """
        keys = (self._keys.stream, self._keys.groups)
        async with self._turn:
            link = await self._dialled()
            return bool(await link.script(CREATE_GROUP, keys, (self.group,)))

    async def drained(self) -> bool:
        """Return True if every entry of the stream has been delivered to the group."""
        async with self._turn:
            link = await self._dialled()
            stream = self._keys.stream
            for flat in await link.call("XINFO", "GROUPS", stream):
                facts = dict(zip(flat[::2], flat[1::2], strict=True))
                if facts[b"name"] == self.group.encode():
                    after = "(" + facts[b"last-delivered-id"].decode()
                    return not await link.call("XRANGE", stream, after, "+", "COUNT", 1)
            return False

    async def reset(self) -> None:
        """Drop the connection; the next read dials anew and begins with own pending entries."""
        link, self._link = self._link, None
        self._own_after = "0"
        if link is not None:
            await link.close()

    async def close(self) -> None:
        """Close the connection."""
        await self.reset()

    async def _dialled(self) -> Link:
        if self._link is None or not self._link.is_open:
            await self.reset()
            self._link = await Link.open(self._url)
        return self._link

    async def _own(self, link: Link, frames_max: int) -> list[Delivery]:
        """Return the next page of own pending entries; at the end, turn to new ones."""
        found = await self._xreadgroup(link, frames_max, self._own_after or "0")
        self._own_after = found[-1].entry_id if found else None
        return found

    async def _new(self, link: Link, frames_max: int, *, block: bool) -> list[Delivery]:
        return await self._xreadgroup(link, frames_max, ">", self._block_ms if block else None)

    async def _xreadgroup(
        self, link: Link, frames_max: int, after: str, block_ms: int | None = None
    ) -> list[Delivery]:
        blocking = () if block_ms is None else ("BLOCK", block_ms)
        reply = await link.call(
            "XREADGROUP",
            *("GROUP", self.group, self.name, "COUNT", frames_max),
            *blocking,
            *("STREAMS", self._keys.stream, after),
            # BLOCK can last longer than asked when other readers are woken first.
            wait_s=(block_ms or 0) / 1000 + LOG_COMMAND_S_MAX,
        )
        if not reply:
            return []
        return [self._delivery(link, entry_id, flat) for entry_id, flat in reply[0][1]]

    def _delivery(self, link: Link, raw_id: bytes, flat: Reply) -> Delivery:
        entry_id = raw_id.decode()
        if flat is None:
            deleted = CorruptFrame(f"entry {entry_id}: deleted from the log while it was pending")
            return Delivery(entry_id, link, error=deleted)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        try:
            frame = read_entry(self._keys.stream, entry_id, fields, self._admission)
        except FrameError as error:
            return Delivery(entry_id, link, error=error, payload=payload_of(fields))
        return Delivery(entry_id, link, frame)

    async def _claim(self, ids: list[str], *options: str | int) -> None:
        if ids:
            head = ("XCLAIM", self._keys.stream, self.group, self.name, 0)
            await self._call(*head, *ids, *options)

    async def _call(self, *command: str | int) -> Reply:
        """Send a command over the connection there is; drop the connection if that fails."""
        if self._link is None:
            raise LogUnavailable(_GONE)
        try:
            return await self._link.call(*command)
        except LogUnavailable:
            await self.reset()
            raise

    def _ids_on_link(self, deliveries: list[Delivery]) -> list[str]:
        if self._link is None or any(one.link is not self._link for one in deliveries):
            raise LogUnavailable(_GONE)
        return [delivery.entry_id for delivery in deliveries]
