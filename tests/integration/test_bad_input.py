"""The contract for bad input, row by row, by both ways into the server.

A request with a known length takes the short way (`evp.server.protocol`), a
chunked one goes through the ASGI app. Whatever is refused has its code, is
never a 500, and leaves nothing in the log. Cases begin with the number of their
row; `ELSEWHERE` names the tests that hold the others.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evp.errors import STATUS_BY_CODE
from evp.http import Reply
from evp.identity import canonical, event_id
from evp.limits import (
    ATTRIBUTE_CHARS_MAX,
    BATCH_BODY_BYTES_MAX,
    BATCH_EVENTS_MAX,
    EVENT_BYTES_MAX,
    EVENT_KEYS_MAX,
    ID_BYTES_MAX,
    KEY_BYTES_MAX,
    NESTING_MAX,
)
from evp.server.limits import SINGLE_BODY_BYTES_MAX
from tests.support.make import event, ndjson
from tests.support.server import (
    JSON,
    NDJSON,
    InProcess,
    request,
)
from tests.support.stores import store
from tests.support.workers import drain
from tests.tidy.source import ROOT

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])


def told(reply: Reply) -> str:
    """Return status and code; a refusal must be a problem that says both."""
    if reply.status < 400:
        return str(reply.status)
    problem = msgspec.json.decode(reply.body)
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["status"] == reply.status == STATUS_BY_CODE[problem["code"]]
    assert problem["type"] == f"urn:evp:problem:{problem['code']}"
    assert problem["title"]
    assert problem["detail"]
    return f"{reply.status} {reply.code}"


def with_data(json: str | bytes) -> bytes:
    """Return an event with this JSON text as its data."""
    text = json.encode() if isinstance(json, str) else json
    return b'{"type": "t", "data": ' + text + b"}"


def member(**members: Any) -> bytes:
    """Return an event with these members."""
    return msgspec.json.encode({"type": "t"} | members)


def from_now(**distance: float) -> str:
    """Return a time so far from now."""
    return (datetime.now(UTC) + timedelta(**distance)).isoformat()


def nested(depth: int) -> bytes:
    """Return an event of that many levels; the event itself is the first."""
    return with_data("[" * (depth - 1) + "]" * (depth - 1))


ONE = member(id="1")
REFUSED: list[tuple[str, bytes, str]] = [
    ("1 empty", b"", "400 invalid_json"),
    ("1 blank", b" \r\n ", "400 invalid_json"),
    ("2 truncated", ONE[:-1], "400 invalid_json"),
    ("3 second value", b"{} {}", "400 invalid_json"),
    ("3 second event", ONE + ONE, "400 invalid_json"),
    ("4 string", b'"text"', "422 invalid_event"),
    ("4 number", b"7", "422 invalid_event"),
    ("4 null", b"null", "422 invalid_event"),
    ("4 no type", b"{}", "422 invalid_event"),
    ("4 a batch", b"[" + ONE + b"]", "422 invalid_event"),
    ("5 empty batch", b"[]", "422 empty_batch"),
    (
        "9 event one byte too large",
        b" " * (EVENT_BYTES_MAX + 1 - len(ONE)) + ONE,
        "413 event_too_large",
    ),
    ("14 UTF-16", ONE.decode().encode("utf-16"), "400 invalid_json"),
    ("14 UTF-16 without mark", ONE.decode().encode("utf-16-le"), "400 invalid_json"),
    ("15 byte order mark", b"\xef\xbb\xbf" + ONE, "400 invalid_json"),
    ("16 not UTF-8", b'{"type": "\xff"}', "400 invalid_utf8"),
    ("16 cut within a character", b'{"type": "\xc3"}', "400 invalid_utf8"),
    ("16 overlong UTF-8", b'{"type": "\xc0\x80"}', "400 invalid_utf8"),
    ("16 surrogate in UTF-8", b'{"type": "\xed\xa0\x80"}', "400 invalid_utf8"),
    ("17 lone surrogate", with_data('"\\ud800"'), "400 invalid_json"),
    ("17 lone surrogate in a key", with_data('{"\\ud800": 1}'), "400 invalid_json"),
    ("18 100,000 levels", b"[" * 100_000, "422 too_deep"),
    ("18 100,000 levels in data", with_data("[" * 100_000 + "]" * 100_000), "422 too_deep"),
    ("18 30,000 objects in data", with_data('{"a":' * 30_000 + "1" + "}" * 30_000), "422 too_deep"),
    ("19 33 levels", nested(NESTING_MAX + 1), "422 too_deep"),
    ("19 100 levels", nested(100), "422 too_deep"),
    ("20 NaN", with_data("NaN"), "400 invalid_json"),
    ("20 Infinity", with_data("-Infinity"), "400 invalid_json"),
    ("21 1e400", with_data("1e400"), "422 number_out_of_range"),
    ("21 -1e400 within data", with_data('{"a": [-1e400]}'), "422 number_out_of_range"),
    ("22 2^63", with_data(str(2**63)), "422 number_out_of_range"),
    ("22 2^64", with_data(f'{{"a": {2**64}}}'), "422 number_out_of_range"),
    ("22 2^70", with_data(f"[{2**70}]"), "422 number_out_of_range"),
    ("22 -2^63-1", with_data(str(-(2**63) - 1)), "422 number_out_of_range"),
    ("23 4,300 digits", with_data("9" * 4_300), "422 number_out_of_range"),
    ("23 5,000 digits", with_data("9" * 5_000), "422 number_out_of_range"),
    ("26 NUL in a key", with_data('{"a\\u0000b": 1}'), "422 invalid_key"),
    ("26 NUL in a nested key", with_data('[{"a": {"\\u0000": 1}}]'), "422 invalid_key"),
    ("28 $ on top", member(**{"$x": "1"}), "422 invalid_attribute"),
    ("29 dot on top", member(**{"a.b": "1"}), "422 invalid_attribute"),
    ("31 empty name on top", member(**{"": "1"}), "422 invalid_attribute"),
    ("31 _id", member(_id="1"), "422 invalid_attribute"),
    ("31 frame_id", member(frame_id="1"), "422 invalid_attribute"),
    ("31 received_at", member(received_at="1"), "422 invalid_attribute"),
    ("31 camel case", member(userId="1"), "422 invalid_attribute"),
    ("31 object as attribute", member(extra={}), "422 invalid_attribute"),
    ("31 subject of another type", member(subject=1), "422 invalid_attribute"),
    ("31 long subject", member(subject="s" * (ATTRIBUTE_CHARS_MAX + 1)), "422 invalid_attribute"),
    ("32 __proto__ on top", member(__proto__="1"), "422 invalid_attribute"),
    (
        "33 1,001 keys",
        member(data={f"k{n}": n for n in range(EVENT_KEYS_MAX + 1)}),
        "422 too_many_fields",
    ),
    (
        "33 1,001 keys on levels",
        member(data=[{"a": 1, "b": 2, "c": 3}] * 334),
        "422 too_many_fields",
    ),
    ("33 key of 257", member(data={"k" * (KEY_BYTES_MAX + 1): 1}), "422 too_many_fields"),
    ("33 key of 257 in UTF-8", member(data={"ü" * 129: 1}), "422 too_many_fields"),
    ("35 number as id", member(id=7), "422 invalid_id"),
    ("35 empty id", member(id=""), "422 invalid_id"),
    ("35 id of 129", member(id="i" * (ID_BYTES_MAX + 1)), "422 invalid_id"),
    ("35 id of 129 in UTF-8", member(id="ü" * 64 + "i"), "422 invalid_id"),
    ("35 newline in id", member(id="a\n"), "422 invalid_id"),
    ("35 NUL in id", member(id="a\0"), "422 invalid_id"),
    ("35 C1 in id", member(id="a\x85"), "422 invalid_id"),
    ("39 time is garbage", member(time="soon"), "422 invalid_timestamp"),
    ("39 timestamp is garbage", member(timestamp="soon"), "422 invalid_timestamp"),
    ("39 year 0", member(time="0000-01-01T00:00:00Z"), "422 invalid_timestamp"),
    ("39 year 10000", member(time="10000-01-01T00:00:00Z"), "422 invalid_timestamp"),
    ("39 1e18 ms", member(time=10**18), "422 invalid_timestamp"),
    (
        "39 time and timestamp",
        member(time=from_now(), timestamp=from_now()),
        "422 invalid_timestamp",
    ),
    ("40 25 hours ahead", member(time=from_now(hours=25)), "422 timestamp_out_of_range"),
    ("40 before 1970", member(time="1969-12-31T23:59:59.999Z"), "422 timestamp_out_of_range"),
    ("40 year 1", member(time="0001-01-01T00:00:00+23:59"), "422 timestamp_out_of_range"),
    ("40 year 9999", member(time="9999-12-31T23:59:59-23:59"), "422 timestamp_out_of_range"),
    ("41 leap second", member(time="2016-12-31T23:59:60Z"), "422 invalid_timestamp"),
    ("41 no zone", member(time="2026-01-02T03:04:05"), "422 invalid_timestamp"),
]


@both_ways
@pytest.mark.parametrize(
    ("body", "expected"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
async def test_refused_events(
    server: InProcess, body: bytes, expected: str, *, chunked: bool
) -> None:
    """Each kind of bad event has its code, the same by both ways, and is not in the log."""
    before = await server.entries()
    assert told(await server.ask(request(body, chunked=chunked))) == expected
    assert await server.entries() == before


REFUSED_BATCHES: list[tuple[str, bytes, str, int | None]] = [
    ("1 empty", b"", "400 invalid_json", None),
    ("4 one event", ONE, "422 invalid_event", None),
    ("4 a null among them", b"[" + ONE + b", null]", "422 invalid_event", 1),
    ("5 empty batch", b"[]", "422 empty_batch", None),
    ("6 10,001 events", b"[" + b",".join([b"{}"] * 10_001) + b"]", "413 too_many_events", None),
    ("9 one too large", b"[" + ONE + b"," + member(data="x" * EVENT_BYTES_MAX) + b"]",
     "413 event_too_large", 1),
    ("16 not UTF-8", b'[{"type": "\xff"}]', "400 invalid_utf8", None),
    ("18 100,000 levels", b"[" + ONE + b"," + b"[" * 100_000, "422 too_deep", None),
    ("19 33 levels", b"[" + ONE + b"," + nested(33) + b"]", "422 too_deep", 1),
    ("22 2^63", b"[" + ONE + b"," + with_data(str(2**63)) + b"]", "422 number_out_of_range", 1),
    ("26 NUL in a key", b"[" + ONE + b"," + with_data('{"\\u0000": 1}') + b"]",
     "422 invalid_key", 1),
    ("31 _id", b"[" + ONE + b"," + member(_id="x") + b"]", "422 invalid_attribute", 1),
    ("35 newline in id", b"[" + ONE + b"," + member(id="\n") + b"]", "422 invalid_id", 1),
    ("38 the same twice", b"[" + ONE + b"," + member() + b"," + ONE + b"]",
     "422 duplicate_id", 2),
    ("39 time is garbage", b"[" + ONE + b"," + member(time="soon") + b"]",
     "422 invalid_timestamp", 1),
    ("40 before 1970", b"[" + ONE + b"," + member(time="1969-01-01T00:00:00Z") + b"]",
     "422 timestamp_out_of_range", 1),
]  # fmt: skip


@both_ways
@pytest.mark.parametrize(
    ("body", "expected", "index"),
    [row[1:] for row in REFUSED_BATCHES],
    ids=[row[0] for row in REFUSED_BATCHES],
)
async def test_refused_batches(
    server: InProcess, body: bytes, expected: str, index: int | None, *, chunked: bool
) -> None:
    """One bad event refuses its whole batch and is named by its index."""
    before = await server.entries()
    reply = await server.ask(request(body, path="/events/batch", chunked=chunked))
    assert told(reply) == expected
    assert msgspec.json.decode(reply.body).get("index") == index
    assert await server.entries() == before


REFUSED_LINES: list[tuple[str, bytes, str, int | None]] = [
    ("5 empty", b"", "422 empty_batch", None),
    ("2 truncated", ONE + b"\n" + ONE[:-1], "400 invalid_json", 1),
    ("3 two on a line", ONE + b" " + ONE, "400 invalid_json", 0),
    ("4 null", ONE + b"\nnull", "422 invalid_event", 1),
    ("6 10,001 events", b"\n".join([member()] * (BATCH_EVENTS_MAX + 1)), "413 too_many_events",
     None),
    ("9 one too large", ONE + b"\n" + member(data="x" * EVENT_BYTES_MAX), "413 event_too_large",
     1),
    ("9 padded with returns", ONE + b"\n{" + b"\r" * EVENT_BYTES_MAX + ONE[1:],
     "413 event_too_large", 1),
    ("16 not UTF-8", ONE + b'\n{"type": "\xff"}', "400 invalid_utf8", 1),
    ("38 the same twice", ONE + b"\r\n\r\n" + ONE, "422 duplicate_id", 1),
]  # fmt: skip


@both_ways
@pytest.mark.parametrize(
    ("body", "expected", "index"),
    [row[1:] for row in REFUSED_LINES],
    ids=[row[0] for row in REFUSED_LINES],
)
async def test_refused_lines(
    server: InProcess, body: bytes, expected: str, index: int | None, *, chunked: bool
) -> None:
    """NDJSON is held to the same rules; the index counts events, not lines."""
    before = await server.entries()
    sent = request(body, path="/events/batch", headers=NDJSON, chunked=chunked)
    reply = await server.ask(sent)
    assert told(reply) == expected
    assert msgspec.json.decode(reply.body).get("index") == index
    assert await server.entries() == before


REFUSED_HEADERS: list[tuple[str, dict[str, str | None], str]] = [
    ("11 unknown encoding", {"content-encoding": "rot13"}, "415 unsupported_encoding"),
    ("12 no gzip", {"content-encoding": "gzip"}, "400 invalid_encoding"),
    ("12 no zstd", {"content-encoding": "zstd"}, "400 invalid_encoding"),
    ("11 gzip twice", {"content-encoding": "gzip, gzip"}, "415 unsupported_encoding"),
    ("13 no content-type", {"content-type": None}, "415 unsupported_media_type"),
    ("13 empty content-type", {"content-type": ""}, "415 unsupported_media_type"),
    ("13 text", {"content-type": "text/plain"}, "415 unsupported_media_type"),
    ("13 form", {"content-type": "application/x-www-form-urlencoded"},
     "415 unsupported_media_type"),
    ("13 multipart", {"content-type": "multipart/form-data; boundary=x"},
     "415 unsupported_media_type"),
    ("14 charset UTF-16", {"content-type": "application/json; charset=utf-16"},
     "415 unsupported_media_type"),
    ("42 no key", {"x-api-key": None}, "401 unauthenticated"),
    ("42 empty key", {"x-api-key": ""}, "401 unauthenticated"),
    ("42 unknown key", {"x-api-key": "test-kez"}, "401 unauthenticated"),
    ("42 key as a bearer", {"x-api-key": None, "authorization": "Bearer test-key"},
     "401 unauthenticated"),
    ("46 key not ASCII", {"x-api-key": "schl\xfcssel"}, "401 unauthenticated"),
    ("46 key of 10 KiB", {"x-api-key": "k" * 10_240}, "401 unauthenticated"),
    ("42 no key and no type", {"x-api-key": None, "content-type": None}, "401 unauthenticated"),
]  # fmt: skip


@both_ways
@pytest.mark.parametrize(
    ("changes", "expected"),
    [row[1:] for row in REFUSED_HEADERS],
    ids=[row[0] for row in REFUSED_HEADERS],
)
@pytest.mark.parametrize("path", ["/events", "/events/batch"])
async def test_refused_headers(
    server: InProcess, path: str, changes: dict[str, str | None], expected: str, *, chunked: bool
) -> None:
    """What the headers forbid is refused before anyone looks at the body."""
    before = await server.entries()
    headers = {name: value for name, value in (JSON | changes).items() if value is not None}
    body = ONE if path == "/events" else b"[" + ONE + b"]"
    reply = await server.ask(request(body, path=path, headers=headers, chunked=chunked))
    assert told(reply) == expected
    assert await server.entries() == before


@both_ways
async def test_all_wrong_keys_are_answered_alike(server: InProcess, *, chunked: bool) -> None:
    """No answer tells whether a key exists, and a key in the address is none."""
    wrong: list[dict[str, str]] = [{}, {"x-api-key": "other"}, {"x-api-key": "k" * 300}]
    answers = [
        await server.ask(request(ONE, headers={**JSON, "x-api-key": ""} | key, chunked=chunked))
        for key in wrong
    ]
    anonymous = {"content-type": "application/json"}
    path = "/events?x-api-key=test-key"
    answers.append(await server.ask(request(ONE, path=path, headers=anonymous, chunked=chunked)))
    assert {answer.status for answer in answers} == {401}
    assert len({answer.body for answer in answers}) == 1
    assert "www-authenticate" in answers[0].headers


@pytest.mark.parametrize(
    ("path", "most"), [("/events", SINGLE_BODY_BYTES_MAX), ("/events/batch", BATCH_BODY_BYTES_MAX)]
)
async def test_known_length_is_refused_before_reading(
    server: InProcess, path: str, most: int
) -> None:
    """A body that is announced too large is refused before its first byte."""
    head = request(b"", path=path).replace(b"content-length: 0", b"content-length: %d" % (most + 1))
    async with server.wire() as wire:
        await wire.send(head)
        assert told(await wire.reply()) == "413 body_too_large"
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("path", "most"), [("/events", SINGLE_BODY_BYTES_MAX), ("/events/batch", BATCH_BODY_BYTES_MAX)]
)
async def test_chunks_are_counted(server: InProcess, path: str, most: int) -> None:
    """A body without a length is refused where it crosses the limit, and cut off."""
    head = request(b"", path=path, chunked=True)[: -len(b"0\r\n\r\n")]
    chunk = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
    async with server.wire() as wire:
        await wire.send(head, *[chunk] * (most // (1 << 16)), b"1\r\n \r\n")
        reply = await wire.reply()
        assert told(reply) == "413 body_too_large"
        assert reply.headers["connection"] == "close"
        assert await wire.rest() == b""


@both_ways
async def test_body_of_the_greatest_length_is_read(server: InProcess, *, chunked: bool) -> None:
    """A body at the limit, spaces around one event, is read whole and judged by its event."""
    body = b"[" + ONE + b" " * (BATCH_BODY_BYTES_MAX - len(ONE) - 2) + b"]"
    reply = await server.ask(request(body, path="/events/batch", chunked=chunked))
    assert told(reply) == "202"


ACCEPTED: list[tuple[str, bytes, dict[str, Any]]] = [
    ("9 largest event", member(data="x" * (EVENT_BYTES_MAX - 22)),
     {"data": "x" * (EVENT_BYTES_MAX - 22)}),
    ("19 32 levels", with_data("[" * 30 + "7" + "]" * 30), {}),
    ("24 least and greatest integer", with_data(f"[{-(2**63)}, {2**63 - 1}]"),
     {"data": [-(2**63), 2**63 - 1]}),
    ("25 key twice in data", with_data('{"a": 1, "a": 2}'), {"data": {"a": 2}}),
    ("25 member twice", b'{"type": "u", "subject": "1", "subject": "2", "type": "t"}',
     {"type": "t", "subject": "2"}),
    ("27 NUL in a value", with_data('"a\\u0000b"'), {"data": "a\0b"}),
    ("28 $ in data", member(data={"$current_url": {"$ne": 1}}),
     {"data": {"$current_url": {"$ne": 1}}}),
    ("29 dot in data", member(data={"a.b": 1}), {"data": {"a.b": 1}}),
    ("30 empty key in data", member(data={"": 1}), {"data": {"": 1}}),
    ("32 __proto__ in data", member(data={"__proto__": {"admin": True}, "constructor": 1}),
     {"data": {"__proto__": {"admin": True}, "constructor": 1}}),
    ("32 constructor on top", member(constructor="1"), {"constructor": "1"}),
    ("33 1,000 keys", member(data={f"k{n}": n for n in range(EVENT_KEYS_MAX)}),
     {"data": {f"k{n}": n for n in range(EVENT_KEYS_MAX)}}),
    ("33 key of 256", member(data={"ü" * (KEY_BYTES_MAX // 2): 1}),
     {"data": {"ü" * (KEY_BYTES_MAX // 2): 1}}),
    ("35 id of 128", member(id="ü" * (ID_BYTES_MAX // 2)), {"id": "ü" * (ID_BYTES_MAX // 2)}),
    ("40 first moment of 1970", member(time="1970-01-01T00:00:00Z"),
     {"time": datetime(1970, 1, 1, tzinfo=UTC)}),
    ("40 23 hours ahead", member(time=from_now(hours=23)), {}),
    ("41 time in lower case", member(time="2026-01-02t03:04:05.678z"),
     {"time": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)}),
    ("41 time with an offset", member(timestamp="2026-01-02T03:04:05.678999+05:30"),
     {"time": datetime(2026, 1, 1, 21, 34, 5, 678_000, tzinfo=UTC)}),
    ("data of every kind", with_data('[null, true, 1, 1.5, "ü\\ud83d\\ude00", {}, []]'),
     {"data": [None, True, 1, 1.5, "ü😀", {}, []]}),
    ("data that is null", with_data("null"), {"data": None}),
    ("members that are null", member(id=None, subject=None, time=None, extra=None), {}),
]  # fmt: skip


@both_ways
@pytest.mark.parametrize(
    ("body", "expected"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED]
)
async def test_accepted_events(
    server: InProcess, body: bytes, expected: dict[str, Any], *, chunked: bool
) -> None:
    """What looks odd but is allowed is in the log as it was sent."""
    before = await server.entries()
    reply = await server.ask(request(body, chunked=chunked))
    assert told(reply) == "202"
    [document] = await server.documents()
    assert str(document["_id"].as_uuid()) == msgspec.json.decode(reply.body)["event_id"]
    assert {name: document[name] for name in expected} == expected
    assert "extra" not in document
    assert await server.entries() == before + 1


@both_ways
async def test_same_event_again_is_accepted(server: InProcess, *, chunked: bool) -> None:
    """One id, twice the same and once with other data, is 202; the other data is a dead letter."""
    id_ = f"again {chunked}"
    first = msgspec.json.encode(event(1, id=id_))
    other = msgspec.json.encode(event(1, id=id_, data="other"))
    wanted = canonical(event_id("test", id_, 1_767_323_045_678))
    for body in (first, first, other):
        reply = await server.ask(request(body, chunked=chunked))
        assert reply.status == 202
        assert msgspec.json.decode(reply.body)["event_id"] == wanted
    await drain(server.settings)
    async with store(server.settings.mongo_url, server.settings.mongo_db) as db:
        [stored] = await db["events"].find({"id": id_}).to_list()
        assert stored["data"] == {"n": 1}
        letters = await db["dead_letters"].find({"reason": "id_conflict"}).to_list()
        assert [one["event"]["data"] for one in letters if one["event"]["id"] == id_] == ["other"]


@both_ways
async def test_event_without_an_id_gets_one(server: InProcess, *, chunked: bool) -> None:
    """Each event without an id is an event of its own."""
    replies = [await server.ask(request(member(), chunked=chunked)) for _ in range(2)]
    ids = {msgspec.json.decode(reply.body)["event_id"] for reply in replies}
    assert len(ids) == 2
    assert {id_[14] for id_ in ids} == {"7"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "t", "data": hunter2}',
        member(id="hunter2" * 100),
        member(id="hunter2\n"),
        member(time="hunter2"),
        member(subject=["hunter2"]),
        member(extra={"hunter2": "hunter2"}),
        member(specversion="hunter2"),
        with_data('{"a": ["hunter2", 1e999]}'),
    ],
)
async def test_values_are_never_echoed(server: InProcess, body: bytes) -> None:
    """No refusal repeats a value of what was sent."""
    reply = await server.ask(request(body))
    assert reply.status in {400, 422}
    assert b"hunter2" not in reply.body


_INGEST = "tests/integration/test_ingest.py"
ELSEWHERE: dict[int, tuple[str, ...]] = {
    7: ("test_known_length_is_refused_before_reading",),
    8: ("test_chunks_are_counted",),
    10: (
        "tests/unit/test_encoding.py::test_bomb_takes_the_memory_of_a_body",
        "tests/integration/test_formats.py::test_packed_body_has_the_limits_of_any",
    ),
    34: ("test_event_without_an_id_gets_one",),
    36: ("test_same_event_again_is_accepted",),
    37: ("test_same_event_again_is_accepted",),
    42: ("test_all_wrong_keys_are_answered_alike",),
    44: ("tests/integration/test_api_keys.py::test_a_key_that_may_only_read",),
    45: (
        "tests/integration/test_guard.py::test_header_with_two_meanings",
        "test_all_wrong_keys_are_answered_alike",
    ),
    47: ("tests/integration/test_api_keys.py::test_pace",),
    48: ("tests/integration/test_backpressure.py::test_backlog_max",),
    49: (f"{_INGEST}::test_headers_have_a_limit",),
    50: (f"{_INGEST}::test_what_is_not_http",),
    51: (f"{_INGEST}::test_refused_request_is_not_told_to_continue",),
    52: (
        "tests/integration/test_deadlines.py::test_request_that_comes_slowly",
        "tests/integration/test_deadlines.py::test_drip_does_not_move_the_deadline",
    ),
    53: (f"{_INGEST}::test_other_methods", f"{_INGEST}::test_unknown_paths"),
    54: (f"{_INGEST}::test_request_cut_in_its_body_stores_nothing",),
    55: ("tests/unit/test_tokens.py::test_wrong_tokens",),
    56: ("tests/integration/test_people.py::test_eleven_tries_for_an_account",),
    57: ("tests/integration/test_read_routes.py::test_bad_queries",),
    58: ("tests/integration/test_read_routes.py::test_bad_queries",),
    59: ("tests/integration/test_guard.py::test_other_origins_are_not_let_in",),
}
"""Rows that no table of cases here holds, and the tests that do."""

ROWS = {*range(1, 43), *range(44, 60)}
"""Row 43 is about tenants, of which there is one; row 60 about the dashboard."""


def test_every_row_is_held() -> None:
    """Each row has a case in a table here, or a test that is there."""
    tables = (REFUSED, REFUSED_BATCHES, REFUSED_LINES, REFUSED_HEADERS, ACCEPTED)
    numbers = [case[0].partition(" ")[0] for table in tables for case in table]
    assert {int(number) for number in numbers if number.isdigit()} | set(ELSEWHERE) == ROWS
    here = "tests/integration/test_bad_input.py"
    for named in {name for names in ELSEWHERE.values() for name in names}:
        path, _, name = named.rpartition("::")
        text = (ROOT / (path or here)).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), named


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
names = st.sampled_from(
    ["type", "id", "time", "timestamp", "source", "subject", "data", "x", "_id"]
)
events = st.dictionaries(names, json_values | st.just("2026-01-02T03:04:05Z"), max_size=6)


def mangled(body: bytes, place: int, byte: int) -> bytes:
    """Return a body with one byte replaced."""
    place %= len(body) or 1
    return body[:place] + bytes([byte]) + body[place + 1 :]


bodies = (
    st.binary(max_size=60)
    | events.map(msgspec.json.encode)
    | st.lists(events, max_size=3).map(msgspec.json.encode)
    | st.lists(events, max_size=3).map(lambda rows: ndjson(*rows))
    | st.builds(mangled, events.map(msgspec.json.encode), st.integers(0, 200), st.integers(0, 255))
)


TARGETS: list[tuple[str, dict[str, str]]] = [
    ("/events", JSON),
    ("/events/batch", JSON),
    ("/events/batch", NDJSON),
    ("/events", JSON | {"content-type": "application/cloudevents+json"}),
    ("/events/batch", JSON | {"content-type": "application/cloudevents-batch+json"}),
    ("/events", JSON | {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}),
    ("/events/batch?on_error=skip&ids=1", JSON),
    ("/events/batch?on_error=skip", NDJSON),
    ("/events/batch", NDJSON | {"content-encoding": "gzip"}),
    ("/events", JSON | {"content-encoding": "zstd"}),
]


@settings(max_examples=100)
@given(body=bodies, target=st.sampled_from(TARGETS))
async def test_any_bytes_are_answered_alike(
    server: InProcess, body: bytes, target: tuple[str, dict[str, str]]
) -> None:
    """Whatever the body, both ways give the same status and code, and never a 500."""
    path, headers = target
    plain, asgi = [
        told(await server.ask(request(body, path=path, headers=headers, chunked=chunked)))
        for chunked in (False, True)
    ]
    assert plain == asgi
    assert not plain.startswith("500")
