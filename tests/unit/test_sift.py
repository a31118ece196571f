"""Sifting a batch: what is good alone is taken, what is bad is told as it would be alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from evp.codec import Media, decode
from evp.documents import build, encode_carrier
from evp.errors import Refusal
from evp.limits import BATCH_EVENTS_MAX, EVENT_BYTES_MAX
from evp.sift import Sifted, sift
from tests.support.make import ADMISSION, event, ndjson

NOW = datetime(2026, 1, 2, 4, tzinfo=UTC)


def sifted(body: bytes, media: Media = Media.ARRAY) -> Sifted:
    """Sift a batch."""
    return sift(body, media, NOW, ADMISSION)


def ids_of(found: Sifted) -> list[str | None]:
    """Return the ids of what is taken."""
    return [one.id for one in found.decoded.events]


def refusal_of(body: bytes, media: Media = Media.ARRAY) -> Refusal:
    """Return why a batch is refused as a whole."""
    with pytest.raises(Refusal) as caught:
        sifted(body, media)
    return caught.value


def alone(text: bytes) -> str | None:
    """Return the code with which a batch of this one event is refused; None if it is taken."""
    try:
        decoded = decode(b"[" + text + b"]", Media.ARRAY)
        encode_carrier(build(decoded, ObjectId(), NOW, ADMISSION, batch=True).documents, batch=True)
    except Refusal as refusal:
        return refusal.code
    return None


BAD = {
    b"null": "invalid_event",
    b"[]": "invalid_event",
    b'{"type": 7}': "invalid_event",
    b'{"type": "t", "id": 7}': "invalid_id",
    b'{"type": "t", "id": "\\n"}': "invalid_id",
    b'{"type": "t", "_id": "7"}': "invalid_attribute",
    b'{"type": "t", "time": "soon"}': "invalid_timestamp",
    b'{"type": "t", "time": "1969-01-01T00:00:00Z"}': "timestamp_out_of_range",
    b'{"type": "t", "data": 1e400}': "number_out_of_range",
    b'{"type": "t", "data": [1e400, "\xff"]}': "invalid_utf8",
    b'{"type": "t", "data": [18446744073709551616]}': "number_out_of_range",
    b'{"type": "t", "data": {"\\u0000": 1}}': "invalid_key",
    b'{"type": "t", "data": ' + b"[" * 40 + b"]" * 40 + b"}": "too_deep",
    b'{"type": "t", "data": "' + b"x" * EVENT_BYTES_MAX + b'"}': "event_too_large",
}  # fmt: skip


@pytest.mark.parametrize("media", [Media.ARRAY, Media.NDJSON])
def test_each_bad_event_is_told(media: Media) -> None:
    """Good events between bad ones are taken, and each bad one has its index and code."""
    texts = [
        text for number, bad in enumerate(BAD) for text in (msgspec.json.encode(event(number)), bad)
    ]
    good = [msgspec.json.decode(text)["id"] for text in texts[::2]]
    body = b"\n".join(texts) if media is Media.NDJSON else b"[" + b",".join(texts) + b"]"
    found = sifted(body, media)
    assert ids_of(found) == good
    told = {index: refusal.code for index, refusal in found.rejected.items()}
    assert told == {2 * place + 1: code for place, code in enumerate(BAD.values())}
    assert all(refusal.index == index for index, refusal in found.rejected.items())
    paths = [refusal.path for index, refusal in found.rejected.items() if refusal.path]
    assert paths
    assert all(path.startswith("$[") for path in paths)


def test_lines_that_are_no_json() -> None:
    """A line that is no JSON, or no UTF-8, is one rejected event."""
    body = ndjson(event(1)) + b'\n{"type"\n\n{"type": "\xff"}\n' + ndjson(event(2))
    found = sifted(body, Media.NDJSON)
    assert ids_of(found) == ["e1", "e2"]
    told = {index: refusal.code for index, refusal in found.rejected.items()}
    assert told == {1: "invalid_json", 2: "invalid_utf8"}


def test_the_first_of_two_that_are_the_same_is_taken() -> None:
    """An event that is there twice is rejected the second time."""
    found = sifted(msgspec.json.encode([event(1), event(2), event(1)]))
    assert ids_of(found) == ["e1", "e2"]
    assert found.rejected[2].code == "duplicate_id"


def test_extensions_stay_with_their_event() -> None:
    """Further attributes stay with their event when those before it are left out."""
    body = msgspec.json.encode([{}, event(1), {}, event(2, tenant="a")])
    assert sifted(body).decoded.extensions == {1: {"tenant": "a"}}


@pytest.mark.parametrize(
    ("body", "media", "code"),
    [
        (b"", Media.ARRAY, "invalid_json"),
        (b"{}", Media.ARRAY, "invalid_event"),
        (b'[{"type": "t"}', Media.ARRAY, "invalid_json"),
        (b'[{"type": "t"}, NaN]', Media.ARRAY, "invalid_json"),
        (b'[{"type": "t"}, 1e400, "\\ud800"]', Media.ARRAY, "invalid_json"),
        (b"[]", Media.ARRAY, "empty_batch"),
        (b"\n", Media.NDJSON, "empty_batch"),
        (b"[" + b",".join([b"1"] * (BATCH_EVENTS_MAX + 1)) + b"]", Media.ARRAY, "too_many_events"),
        (b"\n".join([b"1"] * (BATCH_EVENTS_MAX + 1)), Media.NDJSON, "too_many_events"),
        (b"[" * 100_000, Media.ARRAY, "too_deep"),
        (b'[{"type": 7}, null]', Media.ARRAY, "invalid_event"),
        (b"{", Media.NDJSON, "invalid_json"),
    ],
)
def test_what_is_refused_whole(body: bytes, media: Media, code: str) -> None:
    """A body that is no batch, and a batch without a good event, are refused."""
    assert refusal_of(body, media).code == code


def test_no_good_event_is_told_by_the_first() -> None:
    """A batch without a good event is refused for its first one."""
    found = refusal_of(b'[{"type": "t", "id": 7}, null]')
    assert (found.code, found.index, found.path) == ("invalid_id", 0, "$[0].id")


def test_cloudevents_are_held_to_their_rules() -> None:
    """In a batch of CloudEvents one that lacks an attribute is rejected."""
    whole = event(1) | {"specversion": "1.0"}
    found = sifted(msgspec.json.encode([whole, event(2)]), Media.CLOUD_BATCH)
    assert ids_of(found) == ["e1"]
    assert found.rejected[1].code == "invalid_attribute"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
names = st.sampled_from(["type", "id", "time", "data", "data_base64", "subject", "x", "_id"])
events = st.dictionaries(names, values | st.just("2026-01-02T03:04:05Z"), max_size=5).map(
    lambda members: members if "_id" in members else {"type": "t", **members}
)


@given(st.lists(events | values, min_size=1, max_size=8))
def test_taken_is_what_is_good_alone(batch: list[Any]) -> None:
    """For any batch: each event is taken or rejected as if it had come alone, doubles apart."""
    texts = [msgspec.json.encode(one) for one in batch]
    expected = {index: code for index, text in enumerate(texts) if (code := alone(text))}
    try:
        found = sifted(msgspec.json.encode(batch))
    except Refusal as refusal:
        assert len(expected) == len(batch)
        assert refusal.code == expected[0]
        return
    told = {index: refusal.code for index, refusal in found.rejected.items()}
    assert {i: code for i, code in told.items() if code != "duplicate_id"} == expected
    assert len(found.decoded.events) == len(batch) - len(told)
    # And what is left is a batch that is taken whole.
    made = build(found.decoded, ObjectId(), NOW, ADMISSION, batch=True)
    encode_carrier(made.documents, batch=True)


@given(st.binary(max_size=80), st.sampled_from([Media.ARRAY, Media.NDJSON, Media.CLOUD_BATCH]))
def test_any_bytes_are_sifted_or_refused(body: bytes, media: Media) -> None:
    """No body raises anything but a Refusal."""
    try:
        sifted(b"[" + body + b"]", media)
        sifted(body, media)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500
