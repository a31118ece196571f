"""The life of a server: ready and not, while engines come and go, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from evp.engines.engine import free_port
from evp.frame import OpenFrame
from evp.http import Reply
from evp.identity import canonical, event_id
from evp.server import accept, health, logwatch
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream import client as log_client
from evp.stream import flusher
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.ledger import recorded_epochs
from tests.support.server import InProcess, Wire, remove_traces, request, serving, settings_of
from tests.support.servers import Server
from tests.support.wait import until

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t", "id": "1"}'
ID = canonical(event_id("evp", "1", 0))
NOBODY = "mongodb://127.0.0.1:1"


@pytest.fixture(scope="module")
async def database(
    log: Server, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """Name of a database for all servers of this module, dropped afterwards."""
    settings = settings_of(log.url, store_url, tmp_path_factory.mktemp("server"))
    yield settings.mongo_db
    await remove_traces(settings)


@pytest.fixture
def on_log(log: Server, store_url: str, database: str, tmp_path: Path) -> Settings:
    """Settings of a server on that log."""
    return settings_of(log.url, store_url, tmp_path, EVP_MONGO_DB=database)


@pytest.fixture
def on_own_log(own_log_server: Server, store_url: str, database: str, tmp_path: Path) -> Settings:
    """Settings of a server on a log that the test may kill."""
    return settings_of(own_log_server.url, store_url, tmp_path, EVP_MONGO_DB=database)


@pytest.fixture(scope="module")
async def steady(
    log: Server, store_url: str, database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """A server for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    async with serving(settings_of(log.url, store_url, folder, EVP_MONGO_DB=database)) as server:
        yield server


@pytest.fixture
async def server(on_log: Settings) -> AsyncIterator[InProcess]:
    """A server that accepts, to be stopped."""
    async with serving(on_log) as server:
        await until(server.is_ready, what="the server accepts")
        yield server


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return settings with some changed."""
    return msgspec.structs.replace(settings, **changes)


async def post(server: InProcess, *, chunked: bool = False) -> Reply:
    """Send one event."""
    return await server.ask(request(ONE, chunked=chunked))


async def refusal(server: InProcess, path: str = "/api/ready") -> str:
    """Return the code with which the server says that it is not ready."""
    reply = await server.get(path)
    assert reply.status == 503
    assert reply.headers["content-type"] == "application/problem+json"
    assert int(reply.headers["retry-after"]) >= 1
    return reply.code


async def configure(url: str, **settings: str) -> None:
    """Set a log as an operator would."""
    link = await Link.open(url)
    for name, value in settings.items():
        await link.call("CONFIG", "SET", name, value)
    await link.close()


async def test_log_is_away_at_the_start(own_log_server: Server, on_own_log: Settings) -> None:
    """A server starts without a log, refuses, and accepts by itself once the log is there."""
    own_log_server.kill()
    async with serving(on_own_log) as server:
        assert (await server.get("/api/live")).status == 200
        assert await refusal(server) == "log_unavailable"
        for chunked in (False, True):
            assert (await post(server, chunked=chunked)).code == "log_unavailable"
        await asyncio.to_thread(own_log_server.start)
        await until(server.is_ready, what="the server accepts", within_s=5)
        assert (await post(server)).status == 202


@both_ways
async def test_log_goes_away_and_comes_back(
    own_log_server: Server, on_own_log: Settings, *, chunked: bool
) -> None:
    """A server that loses its log says so, refuses, and needs nobody to accept again."""
    async with serving(on_own_log) as server:
        assert (await post(server, chunked=chunked)).status == 202
        own_log_server.kill()
        first = await post(server, chunked=chunked)
        assert first.status == 503
        assert first.code in {"ack_unknown", "log_unavailable"}
        assert "retry-after" in first.headers

        async def not_ready() -> bool:
            return not await server.is_ready()

        await until(not_ready, what="the server sees it", within_s=5)
        assert await refusal(server) == "log_unavailable"
        assert (await post(server, chunked=chunked)).code == "log_unavailable"
        await asyncio.to_thread(own_log_server.start)
        await until(server.is_ready, what="the server accepts", within_s=5)
        assert (await post(server, chunked=chunked)).status == 202
        assert await server.entries() == 2


async def test_log_that_keeps_nothing_is_refused(log: Server, on_log: Settings) -> None:
    """Nothing is accepted into a log that would lose it, and the answer names the setting."""
    await configure(log.url, appendonly="no")
    try:
        async with serving(on_log) as server:
            reply = await server.get("/api/ready")
            assert reply.code == "log_not_durable"
            assert "appendonly" in msgspec.json.decode(reply.body)["detail"]
            assert (await post(server)).code == "log_not_durable"
            assert await server.entries() == 0
        async with serving(changed(on_log, durability="memory")) as server:
            assert msgspec.json.decode((await post(server)).body)["durability"] == "memory"
    finally:
        await configure(log.url, appendonly="yes")


async def test_settings_of_the_log_are_watched(
    log: Server, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is set wrong while the server runs makes it refuse, set right accept again."""
    monkeypatch.setattr(logwatch, "DURABILITY_CHECK_S", 0.05)
    async with serving(on_log) as server:
        await until(server.is_ready, what="the server accepts")
        await configure(log.url, **{"maxmemory-policy": "allkeys-lru"})
        try:

            async def refused() -> bool:
                return (await post(server)).code == "log_not_durable"

            await until(refused, what="the server sees it")
            assert await refusal(server) == "log_not_durable"
        finally:
            await configure(log.url, **{"maxmemory-policy": "noeviction"})
        await until(server.is_ready, what="the server accepts again")


@both_ways
async def test_lost_reply(
    log: Server, steady: InProcess, monkeypatch: pytest.MonkeyPatch, *, chunked: bool
) -> None:
    """When the log does not answer, the outcome is told as unknown, and sending again is safe."""
    await until(steady.is_ready, what="the server accepts")
    before = await steady.entries()
    monkeypatch.setattr(log_client, "LOG_COMMAND_S_MAX", 0.3)
    with log.paused():
        reply = await post(steady, chunked=chunked)
        assert (reply.status, reply.code) == (503, "ack_unknown")
        assert int(reply.headers["retry-after"]) >= 1
    monkeypatch.undo()
    await until(steady.is_ready, what="the server accepts again")
    again = await post(steady, chunked=chunked)
    assert msgspec.json.decode(again.body)["event_id"] == ID
    frames = await steady.frames(await steady.entries() - before)
    assert {id_ for frame in frames for id_ in frame.ids} == {event_id("evp", "1", 0)}


@both_ways
async def test_more_than_the_log_takes(
    log: Server, steady: InProcess, monkeypatch: pytest.MonkeyPatch, *, chunked: bool
) -> None:
    """While too much waits for the log, requests are refused and told when to come back."""
    monkeypatch.setattr(flusher, "FRAMES_WAITING_MAX", 1)
    monkeypatch.setattr(OpenFrame, "full", True)
    async with steady.wire() as first, steady.wire() as second:
        with log.paused():
            await first.send(request(ONE))
            await asyncio.sleep(0.05)
            await second.send(request(ONE))
            await asyncio.sleep(0.05)
            reply = await post(steady, chunked=chunked)
            assert (reply.status, reply.code) == (503, "backlog_full")
            assert int(reply.headers["retry-after"]) >= 1
        assert (await first.reply()).status == 202
        assert (await second.reply()).status == 202
    assert (await post(steady)).status == 202


async def test_health_is_ok(steady: InProcess) -> None:
    """With both engines there everything is ok, and what a 202 is worth is told."""
    reply = await steady.get("/api/health")
    told = msgspec.json.decode(reply.body)
    assert (reply.status, told["status"]) == (200, "ok")
    assert told["log"] == {"ok": True, "durability": "fsync"}
    assert told["store"] == {"ok": True}


async def test_accepting_does_not_need_the_store(
    on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a store the server is ready and accepts; its health is degraded and says why."""
    monkeypatch.setattr(health, "STORE_PING_S_MAX", 0.2)
    async with serving(changed(on_log, mongo_url=NOBODY, shutdown_timeout_s=0.2)) as server:
        await until(server.is_ready, what="the server accepts")
        for chunked in (False, True):
            assert (await post(server, chunked=chunked)).status == 202
        assert await server.is_ready()
        reply = await server.get("/api/health")
        told = msgspec.json.decode(reply.body)
        assert (reply.status, told["status"], told["log"]["ok"]) == (200, "degraded", True)
        assert told["store"]["ok"] is False
        assert told["store"]["detail"]


async def test_store_that_hangs_holds_up_nothing(on_log: Settings) -> None:
    """A store that takes connections and never answers slows neither accepting nor health."""
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        url = f"mongodb://127.0.0.1:{hangs.getsockname()[1]}"
        async with serving(changed(on_log, mongo_url=url, shutdown_timeout_s=0.2)) as server:
            await until(server.is_ready, what="the server accepts")
            looking = asyncio.create_task(server.get("/api/health"))
            assert (await post(server)).status == 202
            assert not looking.done()
            told = msgspec.json.decode((await looking).body)
            assert told["status"] == "degraded"


async def test_health_is_down_without_the_log(own_log_server: Server, on_own_log: Settings) -> None:
    """A server that can't accept is down: 503, with the reason."""
    own_log_server.kill()
    async with serving(on_own_log) as server:
        reply = await server.get("/api/health")
        told = msgspec.json.decode(reply.body)
        assert (reply.status, told["status"]) == (503, "down")
        assert told["log"]["ok"] is False
        assert str(own_log_server.port) in told["log"]["detail"]


@both_ways
async def test_unexpected_error_is_contained(
    steady: InProcess, monkeypatch: pytest.MonkeyPatch, *, chunked: bool
) -> None:
    """A fault of evp's own is a 500 that tells nothing, for that one request alone."""
    before = await steady.entries()
    async with steady.wire() as wire:
        with monkeypatch.context() as patch, capture_logs() as logged:
            patch.setattr(accept, "decode_one", lambda *_: 1 / 0)
            await wire.send(request(ONE, chunked=chunked))
            reply = await wire.reply()
        assert (reply.status, reply.code) == (500, "internal_error")
        assert b"zero" not in reply.body
        [line] = logged
        assert isinstance(line["exc_info"], ZeroDivisionError)
        await wire.send(request(ONE, chunked=chunked))
        assert (await wire.reply()).status == 202
    assert await steady.entries() == before + 1


async def test_not_ready_comes_before_the_end(on_log: Settings) -> None:
    """Told to stop, a server first says that it isn't ready and still accepts meanwhile."""
    async with serving(changed(on_log, drain_delay_ms=60_000)) as server:
        await until(server.is_ready, what="the server accepts")
        server.stop()

        async def draining() -> bool:
            return not await server.is_ready()

        await until(draining, what="it is not ready any more")
        assert await refusal(server) == "shutting_down"
        for chunked in (False, True):
            assert (await post(server, chunked=chunked)).status == 202
        assert not server.task.done()
        assert await stopped(server) < 2


@both_ways
async def test_clients_are_sent_away_before_the_end(on_log: Settings, *, chunked: bool) -> None:
    """Until it stops, a server ends each connection with an answer, and no request gets lost."""
    async with serving(changed(on_log, drain_delay_ms=60_000)) as server:
        await until(server.is_ready, what="the server accepts")
        async with server.wire() as kept, server.wire() as piped:
            await kept.send(request(ONE, chunked=chunked))
            assert "connection" not in (await kept.reply()).headers
            server.stop()
            await until(lambda: sends_away(server), what="it sends clients away")
            await kept.send(request(ONE, chunked=chunked))
            reply = await kept.reply()
            assert (reply.status, reply.headers["connection"]) == (202, "close")
            assert await kept.rest() == b""
            # Of what was sent at once all is answered, and only the last answer is the last one.
            await piped.send(request(ONE, chunked=chunked) * 2 + request(ONE))
            replies = [await piped.reply() for _ in range(3)]
            assert [one.status for one in replies] == [202] * 3
            assert [one.headers.get("connection") for one in replies] == [None, None, "close"]
            assert await piped.rest() == b""
        assert await stopped(server) < 2


async def sends_away(server: InProcess) -> bool:
    """Return whether the server says of an answer that it is the last one."""
    return (await server.get("/api/live")).headers.get("connection") == "close"


async def stopped(server: InProcess) -> float:
    """Tell a server to stop; return how many seconds that took."""
    began_at_s = time.monotonic()
    server.stop()
    await asyncio.wait({server.task}, timeout=15)
    assert server.task.done()
    server.task.result()
    return time.monotonic() - began_at_s


async def refuses_connections(server: InProcess) -> bool:
    """Return whether nobody listens any more."""
    try:
        async with server.wire():
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # It waited to be accepted when the server stopped listening.
        return False


@both_ways
async def test_requests_under_way_are_answered_at_the_end(
    log: Server, server: InProcess, *, chunked: bool
) -> None:
    """What was taken before the stop is in the log and answered; then the server is gone."""
    async with server.wire() as waiting, server.wire() as slow, server.wire() as idle:
        await idle.send(request(ONE))
        assert (await idle.reply()).status == 202
        with log.paused():
            await waiting.send(request(ONE, chunked=chunked))
            sent = request(ONE, chunked=chunked)
            await slow.send(sent[:-5])
            await asyncio.sleep(0.05)
            server.stop()
            assert await idle.rest() == b""
            await until(lambda: refuses_connections(server), what="nobody listens")
            await slow.send(sent[-5:])
        for wire in (waiting, slow):
            reply = await wire.reply()
            assert msgspec.json.decode(reply.body)["event_id"] == ID
            assert reply.headers["connection"] == "close"
            assert await wire.rest() == b""
    await until(server.task.done, what="the server has stopped", within_s=8)
    assert sum(frame.count for frame in await server.frames(10)) == 3


async def test_end_is_recorded(
    log: Server, db: Database, settings: Settings, tmp_path: Path
) -> None:
    """How far a server got stands in the store when it is gone, and the log knows it is over."""
    settings = changed(settings, redis_url=log.url)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        for _ in range(3):
            await post(server)
        [frame] = await server.frames()
    [row] = await db["servers"].find().to_list()
    assert (row["_id"], row["seq"], row["events"]) == (frame.srv, 3, 3)
    async with server.log() as link:
        [record] = await recorded_epochs(link, Keys(settings.stream))
    assert (record.srv, record.seq, record.events) == (frame.srv, 3, 3)
    assert record.retired_ms


async def under_way(server: InProcess, stack: contextlib.AsyncExitStack) -> list[Wire]:
    """Return connections that wait for the log, by either way and pipelined."""
    wires = [await stack.enter_async_context(server.wire()) for _ in range(3)]
    await wires[0].send(request(ONE))
    await wires[1].send(request(ONE, chunked=True))
    await wires[2].send(request(ONE) + request(ONE, chunked=True))
    await asyncio.sleep(0.05)
    return wires


async def test_second_signal_forces(log: Server, server: InProcess) -> None:
    """Told twice, a server waits for nothing; who still waits is told that nobody knows."""
    async with contextlib.AsyncExitStack() as stack:
        with log.paused():
            wires = await under_way(server, stack)
            server.stop()
            await until(lambda: refuses_connections(server), what="nobody listens")
            assert not server.task.done()
            assert await stopped(server) < 2
        for wire in wires:
            assert (await wire.reply()).code in {"ack_unknown", "log_unavailable"}
            await wire.rest()


async def test_end_has_a_deadline(log: Server, on_log: Settings) -> None:
    """Told once, with a log that hangs and no store, a server is gone when its time is up."""
    async with serving(changed(on_log, mongo_url=NOBODY, shutdown_timeout_s=0.5)) as server:
        await until(server.is_ready, what="the server accepts")
        async with contextlib.AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(server.wire()) for _ in range(2)]
            for wire, chunked in zip(slow, (False, True), strict=True):
                await wire.send(request(ONE, chunked=chunked)[:-1])
            with log.paused():
                wires = await under_way(server, stack)
                assert await stopped(server) < 0.5 + 2
            for wire in wires:
                assert (await wire.reply()).code in {"ack_unknown", "log_unavailable"}
            for wire in slow:
                assert (await wire.reply()).code == "shutting_down"
                assert await wire.rest() == b""


async def test_servers_share_a_stream(log: Server, on_log: Settings) -> None:
    """Two servers on one stream have epochs of their own, each numbered from 1."""
    async with serving(on_log) as one, serving(on_log) as other:
        for server in (one, other, one):
            await until(server.is_ready, what="the server accepts")
            assert (await post(server)).status == 202
        frames = await one.frames(3)
    assert [frame.seq for frame in frames] == [1, 1, 2]
    assert frames[0].srv == frames[2].srv != frames[1].srv


async def test_details_are_for_those_who_may_read(steady: InProcess) -> None:
    """Without a key health tells its status alone: enough for a balancer, nothing for others."""
    whole = msgspec.json.decode((await steady.get("/api/health")).body)
    for headers in ({}, {"x-api-key": "wrong"}):
        reply = await steady.get("/api/health", headers)
        assert (reply.status, msgspec.json.decode(reply.body)) == (200, {"status": "ok"})
    assert {"log", "store", "backlog", "version"} <= set(whole)


async def test_strangers_are_not_told_where_the_log_is(on_log: Settings) -> None:
    """Why a server is not ready is for all, the address of its log for those who may read."""
    port = free_port()
    async with serving(changed(on_log, redis_url=f"redis://127.0.0.1:{port}")) as server:

        async def is_told() -> bool:
            return str(port) in msgspec.json.decode((await server.get("/api/ready")).body)["detail"]

        await until(is_told, what="whoever may read sees which log is away")
        for headers in ({}, {"x-api-key": "wrong"}):
            reply = await server.get("/api/ready", headers)
            assert (reply.status, reply.code) == (503, "log_unavailable")
            assert int(reply.headers["retry-after"]) >= 1
            assert "127.0.0.1" not in reply.body.decode()
            assert str(port) not in reply.body.decode()
