"""Appending frames: one pinned connection, one epoch, one frame under way.

Every frame carries `srv` (this epoch's random id) and `seq` (1, 2, 3, …).
An append of unknown outcome closes the epoch at its last acknowledged number: the
next frame starts a new one at 1. One that was refused, as by a log that is full,
leaves nothing behind, and its number goes to the next frame. So no two frames of
the log have the same number, and one up to the recorded one that is nowhere to be
found is a loss, and nothing else is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from copy import copy
from typing import TypeVar

from msgspec import Struct

from evp.errors import AckUnknown, LogUnavailable
from evp.frame import OpenFrame
from evp.limits import DURABLE_WAIT_MS_MAX
from evp.stream.asking import while_it_moves
from evp.stream.client import Argument, Link, LogRefused
from evp.stream.durability import Durability, examine, require_commands, require_waiting
from evp.stream.keys import Keys
from evp.stream.scripts import APPEND

SRV_BYTES = 8

Done = TypeVar("Done")


class Epoch(Struct):
    """A run of frames numbered without a gap, and how far the log acknowledged them.

    `unknown` are events of which nobody can tell whether the log has them: those of
    the append that ended it. An epoch that ended before anything was acknowledged is
    not recorded; its events are counted by one epoch of the process that never has frames.
    """

    srv: bytes
    acknowledged_seq: int = 0
    events: int = 0
    unknown: int = 0

    @classmethod
    def begin(cls) -> Epoch:
        """Return a new epoch with a random id."""
        return cls(os.urandom(SRV_BYTES))


class Producer:
    """Appends frames to the log, one at a time, and never sends one twice."""

    def __init__(self, url: str, keys: Keys, policy: str, replicas: int) -> None:
        self._url = url
        self.keys = keys
        self._policy = policy
        self._replicas = replicas
        self._link: Link | None = None
        self._durability: Durability | None = None
        self._believed: Link | None = None
        self._epoch = Epoch.begin()
        self._closed_epochs: list[Epoch] = []
        self._doubts = Epoch.begin()
        self._link_free = asyncio.Lock()

    @property
    def durability(self) -> Durability | None:
        """What an append is worth now; None while there is no connection."""
        return self._durability if self._link is not None and self._link.is_open else None

    async def connect(self) -> Durability:
        """Dial the log if need be and look at its settings.

        Raises LogUnavailable or LogNotDurable; `append` then raises as well.
        """
        async with self._link_free:
            return await self._following(self._connect)

    async def _connect(self) -> Durability:
        if self._link is None or not self._link.is_open:
            self._durability = None
            self._link = await self._dial()
        try:
            durability = await examine(self._link, self._policy, self._replicas)
            if durability.by_word and self._believed is not self._link:
                await require_waiting(self._link, self.keys)
                self._believed = self._link
        except LogUnavailable:
            self._durability = None
            raise
        self._durability = durability
        return durability

    async def _dial(self) -> Link:
        link = await Link.open(self._url, self.keys)
        try:
            await require_commands(link, self.keys)
        except BaseException:
            await link.close()
            raise
        return link

    async def append(self, frame: OpenFrame, requests: int) -> str:
        """Append a frame and return its entry id once the log has it on disk.

        Raises LogUnavailable if the frame was certainly not appended (LogFull: for
        want of memory), and AckUnknown if nobody can tell.
        """
        async with self._link_free:
            return await self._following(lambda: self._append(frame, requests))

    async def _following(self, attempt: Callable[[], Awaitable[Done]]) -> Done:
        """Attempt something; if a cluster moves the stream, again where the stream is then."""
        is_first = True

        async def there() -> Done:
            nonlocal is_first
            again, is_first = not is_first, False
            if again:
                await self._connect()
            return await attempt()

        return await while_it_moves(there)

    async def _append(self, frame: OpenFrame, requests: int) -> str:
        link, durability = self._link, self._durability
        if link is None or durability is None or not link.is_open:
            raise LogUnavailable("the log is not connected")
        epoch = self._epoch
        seq = epoch.acknowledged_seq + 1
        try:
            entry = await self._send(link, durability, frame, epoch.srv, seq, requests)
        except LogRefused:
            raise  # The frame is not there, and nobody else has its number.
        except BaseException:
            self._close_epoch(unknown=frame.count)
            raise
        epoch.acknowledged_seq = seq
        epoch.events += frame.count
        return entry

    async def _send(
        self,
        link: Link,
        durability: Durability,
        frame: OpenFrame,
        srv: bytes,
        seq: int,
        requests: int,
    ) -> str:
        fields = [item for pair in frame.fields(srv, seq).items() for item in pair]
        arguments: list[Argument] = [frame.count, requests, frame.size_bytes, *fields]
        keys = (self.keys.stream, self.keys.counters, self.keys.index)
        questions = durability.questions if durability.wait else []
        wait_s = DURABLE_WAIT_MS_MAX / 1000 if questions else 0.0
        try:
            entry, *told = await link.script_then(
                APPEND, keys, arguments, *questions, wait_s=wait_s
            )
            if questions:
                durability.confirm(told)
        except LogRefused as error:
            if error.number == 0:
                raise  # It is the script that was refused.
            raise AckUnknown(str(error)) from error
        except LogUnavailable as error:
            raise AckUnknown(str(error)) from error
        return bytes(entry).decode()

    def epochs(self) -> tuple[list[Epoch], list[Epoch]]:
        """Return copies of the epochs to record: (those that are closed, those that may grow)."""
        open_ = [self._epoch] if self._epoch.acknowledged_seq else []
        open_ += [self._doubts] if self._doubts.unknown else []
        return [copy(one) for one in self._closed_epochs], [copy(one) for one in open_]

    def forget(self, closed: list[Epoch]) -> None:
        """Forget closed epochs that the store has recorded as they were given here."""
        self._closed_epochs = [epoch for epoch in self._closed_epochs if epoch not in closed]

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            await self._link.close()

    def _close_epoch(self, *, unknown: int) -> None:
        epoch, self._epoch = self._epoch, Epoch.begin()
        if not epoch.acknowledged_seq:
            # A record of its own would say no more, and there would be one for each attempt.
            self._doubts.unknown += unknown
            return
        epoch.unknown = unknown
        self._closed_epochs.append(epoch)
