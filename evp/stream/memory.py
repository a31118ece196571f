"""How full the log's memory is, and the mark above which nothing more is accepted.

The mark is a share of the least limit that is known: `maxmemory`, the memory of
the log's host, and, where the log runs on this machine, what this machine gives
a process. The rest is for what is not the stream: replies and requests under
way, groups, the copy while the append-only file is rewritten.

What a log elsewhere tells of its host is the whole machine's memory, also where a
container gives it far less: such a mark is assumed, and may never be reached.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp.limits import MEMORY_MARK_SHARE
from evp.machine import memory_limit_bytes
from evp.stream.client import Link, LogRefused


class Memory(Struct, frozen=True):
    """Bytes in use by the log, and the mark; None where the log does not tell a limit.

    `assumed` is true where the mark is that of a machine of which the log may have
    only a part.
    """

    used_bytes: int
    mark_bytes: int | None
    assumed: bool = False


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
    set_bytes = int(told.get("maxmemory", 0))
    limits = [set_bytes, int(told.get("total_system_memory", 0))]
    if link.is_local:
        limits.append(await asyncio.to_thread(memory_limit_bytes))
    known = [limit for limit in limits if limit > 0]
    mark = int(min(known) * MEMORY_MARK_SHARE) if known else None
    return Memory(int(used), mark, assumed=set_bytes == 0 and not link.is_local)


def info_fields(info: bytes) -> dict[str, str]:
    """Return what an answer to INFO tells, by name."""
    pairs = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}
