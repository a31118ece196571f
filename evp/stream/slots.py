"""Consumer names that survive a restart and are never shared.

A name is base + "-" + slot: the first slot whose lease in the log is free. A
worker that is started again takes its old slot back and with it the entries
that were pending under that name. A lease expires by itself; one whose process
is dead on this very host is taken over at once.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec
import psutil

from evp.errors import LogUnavailable
from evp.limits import ENDED_WELL_S, SLOT_LEASE_MS, SLOT_RENEW_MS, SLOTS_MAX
from evp.running import boot_id
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.scripts import SWAP_LEASE


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease. `host` also tells boots and containers of one machine apart."""

    host: str
    pid: int
    started: float
    token: str

    @classmethod
    def me(cls) -> Holder:
        """Return this process."""
        pid = os.getpid()
        return cls(_host(), pid, psutil.Process(pid).create_time(), secrets.token_hex(8))

    def is_dead_here(self) -> bool:
        """Return True if it is certain that the holder runs no more."""
        if self.host != _host():
            return False
        try:
            return psutil.Process(self.pid).create_time() != self.started
        except psutil.NoSuchProcess:
            # It may be hidden from this user: hidepid, ProtectProc=invisible of systemd.
            return not _exists(self.pid)


class Slot:
    """A held lease, renewed in the background until it is released or lost.

    Once `lost` is set another worker may have the name: stop using it.
    """

    def __init__(self, url: str, keys: Keys, group: str, name: str, value: bytes) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self.incarnation = f"{name} {msgspec.json.decode(value, type=Holder).token}"
        self._url = url
        self._keys = keys
        self._group = group
        self._key = keys.slot(group, name)
        self._value = value
        self._renewal = asyncio.create_task(self._renew(), name="slot renewal")

    @classmethod
    async def take(cls, url: str, keys: Keys, group: str, base: str) -> Self:
        """Take the first free slot of `base` in `group`. Raises LogUnavailable."""
        value = msgspec.json.encode(await asyncio.to_thread(Holder.me))
        async with Link.opened(url) as link:
            for number in range(1, SLOTS_MAX + 1):
                name = f"{base}-{number}"
                if await _acquire(link, keys.slot(group, name), value):
                    return cls(url, keys, group, name, value)
        raise LogUnavailable(f"all {SLOTS_MAX} consumer names of {base} are taken")

    async def release(self) -> None:
        """Give the name back, so that the next worker can have it at once.

        Says as well that this worker was not killed (`killed`). Raises LogUnavailable.
        """
        self._renewal.cancel()
        await asyncio.gather(self._renewal, return_exceptions=True)
        async with Link.opened(self._url) as link:
            token = self.incarnation.partition(" ")[2]
            await link.call("SET", self._keys.ended(token), 1, "EX", ENDED_WELL_S)
            if not self.lost.is_set():
                await link.script(SWAP_LEASE, (self._key,), (self._value, b"", 0))

    async def killed(self, incarnations: Iterable[str]) -> set[str]:
        """Return which of these workers have lost their name without ending well.

        A worker is known by its `incarnation`. Raises LogUnavailable.
        """
        gone: set[str] = set()
        async with Link.opened(self._url) as link:
            for incarnation in incarnations:
                name, _, token = incarnation.partition(" ")
                lease, ended = await link.calls(
                    [
                        ("GET", self._keys.slot(self._group, name)),
                        ("EXISTS", self._keys.ended(token)),
                    ]
                )
                if not ended and (lease is None or token.encode() not in lease):
                    gone.add(incarnation)
        return gone

    async def _renew(self) -> None:
        link: Link | None = None
        try:
            while not self.lost.is_set():
                await asyncio.sleep(SLOT_RENEW_MS / 1000)
                try:
                    if link is None or not link.is_open:
                        link = await Link.open(self._url)
                    await self._extend(link)
                except LogUnavailable:
                    # Nobody can take it either while the log is away.
                    continue
        finally:
            if link is not None:
                await link.close()

    async def _extend(self, link: Link) -> None:
        arguments = (self._value, self._value, SLOT_LEASE_MS)
        if await link.script(SWAP_LEASE, (self._key,), arguments):
            return
        # After an outage or a flush the lease is gone, but perhaps still nobody's.
        if not await _acquire(link, self._key, self._value):
            self.lost.set()


async def held(link: Link, keys: Keys, group: str, names: Iterable[str]) -> list[str]:
    """Return which of these names somebody holds who may be alive. Raises LogUnavailable."""
    found = []
    for name in names:
        value = await link.call("GET", keys.slot(group, name))
        if value is not None and not await asyncio.to_thread(_dead, value):
            found.append(name)
    return found


async def pid_here(link: Link, keys: Keys, group: str, name: str) -> int | None:
    """Return the process that holds a name, if it runs on this very host and lives; else None.

    Raises LogUnavailable.
    """
    value = await link.call("GET", keys.slot(group, name))
    return None if value is None else await asyncio.to_thread(_pid_here, value)


async def _acquire(link: Link, key: str, value: bytes) -> bool:
    if await link.call("SET", key, value, "NX", "PX", SLOT_LEASE_MS):
        return True
    seen = await link.call("GET", key)
    if seen is None or not await asyncio.to_thread(_dead, seen):
        return False
    return bool(await link.script(SWAP_LEASE, (key,), (seen, value, SLOT_LEASE_MS)))


def _dead(value: bytes) -> bool:
    try:
        return msgspec.json.decode(value, type=Holder).is_dead_here()
    except msgspec.MsgspecError:
        return False


def _pid_here(value: bytes) -> int | None:
    try:
        holder = msgspec.json.decode(value, type=Holder)
    except msgspec.MsgspecError:
        return None
    return holder.pid if holder.host == _host() and not holder.is_dead_here() else None


def _exists(pid: int) -> bool:
    """Return whether there is such a process, seen or unseen."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    """Return what tells this host from others: its name, its boot, its space of process ids."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return f"{socket.gethostname()}/{boot_id()}/{space}"
