"""Facts about the log are exact, and looking moves nothing."""

from __future__ import annotations

from evp.settings import Settings
from evp.stream.client import Link
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from tests.support.streams import append_events, consumer


async def test_no_stream_yet(link: Link, keys: Keys) -> None:
    """Before the first event everything is zero."""
    facts = await log_facts(link, keys)
    assert (facts.length, facts.size_bytes, facts.events_accepted, facts.groups) == (0, 0, 0, [])


async def test_lag_in_events(settings: Settings, link: Link, keys: Keys) -> None:
    """Pending and lag are counted in events, although the log counts entries."""
    await append_events(settings, 60, each=10)
    reader = consumer(settings)
    await reader.ensure_group()
    [group] = (await log_facts(link, keys)).groups
    assert (group.pending, group.pending_events, group.lag_events) == (0, 0, 60)
    first = await reader.read(2)
    facts = await log_facts(link, keys)
    [group] = facts.groups
    assert (facts.length, facts.events_accepted, facts.frames_accepted) == (6, 60, 6)
    assert facts.size_bytes > 0
    assert (group.pending, group.pending_events, group.lag_events) == (2, 20, 40)
    assert group.lag_s >= 0
    [one] = group.consumers
    assert (one.name, one.pending) == ("c-1", 2)
    await reader.ack(first)
    rest = await reader.read(10)
    await reader.ack(rest)
    [group] = (await log_facts(link, keys)).groups
    assert (group.pending, group.pending_events, group.lag_events, group.lag_s) == (0, 0, 0, 0)
    await reader.close()


async def test_lag_survives_trimming(settings: Settings, link: Link, keys: Keys) -> None:
    """Entries that were deleted behind the group don't disturb the count."""
    await append_events(settings, 30, each=10)
    reader = consumer(settings)
    await reader.ensure_group()
    await reader.ack(await reader.read(1))
    await link.call("XTRIM", settings.stream, "MAXLEN", 1)
    [group] = (await log_facts(link, keys)).groups
    assert group.lag_events == 10
    await reader.close()
