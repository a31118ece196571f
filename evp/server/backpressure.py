"""Back-pressure: a server process adds to the log only what it has room for.

    look, four times a second ─▶ full? ─▶ nothing is taken, and clients are told when to come back
                                  │ no
                                  └────▶ this process's share of what is free, until the next look

All servers together append between two looks at most half of what is free below
the mark, so however many there are, and however late they look, they don't pass
the log's memory together. A request that is larger than what is left of the share,
as it came or as the log would have it, is refused. Nothing here costs a request
more than two comparisons with one number (`Flusher.room_bytes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import sys

from msgspec import UNSET, Struct, UnsetType

from evp.batch.retry import Backoff
from evp.clock import monotonic_s
from evp.errors import LogUnavailable, Refusal
from evp.logs import get
from evp.server.limits import BACKLOG_LEAVE_S_MAX, BACKLOG_LOOK_S, RECONNECT_LONGEST_S
from evp.server.neighbours import Neighbours
from evp.server.overload import Overload
from evp.settings import Settings
from evp.stream.backlog import Pin, backlog, leave
from evp.stream.client import KeptLink
from evp.stream.flusher import Flusher
from evp.stream.keys import Keys
from evp.stream.memory import Memory, memory

_NOTHING = -1
_ASSUMED = (
    "the log has no maxmemory and is on another machine, of which it may have only a part: it may "
    "run out of memory before evp refuses anything; set maxmemory (or EVP_BACKLOG_MAX)"
)
_TOO_MUCH = "more is sent at once than the log takes now"
_TOO_LARGE = (
    "this request is too large for the log's memory as it is used now, even once what waits there "
    "is done: send fewer events in one request, or give the log more memory"
)
_log = get("evp.accept")


class BacklogPart(Struct, omit_defaults=True):
    """What waits in the log, as health tells it; what is not known is left out.

    `pinned_by` is the group that is furthest behind, if anything waits for it.
    `warning` says that nobody knows how much the log can hold, and the mend.
    """

    ok: bool
    detail: str | UnsetType = UNSET
    warning: str | UnsetType = UNSET
    used_bytes: int | UnsetType = UNSET
    mark_bytes: int | UnsetType = UNSET
    events: int | UnsetType = UNSET
    drained_events_per_s: float | UnsetType = UNSET
    servers: int | UnsetType = UNSET
    pinned_by: Pin | UnsetType = UNSET


class Backpressure:
    """Looks how full the log is, and tells the flusher of this process how much it may take."""

    def __init__(
        self, settings: Settings, keys: Keys, flusher: Flusher, neighbours: Neighbours
    ) -> None:
        self._keys = keys
        self._server = secrets.token_hex(8)
        self._flusher = flusher
        self._backlog_max = _share(settings.backlog_max, settings.partitions)
        self._neighbours = neighbours
        self._overload = Overload(self._backlog_max)
        self._link = KeptLink(settings.redis_url, self._keys)
        self._turn = asyncio.Lock()
        self._blind = "nobody has looked yet how full the log is"
        self._task: asyncio.Task[None] | None = None
        flusher.allow(_NOTHING)
        flusher.refuse = self.refusal

    def start(self) -> None:
        """Begin to look again and again."""
        self._task = asyncio.create_task(self._watch(), name="backlog watch")

    async def look(self) -> None:
        """Look now. Raises LogUnavailable; what was allowed before then stays, and runs out."""
        async with self._turn:
            # What is answered by now is in the memory that is seen; the rest may not be.
            seen_bytes = self._flusher.answered_bytes
            try:
                link = await self._link.get()
                found = await memory(link), await backlog(link, self._keys, self._server)
            except LogUnavailable as error:
                self._blind = f"nobody can tell how full the log is: {error}"
                raise
            self._blind = ""
            was_full = self._overload.full
            if self._assumes(self._overload.memory) < self._assumes(found[0]):
                _log.warning("nobody knows how much the log can hold", mend=_ASSUMED)
            self._neighbours.note(self._keys.partition, link.node)
            # Each partition on a server takes its part of what is free there.
            self._overload.note(
                monotonic_s(), *found, self._neighbours.on_same(self._keys.partition)
            )
            self._flusher.allow(self._limit_bytes(seen_bytes))
            if self._overload.full != was_full:
                self._tell()

    @property
    def full(self) -> bool:
        """True while everything is refused until the log has drained."""
        return self._overload.full

    def overflowed(self) -> None:
        """Take nothing more until the next look: the log had no memory left for a frame."""
        self._overload.full = True
        self._flusher.allow(_NOTHING)

    def refusal(self, size_bytes: int) -> Refusal:
        """Return why a request of a size that is larger than the flusher's room can't be taken."""
        overload = self._overload
        if overload.full:
            return Refusal("backlog_full", overload.why(), retry_after_s=overload.retry_after_s())
        if overload.backlog is None:
            return Refusal("log_unavailable", self._blind, retry_after_s=1)
        detail = _TOO_LARGE if overload.never_fits(size_bytes) else _TOO_MUCH
        detail = f"{detail}; {self._blind or overload.why()}"
        wait_s = overload.retry_after_s(size_bytes)
        return Refusal("backlog_full", detail, retry_after_s=wait_s)

    def part(self) -> BacklogPart:
        """Return what health tells."""
        overload = self._overload
        part = BacklogPart(ok=not overload.full and not self._blind)
        if not part.ok:
            part.detail = self._blind or overload.why()
        if overload.memory is not None:
            part.used_bytes = overload.memory.used_bytes
            part.mark_bytes = overload.memory.mark_bytes or UNSET
            part.warning = _ASSUMED if self._assumes(overload.memory) else UNSET
        if overload.backlog is not None:
            pin = overload.backlog.pin
            part.events = pin.events
            part.servers = overload.backlog.servers
            part.pinned_by = pin if pin.events else UNSET
            part.drained_events_per_s = round(overload.drained.events_per_s, 1)
        return part

    async def close(self) -> None:
        """Look no more; the others need not count this process any longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with self._turn:
            if self._link.is_open:
                # A courtesy: a log that hangs must not hold up the end of a server.
                with contextlib.suppress(LogUnavailable, TimeoutError):
                    async with asyncio.timeout(BACKLOG_LEAVE_S_MAX):
                        await leave(await self._link.get(), self._keys, self._server)
            await self._link.close()

    def _assumes(self, memory: Memory | None) -> bool:
        """Return whether only an assumed mark bounds the log."""
        return memory is not None and memory.assumed and self._backlog_max is None

    def _limit_bytes(self, seen_bytes: int) -> int:
        """Return up to which of the flusher's bytes this process may go until the next look."""
        overload = self._overload
        if overload.full:
            return _NOTHING
        share_bytes = overload.share_bytes()
        return sys.maxsize if math.isinf(share_bytes) else seen_bytes + int(share_bytes)

    def _tell(self) -> None:
        if self._overload.full:
            _log.warning("backlog full: not accepting", reason=self._overload.why())
        else:
            _log.info("backlog has drained: accepting", reason=self._overload.why())

    @property
    def events(self) -> int:
        """How many events wait, as far as anybody has looked."""
        return 0 if self._overload.backlog is None else self._overload.backlog.pin.events

    async def _watch(self) -> None:
        backoff = Backoff(longest_s=RECONNECT_LONGEST_S)
        while True:
            try:
                await self.look()
            except LogUnavailable:
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await asyncio.sleep(BACKLOG_LOOK_S)


def _share(events_max: int | None, partitions: int) -> int | None:
    """Return how many events may wait in one partition."""
    return None if events_max is None else max(1, events_max // partitions)
