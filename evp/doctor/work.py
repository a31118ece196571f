"""Checks of who works, what servers recorded, and what is left for people; their mends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evp.clock import now
from evp.dlq import actions
from evp.doctor.deployment import Deployment
from evp.doctor.findings import ERROR, NOTE, WARNING, Finding, listed
from evp.doctor.limits import AGAIN_S, WAITING_S_MAX
from evp.limits import GROUP_READ_MS, WORKER_SILENT_S
from evp.storage.dlq import Filters
from evp.storage.groups import writer
from evp.storage.ledger import (
    deleted_entries,
    record_servers,
    unrecorded_servers,
    worker_records,
)
from evp.stream.info import oldest_age_s, unsettled
from evp.stream.ledger import Record, recorded_epochs
from evp.stream.slots import held, pid_here


async def other_writer(at: Deployment) -> list[Finding]:
    """Look whether another group than the configured one writes to this database."""
    found = await writer(at.db)
    mine = (at.settings.stream, at.settings.consumer_group)
    if found is None or found == mine:
        return []
    return [
        Finding(
            severity=ERROR,
            what=f"group {found[1]} of stream {found[0]} writes to {at.settings.mongo_db}, and "
            f"the settings say {mine[1]} of {mine[0]}",
            meaning="Workers with these settings don't start: two groups would count each other's "
            "events as duplicates.",
            mend="Set EVP_STREAM, EVP_CONSUMER_GROUP or EVP_MONGO_DB right; or make it the one.",
            command="evp work --take-over",
        )
    ]


async def nobody_works(at: Deployment) -> list[Finding]:
    """Look whether events wait, and no worker is there to store them."""
    name = at.settings.consumer_group
    waiting, group = await unsettled(at.link, at.keys, name), await at.group(name)
    if not waiting.any_entry:
        return []
    lag_s = await oldest_age_s(at.link, at.keys) if group is None else group.lag_s
    consumers = [] if group is None else group.consumers
    reading = any(one.idle_ms < GROUP_READ_MS for one in consumers)
    if lag_s < WAITING_S_MAX or reading:
        return []
    if await held(at.link, at.keys, name, [one.name for one in consumers]):
        return []
    return [
        Finding(
            severity=ERROR,
            what=f"{waiting.events:,} events wait for group {name}, the oldest for {lag_s:,.0f} s, "
            "and no worker runs",
            meaning="They are safe in the log and not in the store; once it is full, events are "
            "refused.",
            mend="Start workers.",
            command="evp work",
        )
    ]


async def silent_worker(at: Deployment) -> list[Finding]:
    """Look whether a worker holds its name and has stopped telling the store that it lives."""
    name = at.settings.consumer_group
    group = await at.group(name)
    consumers = [] if group is None else [one.name for one in group.consumers]
    holders = await held(at.link, at.keys, name, consumers)
    rows = await _records(at, holders)
    silent = {one: row for one, row in rows.items() if _age_s(row) > WORKER_SILENT_S}
    if silent:
        # Clocks may differ: a worker that lives has moved its heartbeat meanwhile.
        await asyncio.sleep(AGAIN_S)
        again = await _records(at, await held(at.link, at.keys, name, silent))
        silent = {
            one: row for one, row in again.items() if row["seen_at"] == silent[one]["seen_at"]
        }
    return [await _silent(at, one, row) for one, row in sorted(silent.items())]


async def _silent(at: Deployment, one: str, row: Mapping[str, Any]) -> Finding:
    # Elsewhere, or in another container, its process id is another process.
    pid = await pid_here(at.link, at.keys, at.settings.consumer_group, one)
    is_here = pid is not None and pid == row.get("pid")
    there = "" if is_here else f" on {row.get('host', 'its host')}, with kill -9"
    return Finding(
        severity=WARNING,
        what=f"worker {one} ({_where(row)}) holds its name and was last heard of "
        f"{_age_s(row):,.0f} s ago",
        meaning="It hangs, or can't write to the store; what it has read is taken over only "
        "once it lets go.",
        mend=f"See its log; if it hangs, end it{there}: nothing is lost, and another one takes its "
        "entries over.",
        command=f"kill -9 {pid}" if is_here else "",
    )


async def _records(at: Deployment, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    rows = await worker_records(at.db, at.settings.consumer_group, names)
    return {row["name"]: row for row in rows if row.get("partition", 0) == at.keys.partition}


def _age_s(row: Mapping[str, Any]) -> float:
    return float((now() - row["seen_at"]).total_seconds())


def _where(row: Mapping[str, Any]) -> str:
    return f"pid {row.get('pid', '?')} on {row.get('host', '?')}"


async def ledger_behind(at: Deployment) -> list[Finding]:
    """Look whether something that servers recorded in the log never came to the store."""
    lacking = await _unrecorded(at)
    if lacking:
        # A server that runs records every two seconds.
        await asyncio.sleep(AGAIN_S)
        again = await _unrecorded(at)
        lacking = [one for one in lacking if one in again]
    if not lacking:
        return []
    named = listed([one.srv.hex() for one in lacking])
    return [
        Finding(
            severity=WARNING,
            what=f"how far server epochs got stands in the log alone: {named}",
            meaning="Servers that ended recorded it there, and none has carried it to the store. "
            "If the log is lost now, what they accepted last can't be proved to be missing.",
            mend="Start a server, which carries it within a minute; or carry it now.",
            command="evp doctor --fix",
            fixable=True,
        )
    ]


async def _unrecorded(at: Deployment) -> list[Record]:
    records = await recorded_epochs(at.link, at.keys)
    lacking = await unrecorded_servers(at.db, {one.srv: (one.seq, one.unknown) for one in records})
    return [one for one in records if one.srv in lacking]


async def carry_ledger(at: Deployment, _found: Sequence[Finding]) -> list[str]:
    """Carry to the store what the log alone has. Raises LogUnavailable and StoreUnavailable."""
    lacking = await _unrecorded(at)
    rows = [(one.srv, one.seq, one.events, one.unknown) for one in lacking]
    await record_servers(at.db, rows, at.keys.partition)
    return [f"carried to the store how far server epochs got: {len(lacking):,}"]


async def dead_letters(at: Deployment) -> list[Finding]:
    """Look whether accepted events are not stored, and wait for somebody to mend them."""
    listing = await actions.look(at.db, Filters(), 0)
    if not listing.counted:
        return []
    more = "more than " if listing.more else ""
    reasons = sorted(listing.by_reason.items(), key=lambda pair: -pair[1])
    named = listed([f"{count:,} {reason}" for reason, count in reasons])
    return [
        Finding(
            severity=WARNING,
            what=f"dead letters wait: {more}{named}",
            meaning="Each is an accepted event that the store refused, with the reason.",
            mend="See what to do about each reason; then replay or purge them.",
            command="evp dlq list",
        )
    ]


async def entries_deleted(at: Deployment) -> list[Finding]:
    """Look whether somebody deleted entries from the log before they were stored."""
    count = await deleted_entries(at.db)
    if not count:
        return []
    return [
        Finding(
            severity=NOTE,
            what=f"{count:,} entries were deleted from the log, ever, before they were acked",
            meaning="What they held may be lost, unless it was sent again.",
            mend="Let the proof say what is missing, and see who trims the stream.",
            command="evp verify",
        )
    ]
