"""The formats in which events may come: CloudEvents, packed bodies, batches in part."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from backports import zstd
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from evp.clock import to_ms
from evp.http import Reply
from evp.identity import canonical, event_id
from evp.limits import BATCH_BODY_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_BYTES_MAX, MIB
from evp.server.limits import REJECTED_NAMED_MAX, SINGLE_BODY_BYTES_MAX
from evp.server.told import BatchAccepted, EventAccepted
from tests.support.make import event, ndjson
from tests.support.server import JSON, NDJSON, InProcess, request
from tests.support.workers import drain

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

TIME = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
OF_EVP = ("event_id", "received_at")
"""What evp adds to an event; no attribute can have such a name."""
BATCH = "/events/batch"
CLOUD_BATCH = JSON | {"content-type": "application/cloudevents-batch+json"}
PACKS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}


def by_sdk(message: HTTPMessage, *, chunked: bool = False) -> bytes:
    """Return a message of the SDK as a request."""
    headers = {"x-api-key": JSON["x-api-key"], **message.headers}
    return request(message.body, headers=headers, chunked=chunked)


def cloud_event(data: Any, **attributes: Any) -> CloudEvent:
    """Return an event of the SDK."""
    return CloudEvent({"id": "ä 1", "source": "/sdk", "type": "t"} | attributes, data)


def batch_told(reply: Reply) -> BatchAccepted:
    """Return what the 202 of a batch says."""
    assert reply.status == 202, reply
    return msgspec.json.decode(reply.body, type=BatchAccepted)


@both_ways
@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("application/json", {"a": [1, "ü"]}),
        ("application/octet-stream", b"\x00\xff"),
        ("image/png", bytes(range(256))),
    ],
)
async def test_sdk_as_a_client(
    server: InProcess,
    write: Callable[[CloudEvent], HTTPMessage],
    kind: str,
    data: Any,
    *,
    chunked: bool,
) -> None:
    """What the public SDK sends is stored as it was meant, in either mode, by either way."""
    sent = cloud_event(data, datacontenttype=kind, subject="a b", tenant="x", time=TIME)
    reply = await server.ask(by_sdk(write(sent), chunked=chunked))
    assert reply.status == 202
    told = msgspec.json.decode(reply.body, type=EventAccepted)
    assert told.event_id == canonical(event_id("/sdk", "ä 1", to_ms(TIME)))
    [document] = await server.documents()
    assert document["data"] == data
    assert (document["subject"], document["tenant"]) == ("a b", "x")
    assert document["datacontenttype"] == kind
    assert "specversion" not in document


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
@pytest.mark.parametrize(
    ("kind", "data"), [("application/json", {"a": [1, "ü"]}), ("image/png", bytes(range(256)))]
)
async def test_sdk_reads_what_it_sent(
    server: InProcess, write: Callable[[CloudEvent], HTTPMessage], kind: str, data: Any
) -> None:
    """An event goes from the SDK into the store, and comes back so that the SDK reads the same."""
    id_ = f"{kind} {write.__name__}"
    sent = cloud_event(data, id=id_, datacontenttype=kind, subject="a b", tenant="x", time=TIME)
    reply = await server.ask(by_sdk(write(sent)))
    told = msgspec.json.decode(reply.body, type=EventAccepted)
    await drain(server.settings)
    found = await server.ask(request(b"", method="GET", path=f"/events/{told.event_id}"))
    event = msgspec.json.decode(found.body)["event"]
    attributes = {name: value for name, value in event.items() if name not in OF_EVP}
    read = JSONFormat().read(CloudEvent, msgspec.json.encode(attributes))
    assert read.get_attributes() == sent.get_attributes()
    assert read.get_data() == data


@both_ways
async def test_batch_of_cloudevents(server: InProcess, *, chunked: bool) -> None:
    """A batch of what the SDK writes is taken as one, with bytes among it."""
    parts = [
        to_structured_event(cloud_event(data, id=str(number))).body
        for number, data in enumerate([{"a": 1}, b"\x00\xff"])
    ]
    body = b"[" + b",".join(parts) + b"]"
    sent = request(body, path=BATCH, headers=CLOUD_BATCH, chunked=chunked)
    assert batch_told(await server.ask(sent)).accepted == 2
    assert [one["data"] for one in await server.documents()] == [{"a": 1}, b"\x00\xff"]


@pytest.mark.parametrize(
    ("path", "content_type", "code"),
    [
        ("/events", "application/cloudevents-batch+json", "unsupported_media_type"),
        ("/events", "application/cloudevents+avro", "unsupported_media_type"),
        (BATCH, "application/cloudevents+json", "unsupported_media_type"),
        (BATCH, "application/octet-stream", "unsupported_media_type"),
    ],
)
@both_ways
async def test_other_modes(
    server: InProcess, path: str, content_type: str, code: str, *, chunked: bool
) -> None:
    """A mode at the wrong path, or in a format that evp does not read, is told."""
    headers = JSON | {"content-type": content_type}
    assert (
        await server.ask(request(b"[]", path=path, headers=headers, chunked=chunked))
    ).code == code


async def test_headers_beside_a_structured_event(server: InProcess) -> None:
    """An event in structured mode may have its attributes in headers too; the body counts."""
    message = to_structured_event(cloud_event({"a": 1}))
    headers = {**message.headers, "ce-id": "other", "ce-type": "other"}
    assert (await server.ask(by_sdk(HTTPMessage(headers, message.body)))).status == 202
    [document] = await server.documents()
    assert (document["id"], document["type"]) == ("ä 1", "t")


async def test_headers_of_binary_mode_are_never_overlooked(server: InProcess) -> None:
    """A body that could be an event itself is data, as soon as one required header is there."""
    body = b'{"type": "t", "id": "1"}'
    assert (await server.ask(request(body, headers=JSON | {"ce-id": "1"}))).status == 422
    whole = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "u"}
    async with server.wire() as wire:
        for _ in range(3):
            await wire.send(request(body, headers=JSON | whole))
            assert (await wire.reply()).status == 202
            [document] = await server.documents()
            assert (document["type"], document["data"]) == ("u", {"type": "t", "id": "1"})


@both_ways
@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("size_bytes", [0, 100_000])
async def test_packed_events(
    server: InProcess, name: str, size_bytes: int, *, chunked: bool
) -> None:
    """A packed body is taken as if it came as it is, of one event and of many."""
    one = event(7, data="x" * size_bytes)
    headers = JSON | {"content-encoding": name}
    packed = PACKS[name](msgspec.json.encode(one))
    reply = await server.ask(request(packed, headers=headers, chunked=chunked))
    assert reply.status == 202, reply
    assert (await server.documents())[0]["data"] == "x" * size_bytes
    lines = PACKS[name](ndjson(one, event(8)))
    headers = NDJSON | {"content-encoding": name}
    sent = request(lines, path=BATCH, headers=headers, chunked=chunked)
    assert batch_told(await server.ask(sent)).accepted == 2


@both_ways
@pytest.mark.parametrize("name", PACKS)
async def test_packed_body_has_the_limits_of_any(
    server: InProcess, name: str, *, chunked: bool
) -> None:
    """What is too large once it is unpacked is refused, and so is one event in it."""
    before = await server.entries()
    for path, most_bytes in (("/events", SINGLE_BODY_BYTES_MAX), (BATCH, BATCH_BODY_BYTES_MAX)):
        headers = JSON | {"content-encoding": name}
        bomb = PACKS[name](bytes(most_bytes + 1))
        reply = await server.ask(request(bomb, path=path, headers=headers, chunked=chunked))
        assert (reply.status, reply.code) == (413, "body_too_large")
        large = PACKS[name](b"[" + msgspec.json.encode(event(1, data="x" * EVENT_BYTES_MAX)) + b"]")
        if path == BATCH:
            reply = await server.ask(request(large, path=path, headers=headers, chunked=chunked))
            assert reply.code == "event_too_large"
    assert await server.entries() == before


async def test_large_packed_body_holds_nobody_up(server: InProcess) -> None:
    """While the largest body is unpacked, a request of another client is answered."""
    bomb = gzip.compress(bytes(BATCH_BODY_BYTES_MAX + MIB), 9)
    headers = JSON | {"content-encoding": "gzip"}
    worst_s = 0.0
    async with server.wire() as large, server.wire() as small:
        for _ in range(5):
            await large.send(request(bomb, path=BATCH, headers=headers))
            answer = asyncio.create_task(large.reply())
            while not answer.done():
                began_at_s = time.perf_counter()
                await small.send(request(b"{"))
                await small.reply()
                worst_s = max(worst_s, time.perf_counter() - began_at_s)
            assert (await answer).code == "body_too_large"
    assert worst_s < 0.5


@both_ways
async def test_bad_events_are_left_out(server: InProcess, *, chunked: bool) -> None:
    """With on_error=skip the good events are kept, and each other one is told with its reason."""
    batch = [event(1), event(2, id=7), event(3), event(1), event(4, time="1969-01-01T00:00:00Z")]
    body = msgspec.json.encode(batch)
    reply = await server.ask(request(body, path=f"{BATCH}?on_error=skip", chunked=chunked))
    told = batch_told(reply)
    assert (told.accepted, told.rejected_total) == (2, 3)
    assert [(one.index, one.code) for one in told.rejected] == [
        (1, "invalid_id"),
        (3, "duplicate_id"),
        (4, "timestamp_out_of_range"),
    ]
    assert all(one.detail for one in told.rejected)
    assert [one["id"] for one in await server.documents()] == ["e1", "e3"]


async def test_bad_lines_are_left_out(server: InProcess) -> None:
    """A line that is no JSON is one rejected event."""
    body = ndjson(event(1)) + b"\n{\n" + ndjson(event(2))
    reply = await server.ask(request(body, path=f"{BATCH}?on_error=skip", headers=NDJSON))
    told = batch_told(reply)
    assert [(one.index, one.code) for one in told.rejected] == [(1, "invalid_json")]
    assert [one["id"] for one in await server.documents()] == ["e1", "e2"]


@pytest.mark.parametrize(
    ("body", "code", "index"),
    [
        (b"[{}, 7]", "invalid_event", 0),
        (b'{"type": "t"}', "invalid_event", None),
        (b'[{"type": "t"}', "invalid_json", None),
        (b"[]", "empty_batch", None),
    ],
)
async def test_nothing_good_is_refused(
    server: InProcess, body: bytes, code: str, index: int | None
) -> None:
    """Without a good event, or where the body is no batch, it is refused as ever."""
    before = await server.entries()
    reply = await server.ask(request(body, path=f"{BATCH}?on_error=skip"))
    assert reply.code == code
    assert msgspec.json.decode(reply.body).get("index") == index
    assert await server.entries() == before


async def test_good_batch_is_told_as_good(server: InProcess) -> None:
    """A batch that could be left out of, and need not, says so."""
    body = msgspec.json.encode([event(1), event(2)])
    told = batch_told(await server.ask(request(body, path=f"{BATCH}?on_error=skip")))
    assert (told.accepted, told.rejected, told.rejected_total) == (2, [], 0)
    told = batch_told(await server.ask(request(body, path=f"{BATCH}?on_error=refuse&ids=0")))
    assert (told.rejected_total, told.event_ids) == (msgspec.UNSET, msgspec.UNSET)


async def test_details_are_bounded(server: InProcess) -> None:
    """Of the greatest batch with one good event, a bounded number of reasons is told."""
    batch: list[Any] = [{}] * (BATCH_EVENTS_MAX - 1) + [event(1)]
    path = f"{BATCH}?on_error=skip&ids=1"
    told = batch_told(await server.ask(request(msgspec.json.encode(batch), path=path)))
    assert (told.accepted, told.rejected_total) == (1, BATCH_EVENTS_MAX - 1)
    assert len(told.rejected) == REJECTED_NAMED_MAX
    assert told.event_ids != msgspec.UNSET
    assert len(told.event_ids) == BATCH_EVENTS_MAX
    assert told.event_ids[:-1] == [None] * (BATCH_EVENTS_MAX - 1)


@both_ways
async def test_ids_are_told(server: InProcess, *, chunked: bool) -> None:
    """With ids=1 the answer has the id of each event, and null where one was left out."""
    batch = [event(1), {}, event(2), {"type": "t"}]
    body = msgspec.json.encode(batch)
    sent = request(body, path=f"{BATCH}?ids=1&on_error=skip", chunked=chunked)
    told = batch_told(await server.ask(sent))
    stored = [str(one["_id"].as_uuid()) for one in await server.documents()]
    assert told.event_ids == [stored[0], None, stored[1], stored[2]]
    body = msgspec.json.encode([event(1), event(2)])
    told = batch_told(await server.ask(request(body, path=f"{BATCH}?ids=1", chunked=chunked)))
    assert told.event_ids == stored[:2]


@both_ways
@pytest.mark.parametrize(
    "target",
    [
        "/events?x=1",
        "/events?on_error=skip",
        "/events?ids=1",
        f"{BATCH}?x=1",
        f"{BATCH}?on_error=keep",
        f"{BATCH}?on_error=",
        f"{BATCH}?on_error",
        f"{BATCH}?ids=2",
        f"{BATCH}?ids=true",
        f"{BATCH}?ids=1&ids=1",
        f"{BATCH}?On_Error=skip",
        f"{BATCH}?ids=1&%ff=1",
    ],
)
async def test_other_queries(server: InProcess, target: str, *, chunked: bool) -> None:
    """A parameter that is unknown, given twice or has another value is refused, and not echoed."""
    body = b"[" + msgspec.json.encode(event(1)) + b"]"
    before = await server.entries()
    reply = await server.ask(request(body, path=target, chunked=chunked))
    assert (reply.status, reply.code) == (422, "invalid_query")
    assert await server.entries() == before


async def test_key_comes_before_the_query(server: InProcess) -> None:
    """Who has no key is not told what is wrong with the query."""
    reply = await server.ask(request(b"[]", path=f"{BATCH}?x=1", headers={}))
    assert reply.code == "unauthenticated"


async def test_packed_batch_in_part(server: InProcess) -> None:
    """A packed batch of CloudEvents, large enough for a thread, is taken in part."""
    one = event(1) | {"specversion": "1.0"}
    batch = [one | {"id": str(number)} for number in range(2_000)] + [event(2)]
    headers = CLOUD_BATCH | {"content-encoding": "zstd"}
    body = zstd.compress(msgspec.json.encode(batch))
    reply = await server.ask(request(body, path=f"{BATCH}?on_error=skip", headers=headers))
    told = batch_told(reply)
    assert told.accepted == 2_000
    assert [(one.index, one.code) for one in told.rejected] == [(2_000, "invalid_attribute")]
