"""CloudEvents 1.0: what its public SDK writes is what evp reads, in each mode."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from evp.cloudevents import decode_binary
from evp.codec import Media, decode
from evp.errors import STATUS_BY_CODE, Refusal
from evp.events import Event
from evp.limits import EVENT_BYTES_MAX, ID_BYTES_MAX

TIME = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
REQUIRED = {b"ce-specversion": b"1.0", b"ce-id": b"1", b"ce-source": b"/s", b"ce-type": b"t"}

Headers = list[tuple[bytes, bytes]]

#: Characters that CloudEvents allows in a string.
texts = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"], exclude_characters=[chr(n) for n in range(0xFDD0, 0xFDF0)]
    ),
    min_size=1,
    max_size=ID_BYTES_MAX // 4,
)


def headers(changes: dict[bytes, bytes | None] | None = None) -> Headers:
    """Return the headers of an event in binary mode, with some changed or left out."""
    return [(n, v) for n, v in (REQUIRED | (changes or {})).items() if v is not None]


def only(body: bytes, changes: dict[bytes, bytes | None] | None = None) -> Event:
    """Return the event that such headers and a body are."""
    [event] = decode_binary(headers(changes), body).events
    return event


def refusal(body: bytes, given_headers: Headers) -> Refusal:
    """Return why a request in binary mode is refused."""
    with pytest.raises(Refusal) as caught:
        decode_binary(given_headers, body)
    return caught.value


@given(
    id_=texts,
    source=texts,
    subject=texts,
    data=st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5)),
)
def test_what_the_sdk_writes_is_read(
    id_: str, source: str, subject: str, data: dict[str, Any]
) -> None:
    """The same event, in binary and in structured mode, is the same event for evp."""
    attributes = {
        "id": id_, "source": source, "type": "t", "subject": subject, "time": TIME,
        "datacontenttype": "application/json", "tenant": "ä b",
    }  # fmt: skip
    sent = CloudEvent(attributes, data)
    binary = to_binary_event(sent)
    binary_headers = [(n.lower().encode(), v.encode()) for n, v in binary.headers.items()]
    structured = decode(to_structured_event(sent).body, Media.CLOUD_EVENT)
    assert decode_binary(binary_headers, binary.body) == structured
    [event] = structured.events
    assert (event.id, event.source, event.subject, event.time) == (id_, source, subject, TIME)
    assert event.data == data
    assert structured.extensions == {0: {"tenant": "ä b"}}


@given(st.binary(max_size=100))
def test_bytes_are_kept_as_bytes(data: bytes) -> None:
    """Data that is no JSON is the same bytes by either mode."""
    sent = CloudEvent({"id": "1", "source": "s", "type": "t", "datacontenttype": "a/b"}, data)
    binary = to_binary_event(sent)
    binary_headers = [(n.lower().encode(), v.encode()) for n, v in binary.headers.items()]
    [by_headers] = decode_binary(binary_headers, binary.body).events
    [by_json] = decode(to_structured_event(sent).body, Media.CLOUD_EVENT).events
    assert by_json.data == data
    assert by_headers.data == (data or UNSET)
    assert by_headers.datacontenttype == "a/b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b"%e2%82%ac", "€"),
        (b"%41%62", "Ab"),
        (b"100%25%2541", "100%%41"),
        (b"%", "%"),
        (b"a b", "a b"),
        (b'"a b"', "a b"),
        (b'"a \\"b\\" \\\\"', 'a "b" \\'),
        (b'"', '"'),
        ("ü".encode(), "ü"),
    ],
)
def test_header_values_are_decoded(value: bytes, expected: str) -> None:
    """Quotes are taken off, then one round of percent-decoding, as section 3.1.3.2 has it."""
    assert only(b"", {b"ce-subject": value}).subject == expected


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (b"application/json", b'{"a": [1]}', {"a": [1]}),
        (b"application/json; charset=utf-8", b"null", None),
        (b"Text/JSON", b'"x"', "x"),
        (b"application/vnd.app+json", b"1.5", 1.5),
        (b"text/plain", b"1.5", b"1.5"),
        (b"application/xml", b"<a/>", b"<a/>"),
        (b"application/octet-stream", b"\x00\xff", b"\x00\xff"),
        (None, b"{}", b"{}"),
        (b"application/json", b"", UNSET),
    ],
)
def test_data_by_content_type(content_type: bytes | None, body: bytes, expected: Any) -> None:
    """JSON is read as JSON, whatever else as bytes, and nothing is no data."""
    event = only(body, {b"content-type": content_type})
    assert event.data == expected
    assert event.datacontenttype == (content_type.decode() if content_type else None)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({b"ce-specversion": None}, "invalid_attribute"),
        ({b"ce-id": None}, "invalid_id"),
        ({b"ce-id": b""}, "invalid_id"),
        ({b"ce-id": b"%C0%A0"}, "invalid_attribute"),
        ({b"ce-id": b"\xff"}, "invalid_attribute"),
        ({b"ce-source": None}, "invalid_attribute"),
        ({b"ce-type": None}, "invalid_event"),
        ({b"ce-time": b"soon"}, "invalid_timestamp"),
        ({b"ce-my-extension": b"x"}, "invalid_attribute"),
        ({b"ce-": b"x"}, "invalid_attribute"),
        ({b"ce-data": b"x"}, "invalid_attribute"),
        ({b"ce-data_base64": b"eA=="}, "invalid_attribute"),
        ({b"ce-datacontenttype": b"a/b"}, "invalid_attribute"),
        ({b"content-type": b"application/json"}, "invalid_json"),
    ],
)
def test_refused_headers(changes: dict[bytes, bytes | None], code: str) -> None:
    """What an event in binary mode lacks, or can't have, is refused as in JSON."""
    assert refusal(b"{", headers(changes)).code == code


def test_attribute_that_is_there_twice() -> None:
    """Two headers for one attribute leave open which one is meant."""
    assert refusal(b"", [*headers(), (b"ce-id", b"2")]).code == "invalid_attribute"


def test_data_has_the_size_of_an_event() -> None:
    """Data is bounded as a whole event is."""
    assert only(b"x" * EVENT_BYTES_MAX).data == b"x" * EVENT_BYTES_MAX
    assert refusal(b"x" * (EVENT_BYTES_MAX + 1), headers()).code == "event_too_large"


@given(st.lists(st.tuples(st.sampled_from([*REQUIRED, b"ce-time", b"content-type", b"ce-x"]),
                          st.binary(max_size=12)), max_size=8), st.binary(max_size=20))  # fmt: skip
def test_any_headers_are_decoded_or_refused(given_headers: Headers, body: bytes) -> None:
    """No headers raise anything but a Refusal with a known code."""
    try:
        decode_binary(given_headers, body)
    except Refusal as found:
        assert 400 <= STATUS_BY_CODE[found.code] < 500


JSON = b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t"%b}'


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_required_attributes(name: str) -> None:
    """An event that says it is a CloudEvent has all that is required, alone and in a batch."""
    body = JSON % b""
    lacking = body.replace(f'"{name}"'.encode(), b'"other"')
    decode(body, Media.CLOUD_EVENT)
    decode(b"[%b]" % body, Media.CLOUD_BATCH)
    with pytest.raises(Refusal) as alone:
        decode(lacking, Media.CLOUD_EVENT)
    with pytest.raises(Refusal) as among:
        decode(b"[%b,%b]" % (body.replace(b'"1"', b'"2"'), lacking), Media.CLOUD_BATCH)
    assert alone.value.code == among.value.code
    assert (alone.value.index, among.value.index) == (None, 1)


@pytest.mark.parametrize(
    ("member", "code"),
    [
        (b', "data_base64": "eA=="', None),
        (b', "data_base64": ""', None),
        (b', "data_base64": null, "data": 1', None),
        (b', "data_base64": "eA==", "data": null', None),
        (b', "data_base64": "eA==", "data": 1', "invalid_attribute"),
        (b', "data_base64": "eA"', "invalid_attribute"),
        (b', "data_base64": "e A=="', "invalid_attribute"),
        (b', "data_base64": "\xc3\xbc"', "invalid_attribute"),
        (b', "data_base64": "-_--"', "invalid_attribute"),
        (b', "data_base64": 7', "invalid_attribute"),
    ],
)
def test_data_base64(member: bytes, code: str | None) -> None:
    """Base64 stands instead of data, and is what RFC 4648 says."""
    body = JSON % member
    if code is None:
        [event] = decode(body, Media.CLOUD_EVENT).events
        assert event.data in {b"x", b"", 1}
        return
    with pytest.raises(Refusal) as caught:
        decode(b"[%b]" % body, Media.ARRAY)
    assert (caught.value.code, caught.value.path) == (code, "$[0].data_base64")


@given(st.binary(max_size=60))
def test_base64_gives_its_bytes(data: bytes) -> None:
    """Bytes come through base64 unchanged."""
    text = base64.b64encode(data)
    [event] = decode(b'{"type": "t", "data_base64": "%b"}' % text, Media.EVENT).events
    assert event.data == data
