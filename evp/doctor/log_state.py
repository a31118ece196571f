"""Checks of how the log's server is: its role, its commands, its file, its memory, its clients."""

from __future__ import annotations

from evp.doctor.deployment import Deployment
from evp.doctor.findings import ERROR, WARNING, Finding
from evp.doctor.limits import FULL_SHARE, GROWN_BYTES_MIN, GROWN_TIMES
from evp.errors import LogNotDurable, NotChecked
from evp.limits import MIB
from evp.stream.durability import require_commands
from evp.stream.memory import memory

_GIB = 1024 * MIB


async def log_is_replica(at: Deployment) -> list[Finding]:
    """Look whether the log follows another one: what it takes is dropped some day."""
    role, *rest = await at.link.call("ROLE")
    if role != b"slave":
        return []
    primary = f"{rest[0].decode(errors='replace')}:{rest[1]}"
    return [
        Finding(
            severity=ERROR,
            what=f"the log is a replica of {primary}",
            meaning="Nothing is accepted; what a replica takes is dropped when it syncs.",
            mend=f"Set EVP_REDIS_URL to the primary, {primary}.",
        )
    ]


async def too_old(at: Deployment) -> list[Finding]:
    """Look whether the log's server lacks a command that evp needs, whatever its version says."""
    if (await at.link.call("ROLE"))[0] == b"slave":
        raise NotChecked("a replica takes nothing to try it with")
    try:
        await require_commands(at.link, at.keys)
    except LogNotDurable as error:
        return [
            Finding(
                severity=ERROR,
                what=str(error),
                meaning="evp could not tell that an event was lost, so nothing is accepted.",
                mend="Move the log to Redis 7.2 or Valkey 8, or newer.",
            )
        ]
    return []


async def aof_write_failed(at: Deployment) -> list[Finding]:
    """Look whether the log could not write its append-only file."""
    if await at.server.info("aof_last_write_status") in {"ok", ""}:
        return []
    return [
        Finding(
            severity=ERROR,
            what="the log could not write its append-only file (aof_last_write_status)",
            meaning="It refuses all writes until it can: events are answered with 503.",
            mend="Free its disk, or mend it; the log goes on by itself.",
            command=at.redis_cli("CONFIG GET dir"),
        )
    ]


async def aof_rewrite_failed(at: Deployment) -> list[Finding]:
    """Look whether the last rewrite of the append-only file failed, so the file only grows."""
    if await at.server.info("aof_last_bgrewrite_status") in {"ok", ""}:
        return []
    return [
        Finding(
            severity=WARNING,
            what="the last rewrite of the append-only file failed (aof_last_bgrewrite_status)",
            meaning="The file grows until the disk is full; a start takes longer each day.",
            mend="Give the log's machine disk and memory for a rewrite (see the log's own log: "
            "often fork fails, vm.overcommit_memory 1 mends that), then rewrite.",
            command=at.redis_cli("BGREWRITEAOF"),
        )
    ]


async def aof_grown(at: Deployment) -> list[Finding]:
    """Look whether the append-only file is far larger than what it would be rewritten to."""
    size = await at.server.number("aof_current_size")
    base = await at.server.number("aof_base_size")
    under_way = await at.server.number("aof_rewrite_in_progress")
    if under_way or size < max(GROWN_BYTES_MIN, GROWN_TIMES * base):
        return []
    return [
        Finding(
            severity=WARNING,
            what=f"the append-only file has {size / _GIB:,.1f} GiB, {base / _GIB:,.1f} after its "
            "last rewrite",
            meaning="All of it is read when the log starts, and nothing is accepted meanwhile.",
            mend="Rewrite it, and see why that does not happen (auto-aof-rewrite-percentage).",
            command=at.redis_cli("BGREWRITEAOF"),
        )
    ]


async def memory_filling(at: Deployment) -> list[Finding]:
    """Look whether the log comes near the mark above which nothing more is accepted."""
    seen = await memory(at.link)
    if seen is None:
        raise NotChecked("the log hides its memory")
    if seen.mark_bytes is None or seen.used_bytes < FULL_SHARE * seen.mark_bytes:
        return []
    used, mark = seen.used_bytes / MIB, seen.mark_bytes / MIB
    return [
        Finding(
            severity=ERROR if seen.used_bytes >= seen.mark_bytes else WARNING,
            what=f"the log uses {used:,.0f} MiB of the {mark:,.0f} MiB up to which events are "
            "accepted",
            meaning="Above that mark they are refused (503 backlog_full) until workers catch up.",
            mend="Add workers, see which group is behind, or raise maxmemory.",
            command="evp groups list",
        )
    ]


async def connections_filling(at: Deployment) -> list[Finding]:
    """Look whether the log has hardly any connections left to give."""
    connected, most = [await at.server.number(one) for one in ("connected_clients", "maxclients")]
    if connected < FULL_SHARE * most or not most:
        return []
    return [
        Finding(
            severity=WARNING,
            what=f"{connected:,} of {most:,} connections of the log are taken (maxclients)",
            meaning="Once all are, servers and workers that dial anew are turned away.",
            mend="See who holds them, or raise maxclients and the log's open-file limit.",
            command=at.redis_cli("CLIENT LIST"),
        )
    ]
