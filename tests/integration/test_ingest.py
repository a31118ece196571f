"""Taking events over HTTP: what a 202 says, and what connections may do to each other."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evp.http import Reply
from evp.identity import canonical, event_id
from evp.limits import BATCH_BODY_BYTES_MAX, BATCH_EVENTS_MAX, FRAME_EVENTS_CLOSE
from evp.server.body import read_body
from evp.server.limits import HEADER_BYTES_MAX
from evp.server.protocol import IngestProtocol
from evp.server.routes import ingest
from evp.settings import Settings
from tests.support.make import event, ndjson
from tests.support.server import (
    JSON,
    NDJSON,
    InProcess,
    chunks,
    remove_traces,
    request,
    serving,
    settings_of,
)
from tests.support.servers import Server
from tests.support.wait import until

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t"}'
CLOUD = b'"specversion": "1.0", "id": "1", "source": "s", "type": "t"'
STRUCTURED = "application/cloudevents+json"
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
TIME_MS = 1_767_323_045_678


@pytest.fixture
def log_settings(log: Server, store_url: str, tmp_path: Path) -> Settings:
    """Settings of a server on that log."""
    return settings_of(log.url, store_url, tmp_path)


@pytest.fixture
async def held(log_settings: Settings) -> AsyncIterator[InProcess]:
    """A server whose log tests may pause, to hold its answers back."""
    async with serving(log_settings) as server:
        await until(server.is_ready, what="the server accepts")
        yield server
    await remove_traces(log_settings)


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the requests that each of the two ways took."""
    taken: Counter[str] = Counter()
    respond, read = IngestProtocol._respond, read_body

    def counted_respond(self: IngestProtocol, *arguments: Any) -> None:
        taken["plain"] += 1
        respond(self, *arguments)

    async def counted_read(*arguments: Any) -> bytes:
        taken["asgi"] += 1
        return await read(*arguments)

    monkeypatch.setattr(IngestProtocol, "_respond", counted_respond)
    monkeypatch.setattr(ingest, "read_body", counted_read)
    return taken


def body_of(reply: Reply) -> Any:
    """Return what an answer says, after checking that it is a 202."""
    assert reply.status == 202, reply
    assert reply.headers["content-type"] == "application/json"
    return msgspec.json.decode(reply.body)


@pytest.mark.parametrize(
    ("sent", "layer"),
    [
        (request(ONE), "plain"),
        (request(b"[" + ONE + b"]", path="/events/batch"), "plain"),
        (request(ONE, headers=JSON | {"content-type": "Application/JSON; charset=utf-8"}), "plain"),
        (request(ONE, chunked=True), "asgi"),
        (request(b"[" + ONE + b"]", path="/events/batch", chunked=True), "asgi"),
        (request(b"[" + ONE + b"]", path="/events/batch?ids=1"), "asgi"),
        (request(ONE, path="/events?"), "asgi"),
        (request(ONE, path="/%65vents"), "asgi"),
        (request(ONE, path="http://test/events"), "asgi"),
        (request(ONE, version="1.0"), "asgi"),
        (request(ONE, headers=JSON | {"content-encoding": "identity"}), "asgi"),
        (request(ONE, headers=JSON | {"expect": "something"}), "asgi"),
        (request(ONE, headers=JSON | {"origin": "https://app.example.com"}), "asgi"),
        (request(gzip.compress(ONE), headers=JSON | {"content-encoding": "gzip"}), "asgi"),
        (request(ONE, headers=JSON | BINARY), "asgi"),
        (request(ONE, headers=JSON | {"x-request-id": "1"}), "plain"),
        (request(ONE, headers=JSON | {"via": "1.1 a", "Via": "1.1 b"}), "plain"),
        (request(b"{" + CLOUD + b"}", headers=JSON | {"content-type": STRUCTURED}), "plain"),
    ],
)
async def test_two_ways(server: InProcess, layers: Counter[str], sent: bytes, layer: str) -> None:
    """A plain request never sees the ASGI app; everything else goes only there."""
    before = await server.entries()
    body_of(await server.ask(sent))
    assert layers == {layer: 1}
    assert await server.entries() == before + 1


@both_ways
async def test_event_is_told_where_it_is(server: InProcess, *, chunked: bool) -> None:
    """The 202 of an event has its id, its place in the log, and what that is worth."""
    sent = event(7)
    told = body_of(await server.ask(request(msgspec.json.encode(sent), chunked=chunked)))
    [frame] = await server.frames()
    assert told == {
        "event_id": canonical(event_id("test", "e7", TIME_MS)),
        "receipt": f"0.{frame.entry_id}.0",
        "durability": "fsync",
    }
    [document] = await server.documents()
    assert document["_id"].as_uuid().hex == told["event_id"].replace("-", "")
    assert document["frame_id"] == frame.frame_id
    assert document["time"] == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert {name: document[name] for name in sent if name != "time"} == {
        name: value for name, value in sent.items() if name != "time"
    }


@both_ways
async def test_event_without_source_and_time(server: InProcess, *, chunked: bool) -> None:
    """The source is the deployment's own, the id alone decides, and the time is the door's."""
    told = body_of(await server.ask(request(b'{"type": "t", "id": "1"}', chunked=chunked)))
    assert told["event_id"] == canonical(event_id("evp", "1", 0))
    [document] = await server.documents()
    assert document["source"] == "evp"
    assert document["time"] == document["received_at"]


async def test_id_alone_can_decide(log_settings: Settings) -> None:
    """With ID_FROM=source+id the same id is the same event whatever its time."""
    async with serving(msgspec.structs.replace(log_settings, id_from="source+id")) as server:
        told = body_of(await server.ask(request(msgspec.json.encode(event(7)))))
        assert told["event_id"] == canonical(event_id("test", "e7", 0))
    await remove_traces(server.settings)


@both_ways
@pytest.mark.parametrize("lines", [False, True], ids=["array", "lines"])
async def test_batch_is_taken_as_one(server: InProcess, *, lines: bool, chunked: bool) -> None:
    """A batch is one request in one frame, its events in order, however it is written."""
    events = [event(number) for number in range(200)]
    body = ndjson(*events) if lines else msgspec.json.encode(events)
    headers = NDJSON if lines else JSON
    sent = request(body, path="/events/batch", headers=headers, chunked=chunked)
    told = body_of(await server.ask(sent))
    [frame] = await server.frames()
    assert told == {
        "accepted": 200,
        "rejected": [],
        "receipt": f"0.{frame.entry_id}.0",
        "durability": "fsync",
    }
    assert frame.ids == [event_id("test", f"e{number}", TIME_MS) for number in range(200)]


@both_ways
async def test_batch_of_the_greatest_number(server: InProcess, *, chunked: bool) -> None:
    """A batch is never split, not even over what closes a frame."""
    assert BATCH_EVENTS_MAX > FRAME_EVENTS_CLOSE
    body = ndjson(*[{"type": "t", "id": str(number)} for number in range(BATCH_EVENTS_MAX)])
    sent = request(body, path="/events/batch", headers=NDJSON, chunked=chunked)
    assert body_of(await server.ask(sent))["accepted"] == BATCH_EVENTS_MAX
    [frame] = await server.frames()
    assert frame.count == BATCH_EVENTS_MAX


@both_ways
async def test_extension_attributes_travel_with_their_event(
    server: InProcess, *, chunked: bool
) -> None:
    """Further attributes of one event of a batch stand in its document and in no other."""
    body = msgspec.json.encode([event(0), event(1, tenant="a", shard=3, dry=True), event(2)])
    body_of(await server.ask(request(body, path="/events/batch", chunked=chunked)))
    first, second, third = await server.documents()
    assert (second["tenant"], second["shard"], second["dry"]) == ("a", 3, True)
    assert "tenant" not in first
    assert "tenant" not in third


async def test_connection_is_kept(server: InProcess, layers: Counter[str]) -> None:
    """One connection takes many requests, of both ways, refused ones among them."""
    async with server.wire() as wire:
        for number in range(5):
            await wire.send(request(ONE, chunked=number % 2 == 1))
            body_of(await wire.reply())
            await wire.send(request(b"{"))
            assert (await wire.reply()).code == "invalid_json"
            await wire.send(request(b"", method="GET", path="/api/live", headers={}))
            assert (await wire.reply()).status == 200
    assert layers == {"plain": 8, "asgi": 2}


async def test_head_that_repeats_is_parsed_once(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends the same head again is answered as before, and its head not parsed."""
    parsed = 0
    complete = IngestProtocol.on_headers_complete

    def counted(self: IngestProtocol) -> None:
        nonlocal parsed
        parsed += 1
        complete(self)

    monkeypatch.setattr(IngestProtocol, "on_headers_complete", counted)
    before = await server.entries()
    async with server.wire() as wire:
        for number in range(0, 2000, 99):
            id_ = str(number)
            await wire.send(request(b'{"type": "t", "id": "%d"}' % number))
            wanted = canonical(event_id("evp", id_, 0))
            assert body_of(await wire.reply())["event_id"] == wanted
    assert parsed == 1
    assert await server.entries() == before + 21


async def test_nothing_hides_behind_a_head_that_repeats(server: InProcess) -> None:
    """After one that repeats, whatever else comes on the connection is answered as ever."""
    one, other = (request(b'{"type": "t", "id": "%d"}' % number) for number in (1, 2))
    wrong_key = request(ONE, headers=JSON | {"x-api-key": "wrong"})
    for sent, answers in (
        ((one + other,), ["202", "202"]),
        ((one[:-3], one[-3:]), ["202"]),
        ((one[:30], one[30:] + other), ["202", "202"]),
        ((request(b"{"),), ["invalid_json"]),
        ((wrong_key,), ["unauthenticated"]),
        ((one + wrong_key,), ["202", "unauthenticated"]),
        ((request(ONE, chunked=True),), ["202"]),
        ((one.replace(b"content-length: 24", b"content-length: 23"),), ["invalid_json", "400"]),
        ((one.replace(b"HTTP/1.1", b"HTTP/1.0"),), ["202"]),
    ):
        async with server.wire() as wire:
            for _ in range(2):
                await wire.send(one)
                body_of(await wire.reply())
            for part in sent:
                await wire.send(part)
                await asyncio.sleep(0.01)
            for answer in answers:
                reply = await wire.reply()
                assert answer in {str(reply.status), reply.code}


PIPELINE = [
    (request(b'{"type": "t", "id": "1"}'), "202"),
    (request(b"{"), "invalid_json"),
    (request(b'{"type": "t", "id": "2"}', chunked=True), "202"),
    (request(b"", method="GET", path="/api/live", headers={}), "200"),
    (request(b"", method="GET", path="/nowhere", headers={}), "not_found"),
    (request(b'{"type": "t", "id": "3"}'), "202"),
    (request(b"[]", path="/events/batch"), "empty_batch"),
    (request(b"", method="PUT"), "method_not_allowed"),
    (request(b'{"type": "t", "id": "4"}'), "202"),
]


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
async def test_pipelined_requests_are_answered_in_order(server: InProcess, size: int) -> None:
    """Requests sent without waiting, in pieces of any size, get their answers in their order."""
    stream = b"".join(sent for sent, _ in PIPELINE)
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    ids = iter(canonical(event_id("evp", str(number), 0)) for number in range(1, 5))
    async with server.wire() as wire:
        sending = asyncio.create_task(wire.send(*pieces))
        for _, expected in PIPELINE:
            reply = await wire.reply()
            if expected == "202":
                assert body_of(reply)["event_id"] == next(ids)
            else:
                assert reply.code in {expected, f"http_{expected}"}
        await sending


async def test_nothing_is_taken_after_an_answer_that_closes(server: InProcess) -> None:
    """Requests that were pipelined behind one with `connection: close` are not carried out."""
    closing = request(ONE, headers=JSON | {"connection": "close"})
    for last, stored in ((closing, 1), (request(ONE, headers={}), 0)):
        before = await server.entries()
        async with server.wire() as wire:
            await wire.send(last + request(ONE), request(ONE), request(ONE, chunked=True))
            assert (await wire.rest()).count(b"HTTP/1.1 ") == 1
        assert await server.entries() == before + stored


@both_ways
@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_request_cut_in_its_body_stores_nothing(
    server: InProcess, *, chunked: bool, abort: bool
) -> None:
    """A client that leaves before its last byte has sent nothing."""
    before = await server.entries()
    for cut in (1, 5, len(ONE) + 5):
        async with server.wire() as wire:
            await wire.send(request(ONE, chunked=chunked)[:-cut], b"")
            if abort:
                wire.abort()
    body_of(await server.ask(request(ONE, chunked=chunked)))
    assert await server.entries() == before + 1


@both_ways
async def test_client_that_left_hurts_nobody(
    held: InProcess, log: Server, *, chunked: bool
) -> None:
    """Clients that leave before the answer take nobody of their frame with them."""
    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(held.wire()) for _ in range(6)]
        with log.paused():
            for number, wire in enumerate(wires):
                body = b'{"type": "t", "id": "%d"}' % number
                await wire.send(request(body, chunked=chunked))
            await asyncio.sleep(0.05)
            wires[1].abort()
            await wires[3].close()
            await asyncio.sleep(0.05)
        for number in (0, 2, 4, 5):
            told = body_of(await wires[number].reply())
            assert told["event_id"] == canonical(event_id("evp", str(number), 0))
    assert sum(frame.count for frame in await held.frames(10)) == 6


async def test_concurrent_requests_share_frames(held: InProcess, log: Server) -> None:
    """While one frame is on its way, all that come meanwhile get into the next."""
    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(held.wire()) for _ in range(100)]
        with log.paused():
            for number, wire in enumerate(wires):
                await wire.send(request(b'{"type": "t", "id": "%d"}' % number))
            await asyncio.sleep(0.05)
        answers = [body_of(await wire.reply()) for wire in wires]
    frames = await held.frames(10)
    assert len(frames) <= 3
    placed = {
        f"0.{frame.entry_id}.{index}": canonical(id_)
        for frame in frames
        for index, id_ in enumerate(frame.ids)
    }
    assert {told["receipt"]: told["event_id"] for told in answers} == placed


async def test_concurrent_requests_by_both_ways(server: InProcess) -> None:
    """A hundred connections at once, every third refused: each gets its own answer."""

    async def one(number: int) -> None:
        body = b"{" if number % 3 == 0 else b'{"type": "t", "id": "%d"}' % number
        reply = await server.ask(request(body, chunked=number % 2 == 0))
        if number % 3 == 0:
            assert reply.code == "invalid_json"
        else:
            wanted = canonical(event_id("evp", str(number), 0))
            assert body_of(reply)["event_id"] == wanted

    await asyncio.gather(*(one(number) for number in range(100)))


@both_ways
@pytest.mark.parametrize(
    ("version", "connection"), [("1.0", None), ("1.0", "keep-alive"), ("1.1", "close")]
)
async def test_connection_that_is_not_kept(
    server: InProcess, version: str, connection: str | None, *, chunked: bool
) -> None:
    """After a request of HTTP/1.0 or with `connection: close` the server says so and closes."""
    headers = JSON | ({"connection": connection} if connection else {})
    async with server.wire() as wire:
        await wire.send(
            request(ONE, headers=headers, version=version, chunked=chunked and version == "1.1")
        )
        reply = await wire.reply()
        body_of(reply)
        assert reply.headers["connection"] == "close"
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/events/batch"),
        *itertools.product(("PUT", "PATCH", "DELETE"), ("/events", "/events/batch")),
    ],
)
async def test_other_methods(server: InProcess, method: str, path: str) -> None:
    """The answer to another method is 405, and tells which ones there are."""
    reply = await server.ask(request(b"", method=method, path=path))
    assert (reply.status, reply.code) == (405, "method_not_allowed")
    assert reply.headers["content-type"] == "application/problem+json"
    allowed = {"POST", "OPTIONS"} if path == "/events/batch" else {"GET", "HEAD", "POST", "OPTIONS"}
    assert set(reply.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/event"),
        ("POST", "/events/x/y"),
        ("GET", "/%00"),
        ("GET", "/%ff%fe"),
        ("GET", "/../etc/passwd"),
        ("GET", "/docs/other.js"),
        ("OPTIONS", "*"),
        ("GET", "http://test/index.html"),
    ],
)
async def test_unknown_paths(server: InProcess, method: str, target: str) -> None:
    """Whatever else is asked for is not there."""
    reply = await server.ask(request(b"", method=method, path=target))
    assert (reply.status, reply.code) == (404, "not_found")
    assert reply.headers["content-type"] == "application/problem+json"


async def only_answer(server: InProcess, *parts: bytes) -> Reply:
    """Send bytes, return the one answer, and check that the server then closes."""
    async with server.wire() as wire:
        await wire.send(*parts)
        reply = await wire.reply()
        assert await wire.rest() == b""
    assert reply.headers["connection"] == "close"
    assert reply.headers["content-type"] == "application/problem+json"
    return reply


HEAD = b"POST /events HTTP/1.1\r\nhost: test\r\n"
KEY = b"x-api-key: test-key\r\ncontent-type: application/json\r\n"
NOT_HTTP: dict[str, bytes] = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "another protocol": b"*1\r\n$4\r\nPING\r\n",
    "unknown method": b"FETCH /events HTTP/1.1\r\nhost: test\r\n\r\n",
    "no version": b"GET /events\r\nhost: test\r\n\r\n",
    "HTTP/0.9": b"GET /events HTTP/0.9\r\nhost: test\r\n\r\n",
    "HTTP/2.0": b"GET /events HTTP/2.0\r\nhost: test\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "length and chunks": HEAD + KEY + b"content-length: 13\r\ntransfer-encoding: chunked\r\n\r\n"
    + chunks(ONE),
    "chunks and length": HEAD + KEY + b"transfer-encoding: chunked\r\ncontent-length: 13\r\n\r\n"
    + chunks(ONE),
    "two lengths": HEAD + KEY + b"content-length: 13\r\ncontent-length: 14\r\n\r\n" + ONE,
    "the same length twice": HEAD + KEY + b"content-length: 13\r\ncontent-length: 13\r\n\r\n" + ONE,
    "list of lengths": HEAD + KEY + b"content-length: 13, 13\r\n\r\n" + ONE,
    "negative length": HEAD + KEY + b"content-length: -13\r\n\r\n" + ONE,
    "signed length": HEAD + KEY + b"content-length: +13\r\n\r\n" + ONE,
    "length beyond 64 bits": HEAD + KEY + b"content-length: 99999999999999999999\r\n\r\n" + ONE,
    "chunked is not last": HEAD + KEY + b"transfer-encoding: chunked, gzip\r\n\r\n" + chunks(ONE),
    "unknown coding": HEAD + KEY + b"transfer-encoding: cow\r\n\r\n" + chunks(ONE),
    "bad chunk size": HEAD + KEY + b"transfer-encoding: chunked\r\n\r\nxyz\r\n" + ONE,
    "chunk size beyond 64 bits": HEAD + KEY + b"transfer-encoding: chunked\r\n\r\n"
    + b"1" * 17 + b"\r\n",
    "bad end of a chunk": HEAD + KEY + b"transfer-encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
    "bare LF after a chunk": HEAD + KEY + b"transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n",
    "bare LF": b"POST /events HTTP/1.1\nhost: test\n\n",
    "bare CR": b"POST /events HTTP/1.1\rhost: test\r\r",
    "folded header": HEAD + b"x: a\r\n b\r\n\r\n",
    "space before colon": HEAD + b"content-length : 13\r\n\r\n" + ONE,
    "NUL in a header": HEAD + b"x: a\0b\r\n\r\n",
    "not a header": HEAD + b"no colon here\r\n\r\n",
    "target with a space": b"GET /a b HTTP/1.1\r\nhost: test\r\n\r\n",
    "target that is no URL": b"GET \xff HTTP/1.1\r\nhost: test\r\n\r\n",
    "CONNECT": b"CONNECT test:443 HTTP/1.1\r\nhost: test\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_not_http(server: InProcess, sent: bytes) -> None:
    """What proxies could read in two ways is answered 400, once, and closed."""
    before = await server.entries()
    reply = await only_answer(server, sent)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert await server.entries() == before


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD + b"x: " + b"a" * HEADER_BYTES_MAX + b"\r\n\r\n",),
        (HEAD + b"x: a\r\n" * 20_000 + b"\r\n",),
        (b"GET /" + b"a" * HEADER_BYTES_MAX + b" HTTP/1.1\r\n\r\n",),
        # Never finished: the parser keeps such a header to itself.
        (HEAD + b"x: ", *[b"a" * 8_192] * 8),
        (HEAD, *[b"a" * 8_192] * 8),
        (b"\r\n" * 4_096, *[b"\r\n" * 4_096] * 8),
        (HEAD + KEY + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", *[b"a" * 8_192] * 8),
        (HEAD + KEY + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: a\r\n" * 10_000,),
        (HEAD + KEY + b"transfer-encoding: chunked\r\n\r\n1;", *[b"a" * 8_192] * 8),
    ],
    ids=[
        "one header",
        "many headers",
        "target",
        "endless value",
        "endless name",
        "endless blank lines",
        "endless trailer",
        "many trailers",
        "endless chunk extension",
    ],
)
async def test_headers_have_a_limit(server: InProcess, parts: tuple[bytes, ...]) -> None:
    """Whatever comes beside a body is bounded, finished or not."""
    before = await server.entries()
    reply = await only_answer(server, *parts)
    assert (reply.status, reply.code) == (431, "headers_too_large")
    assert await server.entries() == before


async def test_headers_up_to_the_limit_are_taken(server: InProcess) -> None:
    """A head just below the limit is fine, in one piece and in many."""
    sent = request(ONE, headers=JSON | {"x": "a" * (HEADER_BYTES_MAX - 300)})
    pieces = [sent[start : start + 1_000] for start in range(0, len(sent), 1_000)]
    for parts in ([sent], pieces):
        body_of(await server.ask(*parts))


@both_ways
async def test_garbage_is_answered_after_the_request_before_it(
    server: InProcess, *, chunked: bool
) -> None:
    """A request that is followed by garbage gets its own answer first: it was taken."""
    before = await server.entries()
    async with server.wire() as wire:
        await wire.send(request(ONE, chunked=chunked) + b"GARBAGE\r\n\r\n")
        body_of(await wire.reply())
        assert (await wire.reply()).code == "invalid_request"
        assert await wire.rest() == b""
    assert await server.entries() == before + 1


async def test_broken_body_is_answered_after_the_requests_before_it(server: InProcess) -> None:
    """Two good requests and one whose body breaks off in garbage: 202, 202, 400, in order."""
    broken = request(ONE, chunked=True).replace(b"0\r\n\r\n", b"xyz\r\n")
    before = await server.entries()
    async with server.wire() as wire:
        await wire.send(request(ONE) + request(ONE, chunked=True) + broken)
        body_of(await wire.reply())
        body_of(await wire.reply())
        assert (await wire.reply()).code == "invalid_request"
        assert await wire.rest() == b""
    assert await server.entries() == before + 2


async def test_body_that_breaks_after_its_answer_gets_no_second_one(server: InProcess) -> None:
    """A request that was answered before its body broke is not answered again."""
    head = request(b"", method="PUT", chunked=True)[: -len(b"0\r\n\r\n")]
    async with server.wire() as wire:
        await wire.send(head)
        assert (await wire.reply()).status == 405
        await wire.send(b"xyz\r\n")
        assert await wire.rest() == b""


@both_ways
async def test_trailers_are_no_headers(server: InProcess, *, chunked: bool) -> None:
    """A key behind the body is none, be the request alone or pipelined behind another one."""
    headers = {"content-type": "application/json"}
    late = request(ONE, headers=headers, chunked=True)[:-2] + b"x-api-key: test-key\r\n\r\n"
    async with server.wire() as wire:
        await wire.send(request(ONE, chunked=chunked) + late)
        body_of(await wire.reply())
        assert (await wire.reply()).code == "unauthenticated"
    assert (await server.ask(late)).code == "unauthenticated"


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
async def test_offer_of_another_protocol_is_declined(
    server: InProcess, layers: Counter[str], *, split: bool
) -> None:
    """A request that offers HTTP/2, as Java's client does, is taken as one of HTTP/1.1."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAA"}
    sent = request(b'{"type": "t", "id": "1"}', headers=JSON | offer)
    cut = sent.index(b"{") if split else len(sent)
    wanted = canonical(event_id("evp", "1", 0))
    async with server.wire() as wire:
        await wire.send(sent[:cut], sent[cut:] + sent + request(b"", method="PUT", headers=offer))
        for _ in range(2):
            assert body_of(await wire.reply())["event_id"] == wanted
        assert (await wire.reply()).status == 405
        await wire.send(request(ONE))
        body_of(await wire.reply())
    assert layers.total() == 3


@pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])
async def test_what_follows_a_declined_offer_is_judged_as_ever(
    server: InProcess, *, chunked: bool
) -> None:
    """A bad request behind one that offers another protocol is a bad request, and no more."""
    offer = {"connection": "Upgrade", "upgrade": "h2c"}
    good = request(ONE, headers=JSON | offer, chunked=chunked)
    for bad in (b"GET \xff HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n", b"xyz\r\n"):
        async with server.wire() as wire:
            await wire.send(good + bad)
            body_of(await wire.reply())
            assert (await wire.reply()).code == "invalid_request"
            assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 401),
        (JSON | {"x-api-key": "wrong"}, 401),
        (JSON | {"content-type": "text/plain"}, 415),
        (JSON | {"content-encoding": "br"}, 415),
    ],
)
async def test_refused_request_is_not_told_to_continue(
    server: InProcess, headers: dict[str, str], status: int
) -> None:
    """Whoever asks first whether to send the body is told no, and only that."""
    sent = request(ONE, headers=headers | {"expect": "100-continue"})
    reply = await only_answer(server, sent[: -len(ONE)])
    assert reply.status == status


async def test_client_that_asks_first_is_told_to_continue(server: InProcess) -> None:
    """With a right key the body is asked for, taken, and the connection kept."""
    sent = request(ONE, headers=JSON | {"expect": "100-continue"})
    async with server.wire() as wire:
        for _ in range(2):
            await wire.send(sent[: -len(ONE)])
            assert (await wire.reply()).status == 100
            await wire.send(ONE)
            body_of(await wire.reply())


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/events", JSON, 413),
        ("/events/batch", JSON, 413),
        ("/events", JSON | {"x-api-key": "wrong"}, 401),
        ("/events/batch", JSON | {"content-type": "text/csv"}, 415),
    ],
)
async def test_ordinary_client_sees_an_early_refusal(
    server: InProcess, path: str, headers: dict[str, str], status: int
) -> None:
    """A client that sends its whole body before it looks up finds the answer, not a reset."""
    body = b" " * (BATCH_BODY_BYTES_MAX + 1)

    def send() -> int:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(client):
            client.request("POST", path, body, headers)
            return client.getresponse().status

    for _ in range(3):
        assert await asyncio.to_thread(send) == status


async def test_slow_reader_is_waited_for(server: InProcess, layers: Counter[str]) -> None:
    """While a client does not take its answers, its requests go the way that waits for it."""
    connections: list[IngestProtocol] = []
    made = IngestProtocol.connection_made

    def remember(self: IngestProtocol, transport: Any) -> None:
        connections.append(self)
        made(self, transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngestProtocol, "connection_made", remember)
        async with server.wire() as wire:
            await wire.send(request(ONE))
            body_of(await wire.reply())
            connections[0].pause_writing()
            await wire.send(request(ONE))
            await until(lambda: layers["asgi"] == 1, what="the request took the other way")
            connections[0].resume_writing()
            body_of(await wire.reply())
    assert layers == {"plain": 1, "asgi": 1}
