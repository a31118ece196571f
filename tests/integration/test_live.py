"""Who watches is told each second, at the cost of one look, and holds nothing up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from evp.errors import Refusal
from evp.server import live as module
from evp.server import standing, tokens
from evp.server.limits import ACCESS_TOKEN_SKEW_S_MAX
from evp.server.live import HEARTBEAT, Live, Viewer, type_counts
from evp.server.reading import Reading
from evp.server.routes import live as route
from evp.settings import Settings
from evp.stats import Collector, Stats
from evp.stream.client import Link
from tests.support.people import People
from tests.support.server import JSON, KEY, InProcess, Wire, request, serving
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS, hanging
from tests.support.tokens import SECRET
from tests.support.wait import until
from tests.support.workers import changed

pytestmark = MAY_LEAVE_SOCKETS

STREAM = KEY | {"accept": "text/event-stream"}
EVENT = b'{"type": "page_view"}'


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Looks follow each other quickly, and are counted."""
    counted: Counter[str] = Counter()
    look = Collector.look

    async def counting(collector: Collector, store_wait_s: float) -> Stats:
        counted["looks"] += 1
        return await look(collector, store_wait_s)

    monkeypatch.setattr(Collector, "look", counting)
    monkeypatch.setattr(module, "LIVE_LOOK_S", 0.05)
    return counted


@contextlib.asynccontextmanager
async def watched(settings: Settings) -> AsyncIterator[tuple[Live, asyncio.Event]]:
    """Give what can be watched, and what tells that the server stops."""
    reading, draining = Reading(settings), asyncio.Event()
    live = Live(settings, reading, draining)
    try:
        yield live, draining
    finally:
        await live.close()
        await reading.close()


async def snapshot(viewer: Viewer) -> bytes:
    """Return the next snapshot that a viewer is given."""
    while (piece := await viewer.next()) is not None:
        if piece != HEARTBEAT:
            return piece
    raise AssertionError("it is over")


def told(piece: bytes) -> Any:
    """Return what a piece of an event stream says."""
    event, data, *rest = piece.split(b"\n")
    assert event == b"event: snapshot"
    assert rest == [b"", b""]
    return msgspec.json.decode(data.removeprefix(b"data: "))


async def open_stream(server: InProcess, wire: Wire, **headers: str) -> bytes:
    """Begin to watch, and return the head of the answer."""
    await wire.send(request(b"", method="GET", path="/live", headers=STREAM | headers))
    return await wire.head()


async def test_twenty_viewers_cost_one_look(
    settings: Settings, link: Link, looks: Counter[str]
) -> None:
    """All viewers are given the very same bytes, and there is a look for each, not for each one."""
    async with watched(settings) as (live, _):
        with contextlib.ExitStack() as stack:
            viewers = [stack.enter_context(live.viewer()) for _ in range(20)]
            rounds = [await asyncio.gather(*map(snapshot, viewers)) for _ in range(3)]
            # One more comes first: a rate is between two looks.
            assert looks["looks"] == len(rounds) + 1
        for pieces in rounds:
            assert len({id(piece) for piece in pieces}) == 1
        found = told(rounds[0][0])
    assert found["log_error"] is None
    assert found["stats"]["stream"] == settings.stream


async def test_slow_viewer_is_given_the_newest(settings: Settings, looks: Counter[str]) -> None:
    """Who takes nothing for a while misses what was between, and makes nobody wait."""
    async with watched(settings) as (live, _):
        with live.viewer() as slow, live.viewer() as quick:
            await snapshot(slow)
            newest = [await snapshot(quick) for _ in range(5)][-1]
            assert await slow.next() is newest


async def test_nobody_watches_nobody_looks(
    settings: Settings, looks: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looks end after the last viewer, and the next one finds what was kept meanwhile."""
    monkeypatch.setattr(module, "LIVE_KEPT_S", 0.0)
    async with watched(settings) as (live, _):
        with live.viewer() as viewer:
            await snapshot(viewer)
        await asyncio.wait(set(live._tasks))
        before = looks["looks"]
        with live.viewer() as viewer:
            kept = live.history()
            await snapshot(viewer)
        assert looks["looks"] > before
    points = msgspec.json.decode(kept.split(b"\n")[1].removeprefix(b"data: "))
    assert points
    assert all(len(point) == 7 for point in points)


async def test_first_rate_is_over_a_whole_look(
    settings: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the looks that the first rate is made of lies as much time as between all others."""
    monkeypatch.setattr(module, "LIVE_LOOK_S", 0.3)
    at_s, look = [], Collector.look

    async def noting(collector: Collector, store_wait_s: float) -> Stats:
        at_s.append(time.monotonic())
        return await look(collector, store_wait_s)

    monkeypatch.setattr(Collector, "look", noting)
    async with watched(settings) as (live, _):
        with live.viewer() as viewer:
            await snapshot(viewer)
    assert at_s[1] - at_s[0] >= 0.3


async def test_without_a_group_nobody_knows_what_waits(
    settings: Settings, link: Link, looks: Counter[str]
) -> None:
    """Where no worker ever ran all of it waits: that is no zero in the history."""
    async with serving(settings) as server:
        assert (await server.ask(request(EVENT, headers=JSON))).status == 202
    async with watched(settings) as (live, _):
        with live.viewer() as viewer:
            assert told(await snapshot(viewer))["stats"]["log"]["groups"] == []
        points = msgspec.json.decode(live.history().split(b"\n")[1].removeprefix(b"data: "))
    assert points[-1][3:5] == [None, None]


async def test_snapshot_is_bounded(
    settings: Settings, link: Link, looks: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any number of consumers and groups a snapshot has a number, and the own group."""
    monkeypatch.setattr(module, "LIVE_GROUPS_MAX", 2)
    for group in ("a", "b", "c", settings.consumer_group):
        await link.call("XGROUP", "CREATE", settings.stream, group, "0", "MKSTREAM")
    for number in range(50):
        at = (settings.stream, settings.consumer_group, f"ghost{number}")
        await link.call("XGROUP", "CREATECONSUMER", *at)
    async with watched(settings) as (live, _):
        with live.viewer() as viewer:
            piece = await snapshot(viewer)
    found = told(piece)
    assert found["groups_more"] == 2
    assert found["consumers"] == {settings.consumer_group: 50, "a": 0}
    assert [one["name"] for one in found["stats"]["log"]["groups"]] == list(found["consumers"])
    assert b"ghost" not in piece


async def test_log_away(settings: Settings, looks: Counter[str]) -> None:
    """Without a log the snapshots say so, and go on."""
    away = changed(settings, redis_url="redis://127.0.0.1:1")
    async with watched(away) as (live, _):
        with live.viewer() as viewer:
            for _ in range(2):
                found = told(await snapshot(viewer))
                assert found["stats"] is None
                assert "127.0.0.1:1" in found["log_error"]


async def test_so_many_and_no_more(
    settings: Settings, looks: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One viewer too many is told to come back, and may once another one has left."""
    monkeypatch.setattr(module, "LIVE_VIEWERS_MAX", 1)
    async with watched(settings) as (live, draining):
        with live.viewer(), pytest.raises(Refusal, match="server_busy"), live.viewer():
            pass
        with live.viewer():
            draining.set()
        with pytest.raises(Refusal, match="shutting_down"), live.viewer():
            pass


async def test_unexpected_error_ends_the_streams(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in a look, nobody waits for ever; who comes again starts anew."""

    async def broken(_collector: Collector, _store_wait_s: float) -> Stats:
        raise KeyError("planted")

    async with watched(settings) as (live, _):
        with monkeypatch.context() as patch, capture_logs() as logged:
            patch.setattr(Collector, "look", broken)
            with live.viewer() as viewer:
                assert await viewer.next() is None
            assert [line["event"] for line in logged] == ["unexpected error"]
        with live.viewer() as viewer:
            await snapshot(viewer)


def test_types_beyond_the_most_frequent_are_summed_up() -> None:
    """Each minute adds up, whatever has no name of its own; one called "other" is among them."""
    counts = {
        60_000 * at: Counter({f"t{number}": number + 1 for number in range(9)}) for at in (0, 1)
    }
    counts[0]["other"] = 100
    found = type_counts(counts)
    assert found.starts_ms == [0, 60_000]
    assert list(found.events) == ["t8", "t7", "t6", "t5", "t4", "other"]
    for at, minute in enumerate(counts.values()):
        assert sum(values[at] for values in found.events.values()) == minute.total()


async def test_stream_over_http(server: InProcess) -> None:
    """A stream begins with the history, then come snapshots; a question without it gets one."""
    async with server.wire() as wire:
        head = await open_stream(server, wire)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-type: text/event-stream" in head
        assert b"cache-control: no-store" in head
        async with asyncio.timeout(5):
            first = await wire._reader.readuntil(b"\n\n")
            while b"event: snapshot" not in await wire._reader.readuntil(b"\n\n"):
                pass
        assert b"event: history\ndata: [" in first
    once = await server.get("/live")
    assert once.status == 200
    assert msgspec.json.decode(once.body)["stats"]["log_state"]["durability"] == "fsync"


async def test_who_takes_nothing_is_given_up(
    settings: Settings, looks: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that takes nothing more holds its place for a while, and not for ever."""
    monkeypatch.setattr(route, "LIVE_STALL_S_MAX", 0.05)

    async def hang(_message: Any) -> None:
        await asyncio.Event().wait()

    async with watched(settings) as (live, _):
        request: Any = None
        with live.viewer() as viewer, pytest.raises(TimeoutError):
            await route._send_pieces(request, viewer, live.history(), hang)


@pytest.mark.parametrize("ends", ["after a while", "with the server"])
async def test_connection_that_takes_nothing_is_cut(
    settings: Settings,
    link: Link,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ends: str,
) -> None:
    """A full socket is closed after a while, or at once when the server stops: no file is held."""
    large = b": %b\n\n" % (b"x" * 16_000_000)
    monkeypatch.setattr(Live, "history", lambda _live: large)
    monkeypatch.setattr(route, "LIVE_STALL_S_MAX", 0.2 if ends == "after a while" else 30)
    async with serving(settings) as server, server.wire() as silent:
        with capture_logs() as logged:
            await open_stream(server, silent)
            if ends == "with the server":
                server.stop()
                async with asyncio.timeout(15):
                    await server.task
            told_so = "a viewer is given up that takes nothing"
            await until(lambda: told_so in [line["event"] for line in logged], what="it is said")
        async with asyncio.timeout(5):
            assert len(await silent._reader.read()) < len(large)
    assert [one for one in caplog.records if one.levelno > logging.INFO] == []


async def test_head_of_a_stream_ends(server: InProcess) -> None:
    """HEAD is answered at once, although GET would go on."""
    async with server.wire() as wire:
        await wire.send(request(b"", method="HEAD", path="/live", headers=STREAM))
        assert (await wire.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        await wire.send(request(b"", method="HEAD", path="/api/live", headers={}))
        assert (await wire.head()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"x-api-key": "wrong"}, 401)], ids=["none", "wrong"]
)
async def test_strangers_watch_nothing(
    server: InProcess, headers: dict[str, str], status: int
) -> None:
    """Without a key or a person behind it there is no stream."""
    sent = headers | {"accept": "text/event-stream"}
    assert (await server.get("/live", headers=sent)).status == status


async def test_stream_ends_with_its_token(
    settings: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not watch any more is told nothing more."""
    monkeypatch.setattr(route, "LIVE_AGAIN_S", 0.1)
    # Good for a second yet, by what clocks may differ.
    monkeypatch.setattr(tokens, "ACCESS_TOKEN_S", 1 - ACCESS_TOKEN_SKEW_S_MAX)
    async with serving(changed(settings, jwt_secret=SECRET)) as server:
        crowd = People(server, "")
        await crowd.add("anna")
        token = crowd.tokens.make("anna", 1, ["read"])
        sent = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        async with server.wire() as wire:
            await wire.send(request(b"", method="GET", path="/live", headers=sent))
            assert (await wire.head()).startswith(b"HTTP/1.1 200")
            async with asyncio.timeout(8):
                rest = await wire._reader.readuntil(b"\r\n0\r\n\r\n")
        assert b"event: snapshot" in rest
        await crowd.close()


async def test_stream_goes_on_while_the_store_is_away(
    settings: Settings, link: Link, failing: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that can't be renewed now ends no stream; once the store is back it does."""
    monkeypatch.setattr(route, "LIVE_AGAIN_S", 0.1)
    monkeypatch.setattr(standing, "STANDING_AGAIN_S", 0.2)
    monkeypatch.setattr(standing, "STORE_PING_S_MAX", 0.2)
    monkeypatch.setattr(tokens, "ACCESS_TOKEN_S", 1 - ACCESS_TOKEN_SKEW_S_MAX)
    there = changed(settings, jwt_secret=SECRET, mongo_url=failing.url)
    async with serving(there) as server:
        crowd = People(server, "")
        await crowd.add("anna")
        token = crowd.tokens.make("anna", 1, ["read"])
        sent = {"authorization": f"Bearer {token}", "accept": "text/event-stream"}
        async with server.wire() as wire:
            with hanging(failing):
                await wire.send(request(b"", method="GET", path="/live", headers=sent))
                assert (await wire.head()).startswith(b"HTTP/1.1 200")
                over_at_s = time.monotonic() + 2
                while time.monotonic() < over_at_s:
                    async with asyncio.timeout(3):
                        assert b"\r\n0\r\n" not in await wire._reader.readuntil(b"\n\n")
                assert (await crowd.me(token)).code == "invalid_token"
            async with asyncio.timeout(8):
                await wire._reader.readuntil(b"\r\n0\r\n\r\n")
        await crowd.close()


async def test_open_stream_does_not_hold_up_the_end(settings: Settings, link: Link) -> None:
    """A server that stops ends its streams at once, also in the time in which it is drained."""
    async with serving(changed(settings, drain_delay_ms=2_000)) as server:
        async with server.wire() as wire, server.wire() as other:
            await open_stream(server, wire)
            reply = await server.ask(request(EVENT, headers=JSON))
            assert reply.status == 202
            started_at_s = time.monotonic()
            server.stop()
            async with asyncio.timeout(1.5):
                await wire._reader.readuntil(b"\r\n0\r\n\r\n")
            await other.send(request(b"", method="GET", path="/live", headers=STREAM))
            assert (await other.reply()).code == "shutting_down"
            await server.task
        assert time.monotonic() - started_at_s < 10
