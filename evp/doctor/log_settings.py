"""Checks of the log's settings, by CONFIG GET, and by INFO where that is hidden; their mends.

A setting is mended by CONFIG SET, and by CONFIG REWRITE so that a restart keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from evp.doctor.deployment import MEMORY, Deployment
from evp.doctor.findings import NOTE, WARNING, Finding
from evp.doctor.limits import IDLE_CUT_S_MIN, REWRITE_BYTES_MIN
from evp.errors import LogNotDurable, LogUnavailable
from evp.limits import DURABLE_WAIT_MS_MAX, MIB
from evp.stream.client import LogFull
from evp.stream.durability import require_waiting
from evp.stream.inspection import ServerFacts, keep_setting

Fix = Callable[[Deployment, Sequence[Finding]], Awaitable[list[str]]]
"""Mends what a check found; returns what it did. Raises EvpError if it can't."""

_LOOK_S = 0.1
_UNDER_WAY = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
_REFUSED = "Servers that verify the log's settings accept nothing meanwhile (503 log_not_durable)."


async def durability_waived(at: Deployment) -> list[Finding]:
    """Look whether nobody verifies that the log keeps what it acknowledges."""
    policy = at.settings.durability
    if policy == "auto":
        return []
    risk = "a crash may lose the last events" if policy == MEMORY else "you vouch for the log"
    return [
        Finding(
            severity=NOTE,
            what=f"EVP_DURABILITY is {policy}: {risk}",
            meaning="Servers don't verify that the log has an event on disk before they answer.",
            mend="Set EVP_DURABILITY=auto where the log lets its settings be read.",
        )
    ]


async def aof_off(at: Deployment) -> list[Finding]:
    """Look whether the log keeps nothing on disk."""
    if at.settings.durability == MEMORY or await at.server.setting("appendonly") == "yes":
        return []
    return [
        Finding(
            severity=at.strictness,
            what="the log keeps nothing on disk (appendonly no)",
            meaning=f"What was accepted is gone when the log restarts. {_REFUSED}",
            mend="Turn the append-only file on; the log writes what it has into it.",
            command=at.redis_cli("CONFIG SET appendonly yes"),
            fixable=True,
        )
    ]


async def aof_starting(at: Deployment) -> list[Finding]:
    """Look whether the append-only file was turned on, and does not hold everything yet."""
    if at.settings.durability == MEMORY or await at.server.setting("appendonly") != "yes":
        return []
    if await at.server.setting("appendfsync") == "no" or not await _knows_waitaof(at):
        return []  # Others tell of that.
    wait_ms = DURABLE_WAIT_MS_MAX
    local, _ = await at.link.call("WAITAOF", 1, 0, wait_ms, wait_s=wait_ms / 1000)
    if local:
        return []
    return [
        Finding(
            severity=at.strictness,
            what="the append-only file was turned on, and does not hold what the log has yet",
            meaning=f"Until its first rewrite is done a restart loses everything. {_REFUSED}",
            mend="Wait for it; if it does not end, see the log's own log.",
            command=at.redis_cli("INFO persistence"),
        )
    ]


async def aof_not_synced(at: Deployment) -> list[Finding]:
    """Look whether the log acknowledges what its disk does not have, and can't be asked to wait."""
    how = await at.server.setting("appendfsync")
    if at.settings.durability == MEMORY or how in {"always", ""}:
        return []
    what = f"the log does not sync before it answers (appendfsync {how})"
    if how == "everysec" and await _knows_waitaof(at):
        try:
            await require_waiting(at.link, at.keys)
        except LogNotDurable:
            what += ", and its WAITAOF does not wait for its disk"
        except LogFull:
            return []  # It can't be tried; servers take nothing before they have.
        else:
            return []  # Each append waits for the disk.
    return [
        Finding(
            severity=at.strictness,
            what=what,
            meaning=f"The last events are lost when the power fails. {_REFUSED}",
            mend="Sync with each write; evp's frames share one sync among many requests.",
            command=at.redis_cli("CONFIG SET appendfsync always"),
            fixable=True,
        )
    ]


async def _knows_waitaof(at: Deployment) -> bool:
    return (await at.link.call("COMMAND", "INFO", "WAITAOF"))[0] is not None


async def aof_sync_pauses(at: Deployment) -> list[Finding]:
    """Look whether the log does not sync while it rewrites its file."""
    if at.settings.durability == MEMORY:
        return []
    if await at.server.setting("no-appendfsync-on-rewrite") != "yes":
        return []
    return [
        Finding(
            severity=at.strictness,
            what="the log stops syncing while it rewrites its file (no-appendfsync-on-rewrite yes)",
            meaning=f"Events of that time are lost when the power fails. {_REFUSED}",
            mend="Let it sync at all times.",
            command=at.redis_cli("CONFIG SET no-appendfsync-on-rewrite no"),
            fixable=True,
        )
    ]


async def evicts(at: Deployment) -> list[Finding]:
    """Look whether the log may throw keys away when its memory is full."""
    policy = await at.server.setting("maxmemory-policy")
    if policy in {"noeviction", ""}:
        return []
    return [
        Finding(
            severity=at.strictness,
            what=f"the log evicts keys when its memory is full (maxmemory-policy {policy})",
            meaning=f"The whole stream, its groups or leases of workers may go. {_REFUSED}",
            mend="Let it refuse instead: evp stops accepting before it is full.",
            command=at.redis_cli("CONFIG SET maxmemory-policy noeviction"),
            fixable=True,
        )
    ]


async def cluster_stops(at: Deployment) -> list[Finding]:
    """Look whether one primary that is away has all of a cluster refuse."""
    if not await at.server.number("cluster_enabled"):
        return []
    if await at.server.setting("cluster-require-full-coverage") != "yes":
        return []
    return [
        Finding(
            severity=WARNING,
            what="the cluster stops when a part of it is away (cluster-require-full-coverage yes)",
            meaning="While one primary is away and no replica has taken over, all others refuse as "
            "well, and evp accepts nothing, wherever its streams are.",
            mend="Let each primary go on with what it holds.",
            command=at.redis_cli("CONFIG SET cluster-require-full-coverage no"),
            fixable=True,
        )
    ]


async def no_memory_limit(at: Deployment) -> list[Finding]:
    """Look whether nothing tells how much memory the log on another machine really has."""
    if at.link.is_local or await at.server.setting("maxmemory") not in {"0", ""}:
        return []
    return [
        Finding(
            severity=WARNING,
            what="the log is on another machine and has no maxmemory",
            meaning="evp goes by that machine's whole memory. In a container that has less, the "
            "log is killed before evp stops accepting.",
            mend="Set maxmemory to what the log may use, and leave room for a rewrite of its file.",
            command=at.redis_cli("CONFIG SET maxmemory 4gb"),
        )
    ]


async def idle_connections_cut(at: Deployment) -> list[Finding]:
    """Look whether the log closes connections that idle, sooner than evp uses them again."""
    text = await at.server.setting("timeout")
    if not text.isdigit() or not 0 < int(text) < IDLE_CUT_S_MIN:
        return []
    return [
        Finding(
            severity=WARNING,
            what=f"the log closes connections that idle for {text} s (timeout)",
            meaning="Servers look at the log every 15 s: where nothing is sent meanwhile, their "
            "connection is cut, and the next events are refused until it is dialled again.",
            mend=f"Leave idle connections alone, or for {IDLE_CUT_S_MIN} s at least.",
            command=at.redis_cli("CONFIG SET timeout 0"),
        )
    ]


async def no_keepalive(at: Deployment) -> list[Finding]:
    """Look whether the log never notices that the other end of a connection is gone."""
    if await at.server.setting("tcp-keepalive") != "0":
        return []
    return [
        Finding(
            severity=NOTE,
            what="the log does not probe its connections (tcp-keepalive 0)",
            meaning="Connections of machines that vanished stay, and count against maxclients.",
            mend="Probe them, as the log does by default.",
            command=at.redis_cli("CONFIG SET tcp-keepalive 300"),
        )
    ]


async def aof_rewritten_often(at: Deployment) -> list[Finding]:
    """Look whether the append-only file is rewritten every few seconds under load."""
    size, percentage = [
        await at.server.setting(f"auto-aof-rewrite-{name}") for name in ("min-size", "percentage")
    ]
    if not size.isdigit() or percentage in {"0", ""} or int(size) >= REWRITE_BYTES_MIN:
        return []
    return [
        Finding(
            severity=NOTE,
            what=f"the log rewrites its file from {int(size) / MIB:,.0f} MiB on "
            "(auto-aof-rewrite-min-size)",
            meaning="At tens of thousands of events a second that is every few seconds, and each "
            "rewrite costs memory and makes answers late.",
            mend="Let the file grow to 1 GB first, if the disk has room for two of them.",
            command=at.redis_cli("CONFIG SET auto-aof-rewrite-min-size 1gb"),
        )
    ]


def set_to(name: str, value: str) -> Fix:
    """Return the mend that sets one of the log's settings."""

    async def fix(at: Deployment, _found: Sequence[Finding]) -> list[str]:
        not_kept = await keep_setting(at.link, name, value)
        done = f"set {name} to {value}"
        if not_kept is None:
            return [f"{done}, in the log's configuration file as well"]
        how = "set it where the log is configured, or a restart forgets it"
        return [f"{done}; the log's configuration file can't be rewritten ({not_kept}): {how}"]

    return fix


async def turn_aof_on(at: Deployment, found: Sequence[Finding]) -> list[str]:
    """Turn the append-only file on, and wait until it holds what the log has.

    Raises LogUnavailable, also if the file can't be written.
    """
    done = await set_to("appendonly", "yes")(at, found)
    while True:
        server = ServerFacts(at.link)
        if not any([await server.number(one) for one in _UNDER_WAY]):
            break
        await asyncio.sleep(_LOOK_S)
    status = await server.info("aof_last_bgrewrite_status")
    if status != "ok":
        raise LogUnavailable(f"the log can't write its append-only file ({status}): see its log")
    return done
