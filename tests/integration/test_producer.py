"""Appending: durable before it is acknowledged, numbered without a gap, never sent twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from evp.codec import Media, decode
from evp.errors import AckUnknown, LogNotDurable, LogUnavailable, Refusal
from evp.limits import FRAMES_WAITING_MAX
from evp.plain import read_entry
from evp.settings import Settings
from evp.stream import ledger
from evp.stream import producer as producing
from evp.stream.client import Link, LogRefused
from evp.stream.durability import examine
from evp.stream.flusher import Flusher
from evp.stream.headers import clock_ms
from evp.stream.keys import Keys
from evp.stream.ledger import Record, record_epochs, record_of, recorded_epochs, retire_epochs
from evp.stream.producer import Producer
from tests.support.make import ADMISSION, event, open_frame
from tests.support.servers import Server
from tests.support.streams import connected
from tests.support.wait import until

Opener = Callable[..., Awaitable[Producer]]


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[Opener]:
    """Opens connected producers; closes them at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(**changes: Any) -> Producer:
            return await stack.enter_async_context(connected(settings, **changes))

        yield open_one


async def fields_of(link: Link, stream: str) -> list[dict[bytes, bytes]]:
    """Return the fields of all entries."""
    rows = await link.call("XRANGE", stream, "-", "+")
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in rows]


async def test_frames_are_numbered_and_counted(
    opened: Opener, settings: Settings, link: Link, keys: Keys
) -> None:
    """One epoch, seq 1, 2, 3; counters grow with it, and the index has what was before each."""
    producer = await opened()
    frames = [open_frame(event(2 * number), event(2 * number + 1)) for number in range(3)]
    for frame in frames:
        await producer.append(frame, 1)
    size = frames[0].size_bytes
    found = await fields_of(link, keys.stream)
    assert [int(one[b"seq"]) for one in found] == [1, 2, 3]
    index = await fields_of(link, keys.index)
    assert [int(one[b"events"]) for one in index] == [0, 2, 4]
    assert [int(one[b"bytes"]) for one in index] == [0, size, 2 * size]
    assert len({one[b"srv"] for one in found}) == 1
    counters = await link.call("HGETALL", keys.counters)
    counted = dict(zip(counters[::2], counters[1::2], strict=True))
    assert (counted[b"events"], counted[b"frames"], counted[b"requests"]) == (b"6", b"3", b"3")
    closed, [epoch] = producer.epochs()
    assert (closed, epoch.acknowledged_seq, epoch.events) == ([], 3, 6)


async def test_entry_is_read_back(
    opened: Opener, settings: Settings, link: Link, keys: Keys
) -> None:
    """What stands in the log is the frame that was appended."""
    producer = await opened()
    frame = open_frame(event(0), event(1))
    entry = await producer.append(frame, 1)
    [fields] = await fields_of(link, keys.stream)
    read = read_entry(keys.stream, entry, fields, ADMISSION)
    assert (read.frame_id, read.count, read.seq) == (frame.frame_id, 2, 1)


async def test_scripts_are_loaded_again_after_a_flush(
    opened: Opener, settings: Settings, log: Server
) -> None:
    """A server that forgot the scripts refuses once, and no number is lost; then it works again."""
    producer = await opened(url=log.url)
    await producer.append(open_frame(event(0)), 1)
    link = await Link.open(log.url)
    await link.call("SCRIPT", "FLUSH")
    with pytest.raises(LogRefused):
        await producer.append(open_frame(event(1)), 1)
    await producer.append(open_frame(event(2)), 1)
    closed, [epoch] = producer.epochs()
    assert (closed, epoch.acknowledged_seq) == ([], 2)
    assert [int(one[b"seq"]) for one in await fields_of(link, settings.stream)] == [1, 2]
    await link.close()


@pytest.mark.slow
async def test_lost_reply_is_unknown_and_closes_the_epoch(
    opened: Opener, settings: Settings, log: Server
) -> None:
    """A reply that never comes is told as unknown; the number is never used again."""
    producer = await opened(url=log.url)
    await producer.append(open_frame(event(0)), 1)
    with log.paused():
        waiting = asyncio.create_task(producer.append(open_frame(event(1)), 1))
        with pytest.raises(AckUnknown):
            await waiting
    with pytest.raises(LogUnavailable, match="not connected"):
        await producer.append(open_frame(event(2)), 1)
    await producer.connect()
    await producer.append(open_frame(event(3)), 1)
    closed, [epoch] = producer.epochs()
    assert [(one.acknowledged_seq, one.unknown) for one in closed] == [(1, 1)]
    assert epoch.srv != closed[0].srv
    producer.forget(closed)
    assert producer.epochs()[0] == []


async def test_events_of_unknown_outcome_are_counted(
    opened: Opener, log: Server, settings: Settings
) -> None:
    """One record of the process counts them where nothing was acknowledged; it has no frames."""
    producer = await opened(url=log.url)

    async def lose(*numbers: int) -> None:
        await producer.connect()
        with log.paused():
            appending = producer.append(open_frame(*map(event, numbers)), 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(appending, 0.1)

    await lose(0, 1)
    closed, [first] = producer.epochs()
    assert (closed, first.acknowledged_seq, first.events, first.unknown) == ([], 0, 0, 2)
    await lose(2)
    await producer.connect()
    await producer.append(open_frame(event(3)), 1)
    await lose(4)
    [ended], [later] = producer.epochs()
    assert (ended.acknowledged_seq, ended.unknown) == (1, 1)
    producer.forget([ended])
    await lose(5)
    assert producer.epochs()[0] == []
    [last] = producer.epochs()[1]
    assert {first.srv, later.srv, last.srv} == {first.srv}
    assert (last.acknowledged_seq, later.unknown, last.unknown) == (0, 3, 4)
    async with Link.opened(log.url) as link:
        found = await fields_of(link, settings.stream)
    numbers = [(one[b"srv"], int(one[b"seq"])) for one in found]
    assert len(set(numbers)) == len(numbers) >= 1
    assert first.srv not in {srv for srv, _ in numbers}


async def test_unreachable_log(opened: Opener, settings: Settings) -> None:
    """Nobody there: the error names the address, without its password."""
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1") as caught:
        await opened(url="redis://u:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in str(caught.value)


async def config(log: Server, **settings: str) -> None:
    """Set the log as an operator would."""
    link = await Link.open(log.url)
    for name, value in settings.items():
        await link.call("CONFIG", "SET", name.replace("_", "-"), value)
    await link.close()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("fsync", False)),
        ({"appendfsync": "everysec"}, ("fsync", True)),
        ({"appendfsync": "no"}, "appendfsync"),
        ({"appendonly": "no"}, "appendonly"),
        ({"no_appendfsync_on_rewrite": "yes"}, "no-appendfsync-on-rewrite"),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy"),
        ({"maxmemory_policy": "volatile-ttl"}, "maxmemory-policy"),
    ],
)
async def test_settings_of_the_log_decide(
    log: Server, changes: dict[str, str], expected: Any
) -> None:
    """Fsync on every write, or WAITAOF, or nothing is accepted and the setting is named."""
    link = await Link.open(log.url)
    await config(log, **changes)
    try:
        if isinstance(expected, str):
            with pytest.raises(LogNotDurable, match=expected):
                await examine(link, "auto", 0)
        else:
            found = await examine(link, "auto", 0)
            assert (found.label, found.wait) == expected
        assert (await examine(link, "memory", 0)).label == "memory"
        assert (await examine(link, "declared", 0)).label == "declared"
    finally:
        await config(
            log,
            appendonly="yes",
            appendfsync="always",
            no_appendfsync_on_rewrite="no",
            maxmemory_policy="noeviction",
        )
        await link.close()


async def test_replicas_that_do_not_have_it_are_not_durable(log: Server) -> None:
    """WAITAOF that times out gives smaller counts and no error; that is refused."""
    link = await Link.open(log.url)
    with pytest.raises(LogNotDurable, match="0 of 1 replicas"):
        await examine(link, "auto", 1)
    await link.close()


async def test_waitaof_goes_with_each_append(
    opened: Opener, settings: Settings, log: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the log syncs each second only, an append waits for the disk."""

    async def believe(_link: Link, _keys: Keys) -> None:
        """Take its word."""

    monkeypatch.setattr(producing, "require_waiting", believe)
    await config(log, appendfsync="everysec")
    try:
        producer = await opened(url=log.url)
        async with Link.opened(log.url) as link:
            # Looking whether WAITAOF works has sent one already.
            await link.call("CONFIG", "RESETSTAT")
            await producer.append(open_frame(event(0)), 1)
            stats = (await link.call("INFO", "commandstats")).decode()
            assert "cmdstat_waitaof:calls=1," in stats
    finally:
        await config(log, appendfsync="always")


async def test_epochs_are_recorded_in_the_log(
    opened: Opener, settings: Settings, link: Link, keys: Keys
) -> None:
    """How far a server process got stands in the log, and when it was over."""
    producer = await opened()
    await producer.append(open_frame(event(0), event(1)), 1)
    _, [epoch] = producer.epochs()
    recorded = record_of(epoch)
    await record_epochs(link, keys, [recorded])
    assert await link.call("HGET", keys.servers, epoch.srv.hex()) == b"1 2"
    assert await recorded_epochs(link, keys) == [recorded]
    await producer.append(open_frame(event(2)), 1)
    grown = record_of(producer.epochs()[1][0])
    await record_epochs(link, keys, [grown])
    await retire_epochs(link, keys, [recorded])
    assert await recorded_epochs(link, keys) == [grown]
    for _ in range(2):
        before_ms = await clock_ms(link)
        await retire_epochs(link, keys, [grown])
        [retired] = await recorded_epochs(link, keys)
        assert (retired.srv, retired.seq, retired.events) == (grown.srv, 2, 3)
        assert before_ms <= retired.retired_ms <= await clock_ms(link)
        # A process that runs after all says so.
        await record_epochs(link, keys, [grown])
        assert await recorded_epochs(link, keys) == [grown]
    await record_epochs(link, keys, [])
    await retire_epochs(link, keys, [])


async def test_records_of_what_is_over_are_bounded(
    link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log keeps records of epochs that are over by number and by age, and all others."""
    monkeypatch.setattr(ledger, "LEDGER_RETIRED_MAX", 3)
    over = [Record(bytes([number]) * 8, number, number, number % 2) for number in range(1, 6)]
    open_ = Record(b"open" * 2, 7, 7)
    await record_epochs(link, keys, [open_])
    for one in over:
        await retire_epochs(link, keys, [one])
        await asyncio.sleep(0.002)
        # The same once more does not make it younger.
        await retire_epochs(link, keys, [one] if one is over[0] else [])
    found = {one.srv: one for one in await recorded_epochs(link, keys)}
    assert found.pop(open_.srv) == open_
    assert [found[one.srv].unknown for one in over[2:]] == [1, 0, 1]
    assert len(found) == 3
    monkeypatch.setattr(ledger, "LEDGER_RETIRED_S", 0.0)
    await asyncio.sleep(0.002)
    await retire_epochs(link, keys, [])
    assert await recorded_epochs(link, keys) == [open_]


async def test_records_that_prove_frames_are_kept_longest(
    link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many, those that only count events of unknown outcome are forgotten first."""
    monkeypatch.setattr(ledger, "LEDGER_RETIRED_MAX", 3)
    frames = [Record(b"frames%02d" % number, 1 + number, 2, 2) for number in range(3)]
    doubts = [Record(b"doubts%02d" % number, 0, 0, 5) for number in range(4)]
    for some in (doubts[:1], frames[:2], doubts[1:], frames[2:]):
        await retire_epochs(link, keys, some)
        await asyncio.sleep(0.002)
    assert {one.srv for one in await recorded_epochs(link, keys)} == {one.srv for one in frames}
    monkeypatch.setattr(ledger, "LEDGER_RETIRED_MAX", 4)
    await retire_epochs(link, keys, doubts[:1])
    assert {one.srv for one in await recorded_epochs(link, keys)} == {
        one.srv for one in [*frames, doubts[0]]
    }


@pytest.mark.parametrize("seq", [0, 3])
async def test_events_of_unknown_outcome_only_grow(link: Link, keys: Keys, seq: int) -> None:
    """One who read a record before it grew takes nothing from it; one who knows more adds that."""
    few, more, most = (Record(b"\x07" * 8, seq, 3 * seq, unknown) for unknown in (0, 4, 12))
    await record_epochs(link, keys, [more])
    await retire_epochs(link, keys, [few])
    assert await recorded_epochs(link, keys) == [more]
    for one, there in ((more, 4), (few, 4), (most, 12), (more, 12)):
        await retire_epochs(link, keys, [one])
        [found] = await recorded_epochs(link, keys)
        assert (found.seq, found.events, found.unknown) == (seq, 3 * seq, there)
        assert found.retired_ms


async def test_records_of_others_are_left_alone(link: Link, keys: Keys) -> None:
    """A field that is no record of evp's is passed over, and not touched."""
    good = Record(b"\x07" * 8, 3, 9)
    await record_epochs(link, keys, [good])
    strange = ["note", "hello", "00" * 8, "1", "01" * 8, "-1 2", "zz" * 8, "1 1", "02" * 8, "1 9e9"]
    strange += ["03" * 8, "1 " + "9" * 30, "04" * 8, "1 1 1 1 1", "05" * 8, "1 1 x"]
    await link.call("HSET", keys.servers, *strange)
    assert await recorded_epochs(link, keys) == [good]


class Answers:
    """Collects what a flusher tells."""

    def __init__(self) -> None:
        self.told: list[str | LogUnavailable] = []

    def __call__(self, result: str | LogUnavailable) -> None:
        """Be told."""
        self.told.append(result)


def add(flusher: Flusher, number: int, answers: Answers) -> None:
    """Put one request of one event into the open frame."""
    body = b'{"type": "t", "id": "%d"}' % number
    flusher.add(decode(body, Media.EVENT), answers, batch=False)


async def test_requests_share_frames(
    opened: Opener, settings: Settings, link: Link, keys: Keys
) -> None:
    """While one frame is on its way, the next fills; everyone gets an entry id."""
    flusher = Flusher(await opened(), ADMISSION)
    flusher.start()
    answers = Answers()
    for number in range(50):
        add(flusher, number, answers)
    await until(lambda: len(answers.told) == 50, what="all are answered")
    assert all(isinstance(one, str) for one in answers.told)
    assert 1 <= await link.call("XLEN", keys.stream) <= 3
    await flusher.stop()


async def test_waiting_frames_are_bounded(opened: Opener, settings: Settings, log: Server) -> None:
    """A log that hangs fills the queue up to a bound; then requests are refused."""
    flusher = Flusher(await opened(url=log.url), ADMISSION)
    flusher.start()
    answers = Answers()
    large = b'{"type": "t", "data": "' + b"x" * 250_000 + b'"}'

    def fill() -> None:
        for _ in range(FRAMES_WAITING_MAX * 6):
            flusher.add(decode(large, Media.EVENT), answers, batch=False)

    with log.paused():
        with pytest.raises(Refusal) as caught:
            fill()
        assert caught.value.status == 503
        taken = len(answers.told)
    await until(lambda: len(answers.told) > taken, what="the log goes on")
    await flusher.drain()
    await flusher.stop()


async def test_everything_taken_is_answered_when_the_log_is_gone(
    opened: Opener, own_log_server: Server
) -> None:
    """Requests whose frame can't be appended are told so; none is left waiting."""
    flusher = Flusher(await opened(url=own_log_server.url), ADMISSION)
    flusher.start()
    own_log_server.kill()
    answers = Answers()
    for number in range(5):
        add(flusher, number, answers)
    await flusher.drain()
    assert len(answers.told) == 5
    assert all(isinstance(one, LogUnavailable) for one in answers.told)
    await flusher.stop()


async def test_counters_that_are_no_numbers(settings: Settings, link: Link, keys: Keys) -> None:
    """Whatever somebody wrote into the counters, an append that succeeded says so."""
    await link.call("HSET", keys.counters, "events", "many", "bytes", "")
    async with connected(settings) as producer:
        first = await producer.append(open_frame(event(0)), 1)
        second = await producer.append(open_frame(event(1)), 1)
    assert await link.call("XLEN", keys.stream) == 2
    assert first < second
    assert await link.call("HGET", keys.counters, "events") == b"2"
