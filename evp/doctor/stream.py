"""Checks of the stream, its groups and their consumers; their mends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from shlex import quote

from evp.doctor.deployment import Deployment
from evp.doctor.findings import ERROR, NOTE, WARNING, Finding, listed
from evp.doctor.limits import (
    AGAIN_S,
    GHOST_IDLE_MS,
    GROUP_SILENT_MS,
    TRIM_LATE_S,
    TRIM_LATE_SHARE,
    TRIMS_MAX,
)
from evp.frame import VERSION
from evp.limits import MIB
from evp.storage import groups as store_groups
from evp.stream.backlog import done_in_log
from evp.stream.groups import existing_groups, registered_groups, remove_gone
from evp.stream.info import ConsumerFacts, GroupFacts
from evp.stream.inspection import versions, wrong_types
from evp.stream.slots import held
from evp.stream.trim import Retention, trim
from evp.worker.stale import claim_stale


async def partitions_lowered(at: Deployment) -> list[Finding]:
    """Look whether servers with these settings leave partitions alone that there are."""
    used = at.settings.partitions
    if used >= at.partitions:
        return []
    return [
        Finding(
            severity=NOTE,
            what=f"servers with these settings write to {used} of {at.partitions} partitions "
            "(EVP_PARTITIONS)",
            meaning="Workers follow them all: what the others have is stored, and no more comes.",
            mend="Nothing is to be done if the number was lowered on purpose; else set it to "
            f"{at.partitions} where servers are started.",
        )
    ]


async def wrong_type(at: Deployment) -> list[Finding]:
    """Look whether another program uses a key of evp's."""
    return [
        Finding(
            severity=ERROR,
            what=f"key {key} holds a {kind}, not a {wanted}",
            meaning="Another program writes there: evp can neither append nor read.",
            mend="Let that program use another key, or give evp another stream (EVP_STREAM).",
            command=at.redis_cli(f"TYPE {quote(key)}"),
        )
        for key, (kind, wanted) in (await wrong_types(at.link, at.keys)).items()
    ]


async def newer_frames(at: Deployment) -> list[Finding]:
    """Look whether a newer evp writes to this log."""
    others = await versions(at.link, at.keys, at.settings.consumer_group) - {VERSION}
    if not others:
        return []
    named = ", ".join(sorted(one.decode(errors="replace")[:20] for one in others))
    return [
        Finding(
            severity=ERROR,
            what=f"the log has frames of version {named}; this evp reads {VERSION.decode()}",
            meaning="A newer evp wrote them. Workers of this one leave them pending.",
            mend="Upgrade the workers; they are to be upgraded before the servers.",
        )
    ]


async def group_missing(at: Deployment) -> list[Finding]:
    """Look whether a group that is known does not exist in the stream: trimming stands still."""
    missing = await _missing_groups(at)
    if missing:
        # A worker that runs makes its group anew within seconds.
        await asyncio.sleep(AGAIN_S)
        missing &= await _missing_groups(at)
    return [
        Finding(
            severity=ERROR,
            what=f"group {name} is registered, and the stream does not have it",
            meaning="It may need everything, so nothing is trimmed, and the log fills up.",
            mend="Start its workers, which make it anew; or delete it for good, if nobody will.",
            command=_of_missing(at, name),
        )
        for name in sorted(missing)
    ]


def _of_missing(at: Deployment, name: str) -> str:
    if name == at.settings.consumer_group:
        return "evp work"
    # Of several partitions it may be a new one that lacks it.
    return f"evp groups {'delete' if at.partitions == 1 else 'create'} {quote(name)}"


async def _missing_groups(at: Deployment) -> set[str]:
    known = await registered_groups(at.link, at.keys) | await store_groups.registered(at.db)
    return known - await existing_groups(at.link, at.keys)


async def group_pins(at: Deployment) -> list[Finding]:
    """Look whether a group by which nobody reads holds the log."""
    furthest = max((await at.log()).groups, key=lambda one: one.lag_s, default=None)
    if furthest is None or furthest.name == at.settings.consumer_group:
        return []  # Of the group that writes `nobody_works` tells.
    last_ms = min((one.idle_ms for one in furthest.consumers), default=None)
    is_read = last_ms is not None and last_ms < GROUP_SILENT_MS
    if is_read or furthest.lag_s * 1000 < GROUP_SILENT_MS:
        return []
    last = "nobody reads by it" if last_ms is None else f"last read {last_ms / 1000:,.0f} s ago"
    return [
        Finding(
            severity=WARNING,
            what=f"group {furthest.name} holds {furthest.waiting_events:,} events in the log, "
            f"the oldest for {furthest.lag_s:,.0f} s; {last}",
            meaning="Nothing from there on can be trimmed: the log fills up, and then refuses.",
            mend="Start what reads by it; or delete it, if nobody will.",
            command=f"evp groups delete {quote(furthest.name)}",
        )
    ]


async def ghost_consumers(at: Deployment) -> list[Finding]:
    """Look whether consumers are gone, with or without entries pending under their names."""
    known = await registered_groups(at.link, at.keys)
    found = []
    for group in (await at.log()).groups:
        ghosts = await _ghosts(at, group)
        pending = sum(one.pending for one in ghosts)
        if pending or (ghosts and group.name in known):
            found.append(_ghost_finding(at, group, ghosts, pending, is_known=group.name in known))
    return found


async def _ghosts(at: Deployment, group: GroupFacts) -> list[ConsumerFacts]:
    silent = [one for one in group.consumers if one.idle_ms >= GHOST_IDLE_MS]
    alive = await held(at.link, at.keys, group.name, [one.name for one in silent])
    return [one for one in silent if one.name not in alive]


def _ghost_finding(
    at: Deployment, group: GroupFacts, ghosts: list[ConsumerFacts], pending: int, *, is_known: bool
) -> Finding:
    names = listed([one.name for one in ghosts])
    if not pending:
        return Finding(
            severity=NOTE,
            what=f"consumers of group {group.name} are gone, and own nothing: {names}",
            meaning="They do no harm but to whoever looks at the group.",
            mend="A worker of the group removes them by itself.",
            command=f"evp claim-stale --group {quote(group.name)}",
            fixable=True,
        )
    if not is_known:
        mend, command = "They are another program's: let it take them over (XAUTOCLAIM).", ""
    else:
        mend = "Start a worker of the group, or take them over now."
        command = f"evp claim-stale --group {quote(group.name)}"
    return Finding(
        severity=WARNING,
        what=f"consumers of group {group.name} are gone: {names}; entries pending under their "
        f"names: {pending:,}",
        meaning="Their events are not stored yet. Never remove these consumers by hand: what is "
        "pending under their names would go with them.",
        mend=mend,
        command=command,
        fixable=group.name == at.settings.consumer_group,
    )


async def lay_ghosts(at: Deployment, _found: Sequence[Finding]) -> list[str]:
    """Do what `evp claim-stale` does, and remove consumers that own nothing.

    Raises UsageError, LogUnavailable and StoreUnavailable.
    """
    own, done = at.settings.consumer_group, []
    group = await at.group(own)
    if group is not None and any(one.pending for one in await _ghosts(at, group)):
        # Ctrl-C ends the command, and what is claimed by then is taken over by the next one.
        account = await claim_stale(
            at.settings, at.settings.claim_idle_ms, asyncio.Queue(), lambda _account: None
        )
        done.append(
            f"took over {account.events:,} events of group {own}: {account.stored:,} stored, "
            f"{account.duplicate:,} stored before, {account.dead:,} dead"
        )
        done += [f"removed consumer {one} of group {own}" for one in account.removed]
    known = await registered_groups(at.link, at.keys)
    for name in sorted(known & await existing_groups(at.link, at.keys)):
        removed = await remove_gone(at.link, at.keys, name, idle_ms=GHOST_IDLE_MS)
        done += [f"removed consumer {one} of group {name}" for one in removed]
    return done


async def not_trimmed(at: Deployment) -> list[Finding]:
    """Look whether what every group has done with stays longer than it should."""
    known = await registered_groups(at.link, at.keys) | await store_groups.registered(at.db)
    if not known or known - await existing_groups(at.link, at.keys):
        return []  # Nobody has worked yet; or nobody may trim, as `group_missing` tells.
    done = await done_in_log(at.link, at.keys)
    settings = at.settings
    if done is None:
        return []
    is_late = done.age_s > settings.log_retention_s + TRIM_LATE_S
    if not is_late and done.size_bytes <= TRIM_LATE_SHARE * settings.log_retention_bytes:
        return []
    return [
        Finding(
            severity=WARNING,
            what=f"the log holds {done.size_bytes / MIB:,.1f} MiB that every group has done with, "
            f"the oldest for {done.age_s:,.0f} s",
            meaning="Workers trim it, after EVP_LOG_RETENTION_S or _BYTES: none of them does.",
            mend="Start `evp work`; or trim once.",
            command="evp doctor --fix",
            fixable=True,
        )
    ]


async def trim_now(at: Deployment, _found: Sequence[Finding]) -> list[str]:
    """Trim as workers do. Raises LogUnavailable and StoreUnavailable."""
    names = await store_groups.registered(at.db)
    kept = Retention(at.settings.log_retention_s, at.settings.log_retention_bytes)
    removed = 0
    for _ in range(TRIMS_MAX):
        trimmed = await trim(at.link, at.keys, names, kept)
        removed += trimmed.removed
        if not trimmed.more:
            break
    return [f"trimmed {removed:,} entries that every group has done with"]
