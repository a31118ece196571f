"""How full the log's memory is, and the mark above which nothing more is accepted.

The mark is a share of the least limit that is known: `maxmemory`, the memory of
the log's host, and, where the log runs on this machine, what this machine gives
a process. The rest is for what is not the stream: replies and requests under
way, groups, the copy while the append-only file is rewritten.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp.limits import MEMORY_MARK_SHARE
from evp.machine import memory_limit_bytes
from evp.stream.client import Link, LogRefused


class Memory(Struct, frozen=True):
    """Bytes in use by the log, and the mark; None where the log does not tell a limit."""

    used_bytes: int
    mark_bytes: int | None


async def memory(link: Link) -> Memory | None:
    """Return how full the log's memory is, None where the log hides it. Raises LogUnavailable."""
    try:
        told = info_fields(await link.call("INFO", "memory"))
    except LogRefused:
        if not link.is_open:
            raise
        return None
    used = told.get("used_memory", "")
    if not used.isdigit():
        return None
    limits = [int(told.get(name, 0)) for name in ("maxmemory", "total_system_memory")]
    if link.is_local:
        limits.append(await asyncio.to_thread(memory_limit_bytes))
    known = [limit for limit in limits if limit > 0]
    return Memory(int(used), int(min(known) * MEMORY_MARK_SHARE) if known else None)


def info_fields(info: bytes) -> dict[str, str]:
    """Return what an answer to INFO tells, by name."""
    pairs = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
