"""More comes in than the log can hold: it is refused in time, nothing is lost, and it passes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evp.codec import Media
from evp.errors import LogUnavailable
from evp.server import backpressure
from evp.server.accept import Acceptor
from evp.server.answer import Answer
from evp.settings import Settings
from evp.stream.backlog import backlog
from evp.stream.client import Link, LogFull
from evp.stream.keys import Keys
from evp.stream.memory import Memory, info_fields, memory
from evp.stream.trim import Retention, trim
from tests.support.make import event, open_frame
from tests.support.server import JSON, request, serving, settings_of
from tests.support.servers import Server, own_log
from tests.support.streams import append_events, connected, consumer
from tests.support.wait import until
from tests.support.workers import changed, heard

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t", "id": "1"}'
MAXMEMORY = 64 * 1024 * 1024
NO_STORE = "mongodb://127.0.0.1:1"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A log with 64 MB."""
    server = own_log(tmp_path_factory.mktemp("small"), "--maxmemory", "64mb")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def small(log: Server, tmp_path: Path) -> AsyncIterator[tuple[Settings, Link]]:
    """Settings for that log, and a connection to it; it is empty afterwards."""
    short = {"EVP_SHUTDOWN_TIMEOUT_S": "0.2", "EVP_READ_BLOCK_MS": "100"}
    settings = settings_of(log.url, NO_STORE, tmp_path, **short)
    link = await Link.open(log.url)
    yield settings, link
    await link.call("CONFIG", "SET", "maxmemory", str(MAXMEMORY))
    await link.call("FLUSHALL")
    await link.close()


@contextlib.asynccontextmanager
async def accepting(settings: Settings, count: int) -> AsyncIterator[list[Acceptor]]:
    """Run acceptors, as so many server processes have them."""
    acceptors = [Acceptor(settings) for _ in range(count)]
    try:
        for one in acceptors:
            await one.start()
        yield acceptors
    finally:
        for one in acceptors:
            await one.drain()
            await one.close()


def batch(size_bytes: int) -> bytes:
    """Return a batch of about this size."""
    each = [{"type": "t", "data": "x" * 10_000} for _ in range(max(1, size_bytes // 10_000))]
    return msgspec.json.encode(each)


async def send(acceptor: Acceptor, body: bytes) -> Answer:
    """Send a batch and return the answer."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    acceptor.accept(body, Media.ARRAY, answered.set_result)
    return await answered


def code_of(answer: Answer) -> str:
    """Return the code of a refusal, "accepted" where it is none."""
    return "accepted" if answer.status == 202 else msgspec.json.decode(answer.body)["code"]


def retry_after_s(answer: Answer) -> int:
    """Return when to come back."""
    return int(dict(answer.headers)[b"retry-after"])


async def used(link: Link) -> Memory:
    """Return how full the log is."""
    seen = await memory(link)
    assert seen is not None
    return seen


async def refused_for_memory(link: Link) -> bool:
    """Return whether the log ever had no memory for a command."""
    return b"errorstat_OOM" in await link.call("INFO", "errorstats")


async def flood(acceptor: Acceptor, body: bytes, told: Counter[str], stop: asyncio.Event) -> None:
    """Send as fast as it goes, whatever is answered."""
    while not stop.is_set():
        answers = await asyncio.gather(*(send(acceptor, body) for _ in range(4)))
        told.update(code_of(one) for one in answers)
        if any(one.status != 202 for one in answers):
            await asyncio.sleep(0.02)


class Worker:
    """A group that reads, acks and trims at a steady rate."""

    def __init__(self, settings: Settings, frames_per_s: float) -> None:
        self._settings = settings
        self._pause_s = 1 / frames_per_s
        self.events = 0

    async def run(self) -> None:
        """Work until cancelled."""
        keys = Keys(self._settings.stream)
        reader = consumer(self._settings, group="workers", block_ms=20)
        await reader.ensure_group()
        link = await Link.open(self._settings.redis_url)
        due_s = trimmed_s = time.monotonic()
        try:
            while True:
                for one in await reader.read(1):
                    assert one.frame is not None
                    self.events += one.frame.count
                    await reader.ack([one])
                if time.monotonic() - trimmed_s > 0.2:
                    await trim(link, keys, ["workers"], Retention(600, 2**28))
                    trimmed_s = time.monotonic()
                due_s = max(due_s + self._pause_s, time.monotonic() - 0.1)
                await asyncio.sleep(max(0, due_s - time.monotonic()))
        finally:
            await reader.close()
            await link.close()


@contextlib.asynccontextmanager
async def working(settings: Settings, frames_per_s: float = 1000) -> AsyncIterator[Worker]:
    """Run such a group."""
    worker = Worker(settings, frames_per_s)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
async def test_many_servers_do_not_fill_the_log(small: tuple[Settings, Link]) -> None:
    """Four servers flood a log that nobody reads: it never overflows, and recovers by itself."""
    settings, link = small
    keys = Keys(settings.stream)
    await link.call("CONFIG", "RESETSTAT")
    told: Counter[str] = Counter()
    stop = asyncio.Event()
    body = batch(400_000)
    most = 0
    async with accepting(settings, 4) as acceptors:
        floods = [asyncio.create_task(flood(one, body, told, stop)) for one in acceptors]
        ends_at_s = time.monotonic() + 4
        while time.monotonic() < ends_at_s:
            most = max(most, (await used(link)).used_bytes)
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*floods)
        assert set(told) == {"accepted", "backlog_full"}
        assert not await refused_for_memory(link)
        mark = (await used(link)).mark_bytes
        assert mark is not None
        assert 0.8 * mark < most < 0.9 * MAXMEMORY
        accepted = told["accepted"] * len(msgspec.json.decode(body))
        assert int(await link.call("HGET", keys.counters, "events")) == accepted
        refused = await send(acceptors[0], body)
        assert retry_after_s(refused) == 300
        assert "no consumer group" in msgspec.json.decode(refused.body)["detail"]
        async with working(settings) as worker:

            async def is_open() -> bool:
                return all([(await send(one, ONE_IN_BATCH)).status == 202 for one in acceptors])

            await until(is_open, what="it accepts again")
            await until(lambda: worker.events >= accepted, what="nothing is lost")


ONE_IN_BATCH = b'[{"type": "t"}]'


async def test_servers_share_what_is_free(
    small: tuple[Settings, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until they look again, all servers together append half of what is free, each its share."""
    monkeypatch.setattr(backpressure, "BACKLOG_LOOK_S", 3600)
    settings, link = small
    body = batch(100_000)
    async with accepting(settings, 4) as acceptors:
        for one in acceptors:
            await one.lanes[0].backpressure.look()
        before = await used(link)
        assert before.mark_bytes is not None
        free_bytes = before.mark_bytes - before.used_bytes
        taken = []
        for one in acceptors:
            answers = [await send(one, body) for _ in range(200)]
            taken.append(sum(answer.status == 202 for answer in answers) * len(body))
            assert code_of(answers[-1]) == "backlog_full"
        assert free_bytes * 0.4 < sum(taken) <= free_bytes * 0.5
        assert max(taken) - min(taken) <= len(body)
        assert (await used(link)).used_bytes < before.mark_bytes


@pytest.mark.slow
async def test_retry_after_is_honest(small: tuple[Settings, Link]) -> None:
    """At a steady drain, accepting begins again within a factor of two of what was told."""
    settings, _ = small
    body = batch(400_000)
    async with accepting(settings, 1) as [acceptor], working(settings, frames_per_s=3):
        told = "accepted"
        while told == "accepted":
            told = code_of(await send(acceptor, body))
            if told != "accepted" and acceptor.backlog.ok:
                # What may be added until the next look is used up.
                await asyncio.sleep(0.05)
                told = "accepted"
        # The rate is measured over some seconds.
        await asyncio.sleep(2)
        refused = await send(acceptor, ONE_IN_BATCH)
        assert code_of(refused) == "backlog_full"
        began_s = time.monotonic()

        async def is_open() -> bool:
            return (await send(acceptor, ONE_IN_BATCH)).status == 202

        await until(is_open, what="it accepts again", within_s=40)
        took_s = time.monotonic() - began_s
        assert took_s / 2 <= retry_after_s(refused) <= 2 * took_s + 1


async def test_other_keys_do_not_keep_it_closed(small: tuple[Settings, Link]) -> None:
    """Other keys fill the log above 80 % of its mark: it opens again once nothing waits."""
    settings, link = small
    mark = (await used(link)).mark_bytes
    assert mark is not None
    async with accepting(settings, 1) as [acceptor]:
        other_bytes = int(0.84 * mark) - (await used(link)).used_bytes
        await link.call("SETRANGE", "other", other_bytes, b"x")

        async def is_full() -> bool:
            await send(acceptor, batch(100_000))
            return not acceptor.backlog.ok

        await until(is_full, what="it is full")
        assert "for other things than what waits" in str(acceptor.backlog.detail)
        async with working(settings):
            await until(lambda: acceptor.backlog.ok, what="it accepts again")
            await until(lambda: acceptor.backlog.events == 0, what="nothing waits")
        assert (await used(link)).used_bytes > 0.8 * mark
        looks = [acceptor.backlog.ok for _ in range(4) if await until_looked(acceptor)]
        assert looks == [True] * 4
        assert (await send(acceptor, ONE_IN_BATCH)).status == 202


async def until_looked(acceptor: Acceptor) -> bool:
    """Look how full the log is, as is done four times a second."""
    await acceptor.lanes[0].backpressure.look()
    return True


async def test_room_is_measured_as_the_log_will_hold_it(
    small: tuple[Settings, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that fits as JSON and not as BSON, six times as long, is refused as a whole."""
    monkeypatch.setattr(backpressure, "BACKLOG_LOOK_S", 3600)
    settings, link = small
    numbers = [{"type": "t", "data": [1] * 120_000} for _ in range(16)]
    body = msgspec.json.encode(numbers)
    await link.call("CONFIG", "RESETSTAT")
    async with accepting(settings, 4) as acceptors:
        for one in acceptors:
            await one.lanes[0].backpressure.look()
        answers = await asyncio.gather(*(send(one, body) for one in acceptors))
        assert [code_of(one) for one in answers] == ["backlog_full"] * 4
        assert not await refused_for_memory(link)
        assert await link.call("EXISTS", settings.stream) == 0
        # Nothing of it is in the frame that was open, either.
        assert (await send(acceptors[0], ONE_IN_BATCH)).status == 202
    assert await link.call("HGET", Keys(settings.stream).counters, "events") == b"1"


async def test_request_that_comes_too_soon_is_told_so(
    small: tuple[Settings, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a share is used up, and nothing has to drain, the next look is when to come back."""
    monkeypatch.setattr(backpressure, "BACKLOG_LOOK_S", 3600)
    settings, link = small
    mark = (await used(link)).mark_bytes
    assert mark is not None
    await link.call("SETRANGE", "other", int(0.84 * mark) - (await used(link)).used_bytes, b"x")
    body = batch(400_000)
    async with accepting(settings, 1) as [acceptor]:
        await acceptor.lanes[0].backpressure.look()
        answers = [await send(acceptor, body) for _ in range(20)]
        refused = [one for one in answers if one.status != 202]
        assert refused
        assert {code_of(one) for one in refused} == {"backlog_full"}
        assert max(retry_after_s(one) for one in refused) <= 2


async def test_request_that_never_fits_is_told_so(small: tuple[Settings, Link]) -> None:
    """Whose request is larger than what the log can ever take reads what to do about it."""
    settings, link = small
    mark = (await used(link)).mark_bytes
    assert mark is not None
    await link.call("SETRANGE", "other", int(0.84 * mark) - (await used(link)).used_bytes, b"x")
    async with accepting(settings, 1) as [acceptor]:
        await acceptor.lanes[0].backpressure.look()
        answer = await send(acceptor, batch(mark // 2))
        assert code_of(answer) == "backlog_full"
        assert "send fewer events in one request" in str(answer)


async def test_full_log_takes_nothing_and_loses_nothing(small: tuple[Settings, Link]) -> None:
    """An append that finds no memory is refused for certain; its number is used by the next one."""
    settings, link = small
    await link.call("CONFIG", "SET", "maxmemory", "1mb")
    async with connected(settings) as producer:
        with pytest.raises(LogFull):
            await producer.append(open_frame(event(1)), 1)
        await link.call("CONFIG", "SET", "maxmemory", str(MAXMEMORY))
        await producer.append(open_frame(event(2)), 1)
        closed, [epoch] = producer.epochs()
    assert (closed, epoch.acknowledged_seq) == ([], 1)
    assert await link.call("XLEN", settings.stream) == 1
    assert await link.call("HGET", Keys(settings.stream).counters, "events") == b"1"


async def test_log_that_overflows_is_a_backlog(small: tuple[Settings, Link]) -> None:
    """Requests whose frame finds no memory are told `backlog_full`, until there is some."""
    settings, link = small
    async with accepting(settings, 1) as [acceptor]:
        assert (await send(acceptor, ONE_IN_BATCH)).status == 202
        await link.call("CONFIG", "SET", "maxmemory", "1mb")
        refused = await send(acceptor, ONE_IN_BATCH)
        assert code_of(refused) == "backlog_full"
        assert acceptor.refusal is None
        await link.call("CONFIG", "SET", "maxmemory", str(MAXMEMORY))

        async def is_open() -> bool:
            return (await send(acceptor, ONE_IN_BATCH)).status == 202

        await until(is_open, what="it accepts again")
        assert [len(one) for one in acceptor.lanes[0].epochs()] == [0, 1]


OTHER_FORMATS = (
    request(ONE_IN_BATCH, path="/events/batch?on_error=skip"),
    request(ONE_IN_BATCH, path="/events/batch?ids=1"),
    request(gzip.compress(ONE), headers=JSON | {"content-encoding": "gzip"}),
    request(ONE, headers=JSON | {"ce-id": "1"}),
)
"""Before any of them is parsed."""


@both_ways
async def test_backlog_max(small: tuple[Settings, Link], *, chunked: bool) -> None:
    """Above BACKLOG_MAX events are refused, whoever holds it up is named; below 80 % taken."""
    settings, _ = small
    settings = msgspec.structs.replace(settings, backlog_max=100)
    await append_events(settings, 100, each=10)
    reader = consumer(settings, group="slow")
    await reader.ensure_group()
    async with serving(settings) as server:
        reply = await server.ask(request(ONE, chunked=chunked))
        told = msgspec.json.decode(reply.body)
        assert (reply.status, told["code"]) == (503, "backlog_full")
        assert "group 'slow' has 100 events" in told["detail"]
        for other in OTHER_FORMATS:
            assert (await server.ask(other)).code == "backlog_full"

        async def nothing_drains() -> bool:
            reply = await server.ask(request(ONE, chunked=chunked))
            return reply.headers["retry-after"] == "300"

        await until(nothing_drains, what="it knows that nothing drains")
        assert await server.is_ready()
        health = msgspec.json.decode((await server.get("/api/health")).body)
        assert health["status"] == "degraded"
        part = health["backlog"]
        assert (part["ok"], part["events"], part["servers"]) == (False, 100, 1)
        assert (part["pinned_by"]["group"], part["pinned_by"]["events"]) == ("slow", 100)
        await reader.ack(await reader.read(1))

        async def has_seen(events: int) -> bool:
            body = (await server.get("/api/health")).body
            return bool(msgspec.json.decode(body)["backlog"]["events"] == events)

        await until(lambda: has_seen(90), what="it sees that there are less")
        assert (await server.ask(request(ONE, chunked=chunked))).code == "backlog_full"
        await reader.ack(await reader.read(1))
        await until(lambda: has_seen(80), what="it sees that there are less")
        assert (await server.ask(request(ONE, chunked=chunked))).status == 202
    await reader.close()


async def test_deletions_do_not_hide_the_backlog(small: tuple[Settings, Link]) -> None:
    """Where entries were deleted the log can't tell the lag; what waits is bounded all the same."""
    settings, link = small
    settings = msgspec.structs.replace(settings, backlog_max=100)
    await append_events(settings, 110, each=10)
    reader = consumer(settings, group="slow")
    await reader.ensure_group()
    await reader.ack(await reader.read(1))
    entries = [entry for entry, _ in await link.call("XRANGE", settings.stream, "-", "+")]
    await link.call("XDEL", settings.stream, entries[4])
    [row] = await link.call("XINFO", "GROUPS", settings.stream)
    assert dict(zip(row[::2], row[1::2], strict=True))[b"lag"] is None
    assert (await backlog(link, Keys(settings.stream), "test")).pin.events == 100
    async with accepting(settings, 1) as [acceptor]:
        assert code_of(await send(acceptor, ONE_IN_BATCH)) == "backlog_full"
    await reader.close()


async def test_servers_know_of_each_other(small: tuple[Settings, Link]) -> None:
    """Each live server is counted; one that stops is not."""
    settings, link = small

    async def count() -> Any:
        return await link.call("ZCARD", Keys(settings.stream).serving)

    async with accepting(settings, 3) as acceptors:
        assert await count() == 3
        await acceptors[0].close()
        assert await count() == 2
        await until(lambda: acceptors[1].backlog.servers == 2, what="the others know")
    assert await count() == 0


def elsewhere(settings: Settings, **changes: Any) -> Settings:
    """Return settings under which the log looks as if it were on another machine."""
    url = settings.redis_url.replace("127.0.0.1", "0.0.0.0")
    return msgspec.structs.replace(settings, redis_url=url, **changes)


async def test_mark_that_is_only_assumed_is_told(small: tuple[Settings, Link]) -> None:
    """Without maxmemory the memory of the log's machine says little of a container: a warning."""
    settings, link = small
    settings = elsewhere(settings)
    await link.call("CONFIG", "SET", "maxmemory", "0")
    with heard() as lines:
        async with serving(settings) as server:
            health = msgspec.json.decode((await server.get("/api/health")).body)
            part = health["backlog"]
            assert part["ok"]
            assert part["mark_bytes"] > MAXMEMORY
            assert "set maxmemory" in part["warning"]
            [line] = [one for one in lines if one.get("mend") == part["warning"]]
            assert line["log_level"] == "warning"
            await link.call("CONFIG", "SET", "maxmemory", str(MAXMEMORY))

            async def is_known() -> bool:
                body = (await server.get("/api/health")).body
                return "warning" not in msgspec.json.decode(body)["backlog"]

            await until(is_known, what="it sees the limit")


@pytest.mark.parametrize("known", ["maxmemory", "BACKLOG_MAX", "here"])
async def test_mark_that_is_known_is_no_warning(small: tuple[Settings, Link], known: str) -> None:
    """Where a limit is set, or the log is on this machine, there is nothing to warn of."""
    settings, link = small
    if known != "here":
        settings = elsewhere(settings, backlog_max=1000 if known == "BACKLOG_MAX" else None)
    if known != "maxmemory":
        await link.call("CONFIG", "SET", "maxmemory", "0")
    async with accepting(settings, 1) as [acceptor]:
        assert acceptor.backlog.mark_bytes is not msgspec.UNSET
        assert acceptor.backlog.warning is msgspec.UNSET


async def test_log_that_hides_its_memory(small: tuple[Settings, Link]) -> None:
    """A user that may not ask for the memory is served all the same, up to BACKLOG_MAX."""
    settings, link = small
    rights = ("~*", "+@all", "-info", "-config")
    await link.call("ACL", "SETUSER", "app", "on", ">secret", *rights)
    url = settings.redis_url.replace("redis://", "redis://app:secret@")
    settings = msgspec.structs.replace(
        settings, redis_url=url, durability="declared", backlog_max=10
    )
    async with accepting(settings, 1) as [acceptor]:
        for _ in range(10):
            assert (await send(acceptor, ONE_IN_BATCH)).status == 202
        assert acceptor.backlog.used_bytes is msgspec.UNSET
        await until(lambda: not acceptor.backlog.ok, what="it is full")
        assert code_of(await send(acceptor, ONE_IN_BATCH)) == "backlog_full"
    await link.call("ACL", "DELUSER", "app")


async def test_body_that_does_not_fit_is_not_read(small: tuple[Settings, Link]) -> None:
    """While the log is full, a large body is refused by its length, before it is sent."""
    settings, _ = small
    settings = msgspec.structs.replace(settings, backlog_max=10)
    await append_events(settings, 10)
    head = request(b"x" * 8_000_000, path="/events/batch").partition(b"\r\n\r\n")[0]
    async with serving(settings) as server, server.wire() as wire:
        await wire.send(head + b"\r\n\r\n")
        reply = await wire.reply()
        assert (reply.code, reply.headers["connection"]) == ("backlog_full", "close")


async def test_unreachable_memory_is_an_outage(own_log_server: Server) -> None:
    """Asking a log that has gone for its memory tells that it has gone."""
    link = await Link.open(own_log_server.url)
    own_log_server.kill()
    with pytest.raises(LogUnavailable):
        await memory(link)
    assert info_fields(b"# Memory\r\nused_memory:1\r\n") == {"used_memory": "1"}


async def test_a_hanging_log_does_not_hold_up_the_end(
    settings: Settings, own_log_server: Server
) -> None:
    """A process that ends tells the others so, if the log listens; it does not wait for that."""
    ending = Acceptor(changed(settings, redis_url=own_log_server.url)).lanes[0].backpressure
    await ending.look()
    with own_log_server.paused():
        async with asyncio.timeout(3):
            await ending.close()
