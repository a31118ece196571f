"""Facts about the log are exact, and looking moves nothing."""

from __future__ import annotations

import pytest

from evp.settings import Settings
from evp.stream.client import KeptLink, Link, pairs
from evp.stream.headers import all_headers, headers, in_log
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from evp.stream.scripts import APPEND
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


async def test_one_that_hangs_holds_what_it_holds(
    settings: Settings, link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others have acked behind an entry that is pending is not pending with it."""
    await append_events(settings, 60, each=10)
    await link.call("XADD", keys.stream, "*", "type", "plain")
    reader = consumer(settings)
    await reader.ensure_group()
    entries = [*await reader.read(10), *await reader.read(10)]
    assert len(entries) == 7
    [group] = (await log_facts(link, keys)).groups
    assert (group.pending, group.pending_events) == (7, 61)
    await reader.ack(entries[1:5])
    [group] = (await log_facts(link, keys)).groups
    assert (group.pending, group.pending_events) == (3, 21)
    monkeypatch.setattr("evp.stream.pending.PENDING_ENTRIES_COUNTED_MAX", 2)
    [group] = (await log_facts(link, keys)).groups
    assert (group.pending, group.pending_events) == (3, 60)
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


async def test_lag_where_the_log_knows_none(settings: Settings, link: Link, keys: Keys) -> None:
    """After deletions XINFO's lag is nil; the index still tells how many events wait."""
    await append_events(settings, 60, each=10)
    reader = consumer(settings)
    await reader.ensure_group()
    await reader.ack(await reader.read(1))
    entries = await link.call("XRANGE", keys.stream, "-", "+")
    for number in (2, 4):
        await link.call("XDEL", keys.stream, entries[number][0])
        [row] = await link.call("XINFO", "GROUPS", keys.stream)
        assert dict(pairs(row))[b"lag"] is None
    [group] = (await log_facts(link, keys)).groups
    # Deleted entries between others still count: what they held was accepted, and is not stored.
    assert group.lag_events == 50
    await link.call("XDEL", keys.stream, entries[1][0])
    [group] = (await log_facts(link, keys)).groups
    assert group.lag_events == 30
    assert group.lag_s >= 0
    await reader.close()


async def test_names_of_any_bytes(settings: Settings, link: Link, keys: Keys) -> None:
    """Any client names groups and consumers as it likes; a look tells them as text."""
    await append_events(settings, 1)
    await link.call("XGROUP", "CREATE", keys.stream, b"g\xff\x1b", "0")
    await link.call("XGROUP", "CREATECONSUMER", keys.stream, b"g\xff\x1b", b"\xc3")
    [group] = (await log_facts(link, keys)).groups
    assert (group.name, group.consumers[0].name) == ("g\\xff\x1b", "\\xc3")


async def test_headers_tell_what_entries_hold(settings: Settings, link: Link, keys: Keys) -> None:
    """Each entry's frame, epoch, number and count are told in order, and by pages."""
    await append_events(settings, 5, each=2)
    await link.call("XADD", keys.stream, "*", "type", "plain")
    first = await headers(link, keys, "-", 2)
    rest = await headers(link, keys, first[-1].entry_id, 10)
    assert [(one.seq, one.count) for one in first + rest] == [(1, 2), (2, 2), (3, 1), (0, 0)]
    assert len({one.frame_id for one in first + rest}) == 4
    assert await headers(link, keys, rest[-1].entry_id, 10) == []


async def lengths(settings: Settings, keys: Keys) -> list[int]:
    """Return how many entries each page of headers has."""
    link = KeptLink(settings.redis_url, keys)
    pages = [len(page) async for page in all_headers(link, keys)]
    await link.close()
    return pages


async def test_pages_of_headers_follow_what_entries_hold(
    settings: Settings, link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large entries among many small ones make pages short: none goes through more than it may."""
    monkeypatch.setattr("evp.stream.headers.HEADERS_BYTES_TARGET", 20_000)
    sizes = [10] * 300 + [9_000] * 7 + [50_000] * 2 + [10] * 300 + [9_000]
    for size in sizes:
        frame = (1, 1, size, "data", b"x" * size)
        await link.script(APPEND, (keys.stream, keys.counters, keys.index), frame)
    pages = await lengths(settings, keys)
    assert sum(pages) == len(sizes)
    looked_at = [sizes[sum(pages[:n]) : sum(pages[: n + 1])] for n in range(len(pages))]
    assert all(len(page) == 1 or sum(page) <= 20_000 for page in looked_at)
    assert len(pages) < 12


async def test_pages_without_an_index_are_short(settings: Settings, link: Link, keys: Keys) -> None:
    """Entries of other programs may have any size, so few of them are gone through at once."""
    await link.calls([("XADD", keys.stream, "*", "type", "plain")] * 40)
    assert await lengths(settings, keys) == [16, 16, 8]


async def test_a_frame_is_in_the_log_under_its_own_entry_only(
    settings: Settings, link: Link, keys: Keys
) -> None:
    """An entry id that was issued again for another frame proves nothing."""
    await append_events(settings, 2)
    one, two = await headers(link, keys, "-", 10)
    await link.call("XDEL", keys.stream, two.entry_id)
    asked = [
        (one.entry_id, one.frame_id),
        (one.entry_id, two.frame_id),
        (two.entry_id, two.frame_id),
    ]
    assert await in_log(link, keys, asked) == {one.frame_id}
