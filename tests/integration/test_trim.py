"""Trimming in particular: ids of any size, retention, memory, a full log, many at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from evp.settings import Settings
from evp.stream import trim as trimming
from evp.stream.client import Link
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from evp.stream.memory import memory
from evp.stream.trim import Retention, trim
from tests.support.make import event, open_frame
from tests.support.servers import Server, own_log
from tests.support.streams import append_events, connected, consumer

GROUP = "workers"
NOW = Retention(0, 0)
LONG = Retention(3600, 2**40)
MIB = 2**20
LAST = 2**64 - 1


async def entries(link: Link, keys: Keys) -> list[str]:
    """Return the ids of all entries."""
    return [entry.decode() for entry, _ in await link.call("XRANGE", keys.stream, "-", "+")]


async def register(link: Link, keys: Keys, group: str = GROUP) -> None:
    """Make a group by hand; a stream too where there is none."""
    await link.call("XGROUP", "CREATE", keys.stream, group, "0", "MKSTREAM")
    await link.call("SADD", keys.groups, group)


async def read(link: Link, keys: Keys, count: int, group: str = GROUP) -> list[str]:
    """Read new entries, and don't ack them."""
    head = ("XREADGROUP", "GROUP", group, "one", "COUNT", count)
    reply = await link.call(*head, "STREAMS", keys.stream, ">")
    return [entry.decode() for entry, _ in reply[0][1]] if reply else []


async def work(link: Link, keys: Keys, group: str = GROUP) -> None:
    """Read and ack everything."""
    while given := await read(link, keys, 1000, group):
        await link.call("XACK", keys.stream, group, *given)


@pytest.mark.parametrize(
    "ids",
    [
        ["9-9", "9-10", "10-0", "10-9", "10-10", "99-0", "100-0"],
        [f"5-{LAST - 1}", f"5-{LAST}", "6-0", f"6-{LAST}", "7-0"],
        ["1-199", "1-200", "1-999", "1-1000", "1-1099", "1-1100"],
        [f"{2**53}-0", f"{2**53}-1", f"{2**53 + 1}-{2**53}", f"{2**53 + 1}-{2**53 + 1}"],
        [f"{LAST - 1}-{LAST}", f"{LAST}-0", f"{LAST}-{LAST - 1}", f"{LAST}-{LAST}"],
    ],
)
async def test_ids_are_pairs_of_numbers(link: Link, keys: Keys, ids: list[str]) -> None:
    """Whatever was read and acked, what is left begins with the first that was not."""
    for done in range(len(ids) + 1):
        for pending in range(len(ids) - done + 1):
            await link.call("DEL", *keys.all())
            for entry in ids:
                await link.call("XADD", keys.stream, entry, "type", "t")
            await register(link, keys)
            given = await read(link, keys, done + pending) if done + pending else []
            if done:
                await link.call("XACK", keys.stream, GROUP, *given[:done])
            await trim(link, keys, (), NOW)
            # After the very last id there is no other that could be the floor.
            kept = ids[done:] or ([ids[-1]] if ids[-1] == f"{LAST}-{LAST}" else [])
            assert await entries(link, keys) == kept


async def test_without_stream_or_group_nothing_is_trimmed(link: Link, keys: Keys) -> None:
    """Where there is no stream, or nobody is registered, a trim does nothing and says so."""
    assert await trim(link, keys, (), NOW) == trimming.Trimmed(0, more=False, pin=None)
    assert await trim(link, keys, ["a"], NOW) == trimming.Trimmed(0, more=False, pin=None)
    await link.call("DEL", keys.groups)
    await link.call("XADD", keys.stream, "1-0", "type", "t")
    assert await trim(link, keys, (), NOW) == trimming.Trimmed(0, more=False, pin=None)
    assert await entries(link, keys) == ["1-0"]


async def test_names_of_the_store_count(link: Link, keys: Keys) -> None:
    """A log that forgot a group keeps everything until it is made again, or deleted."""
    await link.call("XADD", keys.stream, "1-0", "type", "t")
    await register(link, keys, "known")
    await work(link, keys, "known")
    trimmed = await trim(link, keys, ["known", "forgotten"], NOW)
    assert trimmed.pin is not None
    assert (trimmed.pin.group, trimmed.pin.exists) == ("forgotten", False)
    assert "does not exist" in str(trimmed.pin)
    assert await entries(link, keys) == ["1-0"]
    # It may just be deleted by an operator: what was named once is not named for ever.
    assert (await trim(link, keys, ["known"], NOW)).removed == 1


async def test_pin_is_named(settings: Settings, link: Link, keys: Keys) -> None:
    """The group that is behind is named, with how old and how much what it has to do is."""
    await append_events(settings, 30, each=10)
    for group in ("quick", "slow"):
        await register(link, keys, group)
    [first, *_] = await read(link, keys, 2, "slow")
    await work(link, keys, "quick")
    pin = (await trim(link, keys, (), NOW)).pin
    assert pin is not None
    assert (pin.group, pin.exists, pin.events) == ("slow", True, 30)
    assert pin.size_bytes == pin.alone_bytes == (await log_facts(link, keys)).bytes_accepted
    seconds, microseconds = await link.call("TIME")
    age_s = int(seconds) + int(microseconds) / 1e6 - int(first.partition("-")[0]) / 1000
    assert age_s - 1 < pin.age_s <= age_s
    await link.call("XACK", keys.stream, "slow", first)
    pin = (await trim(link, keys, (), NOW)).pin
    assert pin is not None
    assert (pin.group, pin.events) == ("slow", 20)
    await work(link, keys, "slow")
    await link.call("XACK", keys.stream, "slow", *await entries(link, keys))
    pin = (await trim(link, keys, (), NOW)).pin
    assert pin is not None
    assert (pin.age_s, pin.events, pin.size_bytes) == (0, 0, 0)
    assert await entries(link, keys) == []


async def test_done_entries_stay_for_a_time(link: Link, keys: Keys) -> None:
    """What is done goes when it is older than the retention; what is not done stays however old."""
    seconds, _ = await link.call("TIME")
    now_ms = int(seconds) * 1000
    ids = [f"{now_ms - age_s * 1000}-0" for age_s in (900, 700, 500, 300)]
    for entry in ids:
        await link.call("XADD", keys.stream, entry, "type", "t")
    await register(link, keys)
    given = await read(link, keys, 4)
    await link.call("XACK", keys.stream, GROUP, *given[1:])
    assert (await trim(link, keys, (), Retention(600, 2**40))).removed == 0
    await link.call("XACK", keys.stream, GROUP, given[0])
    assert (await trim(link, keys, (), Retention(600, 2**40))).removed == 2
    assert await entries(link, keys) == ids[2:]


async def bytes_in_stream(link: Link, keys: Keys) -> int:
    """Return how many bytes of documents the stream has."""
    total = 0
    for _, flat in await link.call("XRANGE", keys.stream, "-", "+"):
        total += len(dict(zip(flat[::2], flat[1::2], strict=True))[b"docs"])
    return total


async def append_large(settings: Settings, count: int, size_bytes: int = 100_000) -> int:
    """Append frames of about this size; return how many bytes of documents each has."""
    frames = [open_frame(event(1000 + number, data="x" * size_bytes)) for number in range(count)]
    async with connected(settings) as producer:
        for frame in frames:
            await producer.append(frame, 1)
    return frames[0].size_bytes


async def test_done_entries_hold_so_many_bytes(settings: Settings, link: Link, keys: Keys) -> None:
    """Of what is done the newest stays, up to the retention by bytes, to within one frame."""
    size = await append_large(settings, 40)
    await register(link, keys)
    given = await read(link, keys, 30)
    await link.call("XACK", keys.stream, GROUP, *given)
    done = await trim(link, keys, (), Retention(3600, 10 * size))
    assert done.removed == 20
    assert await bytes_in_stream(link, keys) == 20 * size
    done = await trim(link, keys, (), Retention(3600, 10 * size - 1))
    assert done.removed == 1
    assert await link.call("XLEN", keys.index) == await link.call("XLEN", keys.stream) == 19


async def test_much_is_trimmed_in_bounded_runs(
    link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of the script removes a bounded number of entries, one call makes so many runs."""
    monkeypatch.setattr(trimming, "TRIM_ENTRIES_MAX", 1000)
    monkeypatch.setattr(trimming, "TRIM_ROUNDS_MAX", 3)
    add = ("XADD", keys.stream, "*", "type", "t")
    await link.calls([add] * 5_050)
    await register(link, keys)
    await work(link, keys)
    first = await trim(link, keys, (), NOW)
    assert (first.removed, first.more) == (3000, True)
    rest = await trim(link, keys, (), NOW)
    assert (rest.removed, rest.more) == (2050, False)


@pytest.fixture(scope="module")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A log with 64 MB."""
    server = own_log(tmp_path_factory.mktemp("small"), "--maxmemory", "64mb")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def small(settings: Settings, small_log: Server) -> AsyncIterator[tuple[Settings, Link]]:
    """Settings for that log, and a connection to it; it is empty afterwards."""
    link = await Link.open(small_log.url)
    yield msgspec.structs.replace(settings, redis_url=small_log.url), link
    await link.call("CONFIG", "SET", "maxmemory", "64mb")
    await link.call("FLUSHALL")
    await link.close()


@pytest.mark.slow
async def test_retention_gives_way_as_memory_fills(small: tuple[Settings, Link]) -> None:
    """Done entries and all else take half of the mark; the more waits, the less is done."""
    settings, link = small
    keys = Keys(settings.stream)
    await register(link, keys)

    async def used() -> float:
        seen = await memory(link)
        assert seen is not None
        assert seen.mark_bytes is not None
        return seen.used_bytes / seen.mark_bytes

    kept = []
    for _ in range(4):
        await append_large(settings, 200)
        await work(link, keys)
        await trim(link, keys, (), LONG)
        assert 0.3 < await used() < 0.6
        kept.append(await link.call("XLEN", keys.stream))
    assert max(kept) - min(kept) < 10
    await append_large(settings, 220)
    await trim(link, keys, (), LONG)
    assert len(await entries(link, keys)) == 220


async def test_full_log_is_trimmed(small: tuple[Settings, Link]) -> None:
    """A log that takes nothing any more, not even a name, can be read, acked and trimmed."""
    settings, link = small
    keys = Keys(settings.stream)
    await register(link, keys)
    await append_large(settings, 50)
    await link.call("CONFIG", "SET", "maxmemory", "2mb")
    await work(link, keys)
    trimmed = await trim(link, keys, [GROUP, "other"], NOW)
    assert trimmed.pin is not None
    assert trimmed.pin.group == "other"
    assert await link.call("SMEMBERS", keys.groups) == [GROUP.encode()]
    assert (await trim(link, keys, [GROUP], NOW)).removed == 50


async def test_log_stays_small_under_load(settings: Settings, link: Link, keys: Keys) -> None:
    """Whatever goes through the log, what it holds is bounded by the retention."""
    await register(link, keys)
    retention = Retention(3600, 2 * MIB)
    sizes = []
    facts = await log_facts(link, keys)
    for _ in range(12):
        await append_large(settings, 20)
        await work(link, keys)
        await trim(link, keys, (), retention)
        facts = await log_facts(link, keys)
        sizes.append(facts.size_bytes + (await link.call("MEMORY", "USAGE", keys.index)))
    assert facts.bytes_accepted > 20 * MIB
    assert max(sizes) < 1.5 * retention.size_bytes
    assert await link.call("XLEN", keys.index) == facts.length


async def test_trimmers_readers_and_groups_at_once(
    settings: Settings, link: Link, keys: Keys
) -> None:
    """While two trim all the time, nothing that a quick, slow or new group needs is gone."""
    await register(link, keys, "quick")
    await register(link, keys, "slow")
    stop = asyncio.Event()
    given: dict[str, list[str]] = {"quick": [], "slow": [], "late": []}

    async def trims() -> int:
        removed = 0
        mine = await Link.open(settings.redis_url)
        while not stop.is_set():
            removed += (await trim(mine, keys, ["quick"], NOW)).removed
        await mine.close()
        return removed

    async def works(group: str, name: str, frames_max: int) -> None:
        reader = consumer(settings, name, group=group, block_ms=20)
        ended = False
        while not ended:
            ended = stop.is_set()
            while found := await reader.read(frames_max):
                assert all(one.error is None for one in found)
                given[group] += [one.entry_id for one in found]
                await reader.ack(found)
        await reader.close()

    workers: list[Any] = [works("quick", f"q{number}", 20) for number in range(3)]
    tasks = [asyncio.create_task(one) for one in (*workers, works("slow", "s", 1))]
    trimmers = [asyncio.create_task(trims()) for _ in range(2)]
    await append_events(settings, 150)
    await register(link, keys, "late")
    tasks.append(asyncio.create_task(works("late", "l", 7)))
    await append_events(settings, 150, first=150)
    stop.set()
    await asyncio.gather(*tasks)
    assert sum(await asyncio.gather(*trimmers)) > 0
    assert len(set(given["quick"])) == 300
    assert given["slow"] == sorted(given["slow"], key=_as_numbers)
    assert set(given["slow"]) == set(given["quick"])
    assert len(given["late"]) >= 150
    assert given["late"][-150:] == given["slow"][-150:]
    for group, name in itertools.product(given, ("q0", "s", "l")):
        head = ("XAUTOCLAIM", keys.stream, group, name)
        assert (await link.call(*head, 0, "0"))[2] == []


def _as_numbers(entry: str) -> tuple[int, int]:
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq)
