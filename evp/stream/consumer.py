"""Reading as one consumer of a group, so that nothing is skipped and nothing acked blindly.

After every dial the consumer first goes through its own pending entries once,
with a cursor that moves: replies can be lost, and what was delivered to a lost
reply is never delivered as new again. Then it takes over what others have left
(XCLAIM), again and again, each time to the end; and then it reads new ones. No
read asks for more than READ_BYTES_TARGET (`evp.stream.portions`). Whatever was
read over a connection that has gone can no longer be acked and must be dropped;
it comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec import Struct

from evp.clock import monotonic_s
from evp.documents import Admission
from evp.errors import EntryDeleted, FrameError, LogUnavailable
from evp.frame import Frame
from evp.limits import CLAIM_EVERY_S, LOG_COMMAND_S_MAX, READ_UNSEEN_MAX
from evp.plain import payload_of, read_entry
from evp.stream.client import Link, Reply, pairs
from evp.stream.groups import ensure_group, is_drained, remove_consumer
from evp.stream.keys import Keys
from evp.stream.portions import fitting, own_pending, take_stale
from evp.stream.scripts import KEEP

_PAGE = 500
_GONE = "read over a connection that is gone; it will come again"
#: XCLAIM IDLE: long ago, so that whoever claims next takes the entry at once.
_GIVE_BACK_IDLE_MS = 24 * 3600 * 1000


class Delivery(Struct, gc=False):
    """One entry as it was read: a frame, or why it is none.

    `payload` holds the raw fields where there is no frame. `link` is what it
    was read over; only there can it be acked. `times` is how often it was
    delivered, this time included.
    """

    entry_id: str
    link: Link
    frame: Frame | None = None
    error: FrameError | None = None
    payload: bytes = b""
    times: int = 1


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
        claim_idle_ms: int,
        admission: Admission,
    ) -> None:
        self.group = group
        self.name = name
        self._url = url
        self._keys = keys
        self._block_ms = block_ms
        self._claim_idle_ms = claim_idle_ms
        self._admission = admission
        self._link: Link | None = None
        self._saw_plain = False
        self._own_after: str | None = "0"
        self._claim_cursor: str | None = None
        self._claim_at_s = 0.0
        self._turn = asyncio.Lock()

    async def read(self, frames_max: int, *, ahead: bool = False) -> list[Delivery]:
        """Return up to `frames_max` entries: own pending ones, stale ones of others, new ones.

        Waits up to `block_ms` for new ones. `ahead`, while the caller still writes what
        it was given before, it waits for nothing and gives new ones alone: it must not
        get the others again, so there are none while it is time to read those.
        An empty list means that none came. Raises LogUnavailable or GroupLost: the
        caller must drop everything it holds; the next read dials anew.
        """
        async with self._connected() as link:
            if ahead:
                due = self._own_after is not None or self._is_claim_due()
                return [] if due else await self._new(link, frames_max)
            return (
                await self._own(link, frames_max)
                or await self._stale(link, frames_max)
                or await self._new(link, frames_max, self._block_ms)
            )

    async def stale(self, frames_max: Callable[[], int]) -> AsyncIterator[list[Delivery]]:
        """Take over what others have left, in one pass from the first entry to the last.

        Gives up to `frames_max()` entries at a time. Raises as `read`.
        """
        cursor: str | None = "0-0"
        while cursor is not None:
            async with self._connected() as link:
                found, cursor = await self._claim(link, frames_max(), cursor)
            if found:
                yield found

    async def ack(self, deliveries: list[Delivery]) -> None:
        """Acknowledge entries whose events are settled in the store (XACK).

        Raises LogUnavailable if the connection they were read over is gone:
        nothing was acked, or nobody knows; either way they come again.
        """
        if not deliveries:
            return
        async with self._connected(deliveries) as link:
            ids = [one.entry_id for one in deliveries]
            await link.call("XACK", self._keys.stream, self.group, *ids)

    async def keep(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Say that these entries are still being worked on; return those that are still ours.

        The others were taken over in the meantime, by a worker that has them now.
        Raises as `ack`.
        """
        async with self._connected(deliveries) as link:
            ids = [one.entry_id for one in deliveries]
            mine = await link.script(KEEP, (self._keys.stream,), (self.group, self.name, *ids))
        kept = {entry_id.decode() for entry_id in mine}
        return [one for one in deliveries if one.entry_id in kept]

    async def give_back(self) -> int:
        """Make everything pending under this name claimable at once; return how much it was.

        For the end of a worker: also gives back what was delivered to a reply
        that got lost. Raises LogUnavailable.
        """
        given = 0
        after = "-"
        while True:
            page = (self._keys.stream, self.group, after, "+", _PAGE, self.name)
            async with self._connected() as link:
                ids = [row[0].decode() for row in await link.call("XPENDING", *page)]
                if ids:
                    head = ("XCLAIM", self._keys.stream, self.group, self.name, 0)
                    await link.call(*head, *ids, "IDLE", _GIVE_BACK_IDLE_MS, "JUSTID")
            given += len(ids)
            if len(ids) < _PAGE:
                return given
            after = f"({ids[-1]}"

    async def ensure_group(self) -> bool:
        """Make the group where it is missing; True if it was. Raises LogUnavailable."""
        async with self._connected() as link:
            return await ensure_group(link, self._keys, self.group)

    async def drained(self) -> bool:
        """Return True if every entry of the stream has been delivered to the group."""
        async with self._connected() as link:
            return await is_drained(link, self._keys, self.group)

    async def remove(self) -> bool:
        """Remove this consumer from the group, unless something is pending or its name is held.

        True if it is gone. Raises LogUnavailable.
        """
        async with self._connected() as link:
            return await remove_consumer(link, self._keys, self.group, self.name)

    async def reset(self) -> None:
        """Drop the connection; the next read dials anew and begins with own pending entries."""
        link, self._link = self._link, None
        self._own_after = "0"
        self._claim_cursor, self._claim_at_s = None, 0.0
        if link is not None:
            await link.close()

    async def close(self) -> None:
        """Close the connection."""
        await self.reset()

    @contextlib.asynccontextmanager
    async def _connected(self, deliveries: Sequence[Delivery] = ()) -> AsyncIterator[Link]:
        """Give the connection when it is free; with `deliveries`, the one over which they came.

        Once a call over it failed it is dropped, and with it what it has read.
        """
        async with self._turn:
            link = self._link_of(deliveries) if deliveries else await self._dialled()
            try:
                yield link
            except LogUnavailable:
                await self.reset()
                raise

    async def _dialled(self) -> Link:
        if self._link is None or not self._link.is_open:
            await self.reset()
            self._link = await Link.open(self._url, self._keys)
        return self._link

    async def _own(self, link: Link, frames_max: int) -> list[Delivery]:
        """Return the next page of own pending entries; none once they all have been read."""
        if self._own_after is None:
            return []
        who = (self._keys, self.group, self.name)
        after = self._own_after
        portion = await own_pending(link, *who, after, frames_max)
        # Also where there is nothing: this is what makes the consumer.
        found = await self._xreadgroup(link, max(1, len(portion.times)), after)
        self._own_after = portion.last
        if found and portion.last is not None:
            # Another one may have taken some meanwhile; then these reach further.
            self._own_after = found[-1].entry_id
        return _counted(found, portion.times)

    async def _stale(self, link: Link, frames_max: int) -> list[Delivery]:
        """Go on with the pass over what others have left, or begin the next one when it is time."""
        if self._claim_cursor is None and self._is_claim_due():
            self._claim_cursor = "0-0"
        while self._claim_cursor is not None:
            found, self._claim_cursor = await self._claim(link, frames_max, self._claim_cursor)
            self._claim_at_s = monotonic_s() + CLAIM_EVERY_S
            if found:
                return found
        return []

    def _is_claim_due(self) -> bool:
        return self._claim_cursor is not None or monotonic_s() >= self._claim_at_s

    async def _claim(
        self, link: Link, frames_max: int, cursor: str
    ) -> tuple[list[Delivery], str | None]:
        """Return stale entries from a cursor on, and the next cursor; None at the end."""
        who = (self._keys, self.group, self.name)
        portion = await take_stale(link, *who, cursor, frames_max, self._claim_idle_ms)
        entries = dict(portion.entries)
        found = [
            self._delivery(link, entry_id, entries.get(entry_id.encode()))
            for entry_id in portion.times
        ]
        return _counted(found, portion.times), portion.last

    async def _new(
        self, link: Link, frames_max: int, block_ms: int | None = None
    ) -> list[Delivery]:
        if frames_max > 1:
            # Frames so far were small; the next ones may be as large as one request makes them.
            fit = await fitting(link, self._keys, self.group, frames_max)
            frames_max = fit or frames_max
            if self._saw_plain or not fit:
                frames_max = min(frames_max, READ_UNSEEN_MAX)
        found = await self._xreadgroup(link, frames_max, ">", block_ms)
        if found:
            self._saw_plain = any(one.frame is None or one.frame.external for one in found)
        return found

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
        return [self._delivery(link, entry_id.decode(), flat) for entry_id, flat in reply[0][1]]

    def _delivery(self, link: Link, entry_id: str, flat: Reply) -> Delivery:
        if flat is None:
            deleted = EntryDeleted(f"entry {entry_id}: deleted from the log while it was pending")
            return Delivery(entry_id, link, error=deleted)
        fields = dict(pairs(flat))
        try:
            frame = read_entry(self._keys.stream, entry_id, fields, self._admission)
        except FrameError as error:
            return Delivery(entry_id, link, error=error, payload=payload_of(fields))
        return Delivery(entry_id, link, frame)

    def _link_of(self, deliveries: Sequence[Delivery]) -> Link:
        """Return the connection over which all of these were read. Raises if it is gone."""
        if self._link is None or any(one.link is not self._link for one in deliveries):
            raise LogUnavailable(_GONE)
        return self._link


def _counted(found: list[Delivery], times_before: dict[str, int]) -> list[Delivery]:
    """Note how often entries were delivered, this time included."""
    for one in found:
        one.times = times_before.get(one.entry_id, 0) + 1
    return found
