"""Reading: nothing is skipped, nothing is acked over the wrong connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from evp.errors import CorruptFrame, EntryDeleted, GroupLost, LogUnavailable, UnknownFrameVersion
from evp.limits import READ_BYTES_TARGET, READ_UNSEEN_MAX
from evp.settings import Settings
from evp.stream import consumer as stream_consumer
from evp.stream.client import Link
from evp.stream.consumer import Consumer, Delivery
from evp.stream.keys import Keys
from tests.support.make import SRV, event, open_frame
from tests.support.servers import Server
from tests.support.streams import append, append_events, consumer

Opener = Callable[..., Consumer]

LARGE = {"text": "x" * 200_000}


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Opener]:
    """Makes consumers; closes them at the end."""
    made: list[Consumer] = []

    def open_one(name: str = "c-1", **changes: Any) -> Consumer:
        made.append(consumer(settings, name, **changes))
        return made[-1]

    yield open_one
    for one in made:
        await one.close()


async def pending(link: Link, settings: Settings) -> int:
    """Return how many entries the group has delivered and not acked."""
    reply = await link.call("XPENDING", settings.stream, settings.consumer_group)
    return int(reply[0])


async def test_group_begins_at_the_beginning(
    opened: Opener, settings: Settings, link: Link, keys: Keys
) -> None:
    """What was accepted before the group existed is delivered; its name was registered first."""
    await append_events(settings, 3)
    reader = opened()
    assert await reader.ensure_group()
    assert not await reader.ensure_group()
    assert await link.call("SMEMBERS", keys.groups) == [settings.consumer_group.encode()]
    found = await reader.read(10)
    assert [one.frame.count for one in found if one.frame] == [1, 1, 1]
    await reader.ack(found)
    assert await pending(link, settings) == 0
    assert await reader.read(10) == []


async def test_group_that_is_gone_is_told(opened: Opener, settings: Settings, link: Link) -> None:
    """A destroyed group is an error of its own; made anew it delivers everything again."""
    await append_events(settings, 2)
    reader = opened()
    await reader.ensure_group()
    first = await reader.read(10)
    await link.call("XGROUP", "DESTROY", settings.stream, settings.consumer_group)
    with pytest.raises(GroupLost):
        await reader.read(10)
    with pytest.raises(LogUnavailable):
        await reader.ack(first)
    assert await reader.ensure_group()
    assert len(await reader.read(10)) == 2


async def test_lost_reply_comes_again_first(opened: Opener, settings: Settings, link: Link) -> None:
    """Entries delivered to a reply that got lost are read again before any new one."""
    await append_events(settings, 2)
    reader = opened()
    await reader.ensure_group()
    reading = asyncio.create_task(reader.read(1))
    await reading
    await reader.reset()
    await append_events(settings, 1, first=2)
    again = await reader.read(10)
    assert [one.frame.seq for one in again if one.frame] == [1]
    rest = await reader.read(10)
    assert len(rest) == 2
    await reader.ack(rest)
    with pytest.raises(LogUnavailable, match="come again"):
        # The first read went over a connection that is gone.
        await reader.ack(reading.result())
    assert await pending(link, settings) == 1


async def test_entry_id_that_was_issued_again(
    opened: Opener, settings: Settings, link: Link
) -> None:
    """Whoever read an entry that the log has lost does not ack the one that got its id since."""
    [entry] = await append(settings, [event(0)])
    reader = opened()
    await reader.ensure_group()
    lost = await reader.read(1)
    await link.call("DEL", settings.stream)
    other = open_frame(event(1)).fields(SRV, 1)
    await link.call("XADD", settings.stream, entry, *(x for pair in other.items() for x in pair))
    await reader.reset()
    await reader.ensure_group()
    [found] = await reader.read(1)
    assert found.entry_id == lost[0].entry_id == entry
    with contextlib.suppress(LogUnavailable):
        await reader.ack(lost)
    assert await pending(link, settings) == 1


async def test_own_pending_entries_are_paged(opened: Opener, settings: Settings) -> None:
    """A cursor goes through all of them, although none is acked on the way."""
    await append_events(settings, 7)
    reader = opened()
    await reader.ensure_group()
    assert len(await reader.read(7)) == 7
    await reader.reset()
    pages = [len(await reader.read(3)) for _ in range(4)]
    assert pages == [3, 3, 1, 0]


async def test_reading_ahead_gives_new_entries_alone(
    opened: Opener, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who still writes gets nothing a second time, and stops for what was left when it is time."""
    monkeypatch.setattr(stream_consumer, "CLAIM_EVERY_S", 3600)
    gone, reader = opened("gone-1"), opened("c-1", claim_idle_ms=0)
    await gone.ensure_group()
    await append_events(settings, 2)
    left = [one.entry_id for one in await gone.read(2)]
    await append_events(settings, 3, first=2)
    assert await reader.read(10, ahead=True) == []
    assert [one.entry_id for one in await reader.read(10)] == left
    assert [one.times for one in await reader.read(2, ahead=True)] == [1, 1]
    monkeypatch.setattr(reader, "_claim_at_s", 0.0)
    assert await reader.read(10, ahead=True) == []
    assert len(await reader.read(10)) == 4


async def test_cancelled_read_drops_the_connection(opened: Opener, settings: Settings) -> None:
    """A reply on its way to a cancelled read never becomes another command's answer."""
    reader = opened(block_ms=5000)
    await reader.ensure_group()
    reading = asyncio.create_task(reader.read(10))
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await append_events(settings, 1)
    assert len(await reader.read(10)) == 1


async def test_a_read_is_bounded_in_bytes(opened: Opener, settings: Settings) -> None:
    """However small frames were so far, one read takes no more than 16 MiB of the next ones."""
    await append_events(settings, 20)
    await append(settings, *([event(100 + n, data=LARGE) for n in range(10)] for _ in range(12)))
    await append(settings, [event(200)])
    reader = opened()
    await reader.ensure_group()
    sizes: list[int] = []
    counts: list[int] = []
    while found := await reader.read(1000):
        sizes.append(sum(one.frame.size_bytes for one in found if one.frame is not None))
        counts.append(len(found))
    assert sum(counts) == 33
    assert max(sizes) <= READ_BYTES_TARGET
    assert counts[0] > 20
    assert len(counts) == 2


@pytest.mark.parametrize("plain", [False, True], ids=["frames", "plain"])
@pytest.mark.parametrize("whose", ["own", "stale"])
async def test_pending_entries_are_read_in_portions(
    opened: Opener, settings: Settings, link: Link, whose: str, *, plain: bool
) -> None:
    """What is pending, own or of others, comes back in portions of 16 MiB, and all of it."""
    await append_events(settings, 20)
    for number in range(12):
        if plain:
            data = msgspec.json.encode("x" * 2_000_000)
            await link.call("XADD", settings.stream, "*", "type", "t", "data", data)
        else:
            await append(settings, [event(100 + 10 * number + n, data=LARGE) for n in range(10)])
    gone = opened()
    await gone.ensure_group()
    taken = 0
    while found := await gone.read(5):
        taken += len(found)
    await gone.reset()
    reader = gone if whose == "own" else opened("c-2", claim_idle_ms=0)
    if whose == "own":
        pages = [found async for found in own_pages(reader)]
    else:
        pages = [found async for found in reader.stale(lambda: 1000)]
    read = [one for found in pages for one in found]
    assert taken == len({one.entry_id for one in read}) == len(read) == 32
    assert {one.times for one in read} == {2}
    assert max(sum(size_of(one) for one in found) for found in pages) <= READ_BYTES_TARGET
    assert len(pages) == 2


async def own_pages(reader: Consumer) -> AsyncIterator[list[Delivery]]:
    """Read until nothing is given any more."""
    while found := await reader.read(1000):
        yield found


def size_of(one: Delivery) -> int:
    """Return how many bytes an entry holds, about."""
    return one.frame.size_bytes if one.frame is not None else len(one.payload)


async def test_one_that_is_too_large_is_read_alone(opened: Opener, settings: Settings) -> None:
    """An entry larger than a read may be comes by itself, and what is behind it after it."""
    await append_events(settings, 2)
    await append(settings, [event(100 + n, data=LARGE) for n in range(90)])
    await append_events(settings, 2, first=2)
    reader = opened()
    await reader.ensure_group()
    while await reader.read(1):
        pass
    await reader.reset()
    assert [len(found) async for found in own_pages(reader)] == [2, 1, 2]


async def test_give_back_makes_all_claimable(
    opened: Opener, settings: Settings, link: Link
) -> None:
    """What a worker leaves behind has been idle for long, so that the next one takes it at once."""
    await append_events(settings, 5)
    reader = opened()
    await reader.ensure_group()
    await reader.read(5)
    assert await reader.give_back() == 5
    group = (settings.stream, settings.consumer_group)
    taken = await link.call("XAUTOCLAIM", *group, "c-2", 3_600_000, "0", "COUNT", 10)
    assert len(taken[1]) == 5
    assert await reader.give_back() == 0


async def test_keeping_makes_entries_look_fresh(
    opened: Opener, settings: Settings, link: Link
) -> None:
    """Entries that are worked on look fresh, and their delivery count stays as it was."""
    await append_events(settings, 1)
    reader = opened()
    await reader.ensure_group()
    found = await reader.read(1)
    await asyncio.sleep(0.1)
    assert await reader.keep(found) == found
    group = (settings.stream, settings.consumer_group)
    [[_, _, idle_ms, deliveries]] = await link.call("XPENDING", *group, "-", "+", 10)
    assert idle_ms < 100
    assert deliveries == 1


async def test_drained(opened: Opener, settings: Settings) -> None:
    """A stream is drained when its last entry was delivered."""
    reader = opened()
    await reader.ensure_group()
    assert await reader.drained()
    await append_events(settings, 2)
    assert not await reader.drained()
    await reader.read(10)
    assert await reader.drained()
    stranger = opened(group="nobody")
    assert not await stranger.drained()


async def test_entries_that_are_no_frames(opened: Opener, settings: Settings, link: Link) -> None:
    """Plain, corrupt, newer and deleted entries are told apart; none blocks the others."""
    stream = settings.stream
    await link.call("XADD", stream, "*", "type", "t", "data", '{"a": 1}')
    await link.call("XADD", stream, "*", "foo", "bar")
    newer = open_frame(event(0)).fields(SRV, 1) | {b"v": b"9"}
    await link.call("XADD", stream, "*", *(item for pair in newer.items() for item in pair))
    [entry] = await append(settings, [event(1)])
    reader = opened()
    await reader.ensure_group()
    found = await reader.read(10)
    assert [one.frame is not None for one in found] == [True, False, False, True]
    assert isinstance(found[1].error, CorruptFrame)
    assert found[1].payload == b"3:foo3:bar"
    assert isinstance(found[2].error, UnknownFrameVersion)
    await link.call("XDEL", stream, entry)
    await reader.reset()
    deleted = (await reader.read(10))[-1]
    assert (deleted.entry_id, deleted.frame) == (entry, None)
    assert isinstance(deleted.error, EntryDeleted)


async def test_entries_of_other_programs_are_read_a_few_at_a_time(
    opened: Opener, settings: Settings, link: Link
) -> None:
    """Nobody bounds their size: after the first one, a few are read at once until frames come."""
    few, many = READ_UNSEEN_MAX, 4 * READ_UNSEEN_MAX
    for _ in range(2 * many):
        await link.call("XADD", settings.stream, "*", "event", '{"type":"t","source":"s"}')
    await append_events(settings, few + many)
    reader = opened("c-1")
    await reader.ensure_group()
    sizes = [len(await reader.read(many)) for _ in range(7)]
    assert sizes == [many, few, few, few, few, few, many]


@pytest.mark.slow
async def test_hanging_log_is_given_up(opened: Opener, own_log_server: Server) -> None:
    """A log that accepts connections and never answers ends a read within its bound."""
    reader = opened(url=own_log_server.url, block_ms=100)
    await reader.ensure_group()
    with own_log_server.paused(), pytest.raises(LogUnavailable):
        await reader.drained()
    assert await reader.read(1) == []
