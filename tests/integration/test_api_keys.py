"""Keys at a running server: what each may do, how soon a change holds, engines that are away."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from litestar import Request
from structlog.testing import capture_logs

from evp import keybook
from evp.api_keys import make_key
from evp.clock import now_ms
from evp.errors import LogUnavailable, Refusal, StoreUnavailable
from evp.http import Reply
from evp.keybook import KeyBook
from evp.scopes import ADMIN, INGEST, READ
from evp.server import keywatch
from evp.server.access import require
from evp.server.keys import Keys
from evp.server.limits import API_KEY_BYTES_MAX
from evp.server.protocol import IngestProtocol
from evp.server.repeated import RepeatedHead
from evp.settings import Settings
from evp.stream.client import LogFull
from evp.stream.keys import Keys as LogKeys
from tests.support.make import event
from tests.support.server import (
    JSON,
    InProcess,
    Wire,
    remove_traces,
    request,
    serving,
    settings_of,
)
from tests.support.servers import Server
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.wait import until

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t"}'
REFUSED_S_MAX = 5.0
NOBODY = "mongodb://127.0.0.1:1"


@pytest.fixture(scope="module")
def quick() -> Any:
    """Servers that look for changes more often than they do in earnest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keywatch, "API_KEYS_LOOK_S", 0.05)
        patch.setattr(keywatch, "API_KEYS_COMPARE_S", 1.0)
        patch.setattr(keybook, "API_KEYS_COMPARE_S_MAX", 1.0)
        yield


@pytest.fixture(scope="module")
async def quick_server(quick: None, server: InProcess) -> InProcess:
    """The server of this module, which looks often."""
    await until(server.is_ready, what="the server accepts")
    return server


@pytest.fixture
def own_settings(own_log_server: Server, store_url: str, tmp_path: Path) -> Settings:
    """Settings of a server on a log that the test may kill."""
    return settings_of(own_log_server.url, store_url, tmp_path)


async def created(settings: Settings, name: str, *scopes: str, **how: Any) -> str:
    """Make a key and return it."""
    async with KeyBook.opened(settings) as book:
        return (await book.create(name, scopes or (INGEST,), **how)).text


async def revoked(settings: Settings, name: str) -> None:
    """Revoke a key."""
    async with KeyBook.opened(settings) as book:
        await book.revoke(name)


def posted(key: str, body: bytes = ONE, *, chunked: bool = False, path: str = "/events") -> bytes:
    """Return a request with a key."""
    return request(body, headers=JSON | {"x-api-key": key}, chunked=chunked, path=path)


async def send(server: InProcess, key: str, *, chunked: bool = False) -> Reply:
    """Send one event with a key."""
    return await server.ask(posted(key, chunked=chunked))


async def taken(server: InProcess, key: str) -> None:
    """Wait until a server takes a key."""

    async def is_taken() -> bool:
        return (await send(server, key)).status == 202

    await until(is_taken, what="the key works", within_s=REFUSED_S_MAX)


async def asked(wire: Wire, what: bytes) -> Reply:
    """Send a request over a connection that stays, and return the answer."""
    await wire.send(what)
    return await wire.reply()


@contextlib.asynccontextmanager
async def key_of(server: InProcess, *scopes: str, **how: Any) -> AsyncIterator[tuple[str, str]]:
    """Give a key that a server takes, and its name; revoked at the end."""
    name = f"k{time.monotonic_ns()}"
    key = await created(server.settings, name, *scopes, **how)

    async def is_known() -> bool:
        return (await send(server, key)).status != 401

    await until(is_known, what="the key is known", within_s=REFUSED_S_MAX)
    try:
        yield key, name
    finally:
        await revoked(server.settings, name)


@both_ways
async def test_a_new_key_works(quick_server: InProcess, *, chunked: bool) -> None:
    """A key that was made sends events, by both ways, and its hash is all that is kept."""
    async with key_of(quick_server) as (key, _):
        assert (await send(quick_server, key, chunked=chunked)).status == 202
        async with quick_server.log() as link:
            copy = await link.call("HGETALL", LogKeys(quick_server.settings.stream).api_keys)
        assert key.rpartition("_")[2].encode() not in b"".join(copy)


@both_ways
async def test_a_key_that_may_only_read(quick_server: InProcess, *, chunked: bool) -> None:
    """A key without the scope is known and not good for this: 403, and nothing is kept."""
    async with key_of(quick_server, READ, ADMIN) as (key, _):
        before = await quick_server.entries()
        reply = await send(quick_server, key, chunked=chunked)
        assert (reply.status, reply.code) == (403, "forbidden")
        assert await quick_server.entries() == before


@both_ways
async def test_revoked_and_expired_are_unknown(quick_server: InProcess, *, chunked: bool) -> None:
    """A key that was revoked or has expired gets the very answer of one that never was."""
    async with key_of(quick_server) as (gone, _):
        pass
    soon_ms = now_ms() + 1_500
    async with key_of(quick_server, expires_at_ms=soon_ms) as (late, _):
        unknown = make_key("x", (INGEST,), 0)[0]

        async def is_over() -> bool:
            return (await send(quick_server, late)).status == 401

        await until(is_over, what="it expires", within_s=1.5 + REFUSED_S_MAX)
        assert now_ms() >= soon_ms
        replies = [await send(quick_server, key, chunked=chunked) for key in (unknown, gone, late)]
    assert [reply.status for reply in replies] == [401] * 3
    told = [(reply.body, {**reply.headers, "x-request-id": ""}) for reply in replies]
    assert told == [told[0]] * 3


@both_ways
@pytest.mark.parametrize(
    "key", ["", "wrong", "ключ".encode().decode("latin-1"), "é" * 10, "k" * 10_240]
)
async def test_odd_keys(quick_server: InProcess, key: str, *, chunked: bool) -> None:
    """Empty, unknown, non-ASCII and huge keys are 401, never an error of the server's."""
    reply = await send(quick_server, key, chunked=chunked)
    assert (reply.status, reply.code) == (401, "unauthenticated")


@both_ways
async def test_no_key(quick_server: InProcess, *, chunked: bool) -> None:
    """Without a key it is 401; one in the query string is none, nor is a bearer token."""
    bare = {"content-type": "application/json"}
    as_token = bare | {"authorization": f"Bearer {JSON['x-api-key']}"}
    path = f"/events?x-api-key={JSON['x-api-key']}&api_key={JSON['x-api-key']}"
    for headers, where in ((bare, "/events"), (bare, path), (as_token, "/events")):
        sent = request(ONE, headers=headers, path=where, chunked=chunked)
        reply = await quick_server.ask(sent)
        assert (reply.status, reply.code) == (401, "unauthenticated")
        assert reply.headers["www-authenticate"]


@both_ways
@pytest.mark.parametrize("second", [JSON["x-api-key"], "wrong", ""])
async def test_two_keys(quick_server: InProcess, second: str, *, chunked: bool) -> None:
    """Two x-api-key headers are 400, also if both are alike and good: a proxy may see another."""
    whole = posted(JSON["x-api-key"], chunked=chunked)
    for line in (b"x-api-key: %b\r\n", b"X-API-Key: %b\r\n"):
        sent = whole.replace(b"host: test\r\n", b"host: test\r\n" + line % second.encode(), 1)
        reply = await quick_server.ask(sent)
        assert (reply.status, reply.code) == (400, "invalid_request")


async def test_no_key_is_told_before_the_body(quick_server: InProcess) -> None:
    """Who asks by `Expect: 100-continue` and has no key is refused and not told to go on."""
    headers = {"content-type": "application/json", "expect": "100-continue"}
    head = request(ONE, headers=headers)[: -len(ONE)]
    async with quick_server.wire() as wire:
        await wire.send(head)
        assert (await wire.reply()).status == 401


@both_ways
async def test_pace(quick_server: InProcess, *, chunked: bool) -> None:
    """Beyond its rate a key gets 429 with the time to come back, which is enough; others go on."""
    async with key_of(quick_server, rate_per_s=1) as (key, _), quick_server.wire() as wire:
        body, path = msgspec.json.encode([event(n) for n in range(3)]), "/events/batch"
        await until_paid(quick_server, key)
        batch = posted(key, body, chunked=chunked, path=path)
        assert (await asked(wire, batch)).status == 202
        reply = await quick_server.ask(batch)
        assert (reply.status, reply.code) == (429, "rate_limited")
        assert 1 <= int(reply.headers["retry-after"]) <= 3
        assert (await send(quick_server, JSON["x-api-key"], chunked=chunked)).status == 202
        await asyncio.sleep(3)
        assert (await send(quick_server, key, chunked=chunked)).status == 202


async def until_paid(server: InProcess, key: str) -> None:
    """Wait until a key's bucket is full again."""
    grant = protocol_keys(server).grant_of(key.encode())
    assert grant.limit is not None
    limit = grant.limit

    def is_full() -> bool:
        limit._fill()
        return limit._tokens >= limit._rate_per_s

    await until(is_full, what="the bucket is full")


def protocol_keys(server: InProcess) -> Keys:
    """Return the keys of a server in this process."""
    [bound] = [
        one
        for one in IngestProtocol.__subclasses__()
        if [lane.keys.stream for lane in getattr(one.acceptor, "lanes", ())]
        == [server.settings.stream]
    ]
    return bound.keys


async def test_pace_of_a_head_that_repeats(
    quick_server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace counts where a head is only compared, and a refusal leaves the connection open."""
    repeated = 0
    body_of = RepeatedHead.body_of

    def counted(self: RepeatedHead, data: bytes) -> bytes | None:
        nonlocal repeated
        repeated += 1
        return body_of(self, data)

    monkeypatch.setattr(RepeatedHead, "body_of", counted)
    async with key_of(quick_server, rate_per_s=20) as (key, _), quick_server.wire() as wire:
        await until_paid(quick_server, key)
        statuses = [(await asked(wire, posted(key))).status for _ in range(60)]
    assert set(statuses) == {202, 429}
    assert 20 <= statuses.count(202) < 60
    assert repeated >= 50


@both_ways
async def test_large_body_beyond_the_pace(quick_server: InProcess, *, chunked: bool) -> None:
    """A large body of a key that is over its rate is refused before it is read."""
    async with key_of(quick_server, rate_per_s=1) as (key, _):
        batch = msgspec.json.encode([event(n) for n in range(100)])
        await until_paid(quick_server, key)
        sent = posted(key, batch, chunked=chunked, path="/events/batch")
        assert (await quick_server.ask(sent)).status == 202
        large = posted(key, b" " * 200_000, chunked=chunked, path="/events/batch")
        head = large[: large.index(b"\r\n\r\n") + 4]
        reply = await quick_server.ask(head)
        assert (reply.status, reply.code) == (429, "rate_limited")
        assert int(reply.headers["retry-after"]) >= 90


async def test_what_a_route_requires() -> None:
    """A route gets the caller's name and scopes, counts it as one event, and refuses by scope."""
    keys = Keys({"set": "secret"})
    text, key = make_key("app", (ADMIN,), 0, rate_per_s=2)
    keys.learn({key.id: key}, now_ms())

    def asking(*values: bytes) -> Any:
        headers = [(b"host", b"h"), *((b"x-api-key", value) for value in values)]
        app = SimpleNamespace(state=SimpleNamespace(parts=SimpleNamespace(keys=keys)))
        scope: Any = {"type": "http", "headers": headers, "litestar_app": app}
        return Request(scope)

    async def code(*values: bytes, scope: str = READ) -> str:
        with pytest.raises(Refusal) as caught:
            await require(asking(*values), scope)
        return caught.value.code

    caller = await require(asking(text.encode()), READ)
    assert caller.name == "app"
    assert caller.scopes == {ADMIN, READ}
    assert await code(text.encode(), scope=INGEST) == "forbidden"
    assert (await require(asking(text.encode()), ADMIN)).name == "app"
    assert await code(text.encode()) == "rate_limited"
    assert await code() == "unauthenticated"
    assert await code(b"k" * (API_KEY_BYTES_MAX + 1)) == "unauthenticated"


async def test_revoked_on_a_connection_that_stays(own_settings: Settings) -> None:
    """Within five seconds a revoked key is refused, also where its head is only compared."""
    async with serving(own_settings) as server, contextlib.AsyncExitStack() as stack:
        await until(server.is_ready, what="the server accepts")
        key = await created(own_settings, "app")
        await taken(server, key)
        wires = [await stack.enter_async_context(server.wire()) for _ in range(4)]
        for wire in wires:
            assert (await asked(wire, posted(key))).status == 202
        await revoked(own_settings, "app")
        ends_at_s = time.monotonic() + REFUSED_S_MAX
        last = [202] * len(wires)
        while time.monotonic() < ends_at_s and 202 in last:
            for number, wire in enumerate(wires):
                if last[number] == 202:
                    last[number] = (await asked(wire, posted(key))).status
        assert last == [401] * len(wires)
        for chunked in (False, True):
            assert (await send(server, key, chunked=chunked)).status == 401
    await remove_traces(own_settings)


@pytest.mark.slow
@MAY_LEAVE_SOCKETS
async def test_store_is_away(
    quick: None, log: Server, own_store_server: Server, tmp_path: Path
) -> None:
    """Without the store keys work, also at a server that starts, and can be revoked for good."""
    settings = settings_of(log.url, own_store_server.url, tmp_path)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        key, other = await created(settings, "app"), await created(settings, "other")
        await taken(server, key)
        own_store_server.kill()
        assert (await send(server, key)).status == 202
        async with serving(settings) as second:
            await until(second.is_ready, what="the server accepts")
            assert (await send(second, key)).status == 202
            with pytest.raises(StoreUnavailable, match="only the log knows"):
                await revoked(settings, "app")
            for one in (server, second):
                await refused(one, key)
                assert (await send(one, other)).status == 202
        await asyncio.to_thread(own_store_server.start)
        # The store hears of it from a server; from then on a log that is lost changes nothing.
        await until_stored(settings, "app")
        async with server.log() as link:
            await link.call("FLUSHALL")
        await refused(server, key)


async def refused(server: InProcess, key: str) -> None:
    """Wait until a server refuses a key."""

    async def is_refused() -> bool:
        return (await send(server, key)).status == 401

    await until(is_refused, what="the key is refused", within_s=REFUSED_S_MAX)


async def until_stored(settings: Settings, name: str) -> None:
    """Wait until the store knows that a key is revoked, and the book says so without the log."""
    alone = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1")

    async def is_stored() -> bool:
        async with KeyBook.opened(alone) as book:
            rows, away = await book.rows()
        assert away
        return all(row.state == "revoked" for row in rows if row.name == name) and bool(rows)

    await until(is_stored, what="the store knows", within_s=40)


async def test_log_that_comes_back_empty(
    quick: None, own_log_server: Server, own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that has lost everything gets the keys again; they work on, a revoked one does not."""
    monkeypatch.setattr(keywatch, "API_KEYS_COMPARE_S", 1_000.0)
    async with serving(own_settings) as server:
        await until(server.is_ready, what="the server accepts")
        key, gone = await created(own_settings, "app"), await created(own_settings, "gone")
        await taken(server, gone)
        await revoked(own_settings, "gone")
        await refused(server, gone)
        async with server.log() as link:
            await link.call("FLUSHALL")
        assert (await send(server, key)).status == 202
        name = LogKeys(own_settings.stream).api_keys

        async def is_there() -> bool:
            async with server.log() as link:
                return bool(await link.call("HEXISTS", name, "version"))

        await until(is_there, what="the copy is made again", within_s=REFUSED_S_MAX)
        assert (await send(server, key)).status == 202
        assert (await send(server, gone)).status == 401
        async with serving(own_settings) as second:
            await until(second.is_ready, what="the server accepts")
            assert (await send(second, key)).status == 202
            assert (await send(second, gone)).status == 401
    await remove_traces(own_settings)


async def test_log_is_away(quick: None, own_log_server: Server, own_settings: Settings) -> None:
    """Without the log servers go by the store: a revoked key is refused, a new one is known."""
    async with serving(own_settings) as server:
        await until(server.is_ready, what="the server accepts")
        key = await created(own_settings, "app")
        await taken(server, key)
        own_log_server.kill()
        assert (await send(server, key)).code in {"log_unavailable", "ack_unknown"}
        with pytest.raises(LogUnavailable, match="run this again once the log is back"):
            await revoked(own_settings, "app")
        await refused(server, key)
        # The log's copy is of before; it must not bring the key back.
        await asyncio.to_thread(own_log_server.start)
        await until(server.is_ready, what="the server accepts")
        assert (await send(server, key)).status == 401
        async with serving(own_settings) as second:
            await until(second.is_ready, what="the server accepts")
            await refused(second, key)
    await remove_traces(own_settings)


async def test_log_is_full(quick: None, own_log_server: Server, own_settings: Settings) -> None:
    """A log that takes no events is told of a revocation all the same, and so are servers."""
    async with serving(own_settings) as server:
        await until(server.is_ready, what="the server accepts")
        key = await created(own_settings, "app")
        await taken(server, key)
        async with server.log() as link:
            await link.call("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(LogFull):
                await link.call("SET", "anything", "more")
            await revoked(own_settings, "app")
            copy = await link.call("HGETALL", LogKeys(own_settings.stream).api_keys)
            assert b"revoked_at_ms" in b"".join(copy)
            await refused(server, key)
            await link.call("CONFIG", "SET", "maxmemory", "0")
    await remove_traces(own_settings)


@pytest.mark.slow
@MAY_LEAVE_SOCKETS
async def test_both_are_away(
    quick: None, own_log_server: Server, own_store_server: Server, tmp_path: Path
) -> None:
    """The last known keys hold; a server that has never known them says so, and not 401."""
    settings = settings_of(own_log_server.url, own_store_server.url, tmp_path)
    async with serving(settings) as server:
        await until(server.is_ready, what="the server accepts")
        key = await created(settings, "app")
        await taken(server, key)
        own_log_server.kill()
        own_store_server.kill()
        await asyncio.sleep(0.2)
        assert (await send(server, key)).code in {"log_unavailable", "ack_unknown"}
        assert (await send(server, make_key("x", (INGEST,), 0)[0])).status == 401
        with capture_logs() as logs:
            async with serving(msgspec.structs.replace(settings, api_keys={})) as blind:
                for chunked in (False, True):
                    reply = await send(blind, key, chunked=chunked)
                    assert (reply.status, reply.code) == (503, "keys_unavailable")
                    assert int(reply.headers["retry-after"]) >= 1
                    assert (await send(blind, "wrong", chunked=chunked)).status == 401
                assert any("keys can't be read" in str(line["event"]) for line in logs)
                await asyncio.to_thread(own_log_server.start)
                await until(blind.is_ready, what="the server accepts")
                await taken(blind, key)
                await asyncio.to_thread(own_store_server.start)
    assert key not in str(logs)


async def test_many_at_once_are_one_too_many(quick_server: InProcess) -> None:
    """Requests that were let in by their heads are looked at again once their bodies are there."""
    async with key_of(quick_server, rate_per_s=1) as (key, _), contextlib.AsyncExitStack() as stack:
        await until_paid(quick_server, key)
        batch = gzip.compress(msgspec.json.encode([event(n) for n in range(1_000)]))
        headers = JSON | {"x-api-key": key, "content-encoding": "gzip"}
        sent = request(batch, headers=headers, path="/events/batch")
        wires = [await stack.enter_async_context(quick_server.wire()) for _ in range(10)]
        for wire in wires:
            await wire.send(sent[:-1])
        for wire in wires:
            await wire.send(sent[-1:])
        statuses = sorted([(await wire.reply()).status for wire in wires])
    assert statuses == [202] + [429] * 9
