"""What a body means, or exactly why it means nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.codec import Media, decode
from evp.errors import STATUS_BY_CODE, Refusal
from evp.limits import BATCH_EVENTS_MAX, EVENT_BYTES_MAX
from tests.support.make import event, ndjson


def refusal(body: bytes, media: Media = Media.EVENT) -> Refusal:
    """Return why `body` is refused."""
    with pytest.raises(Refusal) as caught:
        decode(body, media)
    return caught.value


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b'{"type": "a"', "invalid_json"),
        (b'{"type": "a"} {}', "invalid_json"),
        (b'\xef\xbb\xbf{"type": "a"}', "invalid_json"),
        ('{"type": "a"}'.encode("utf-16"), "invalid_json"),
        (b'{"type": "\xff"}', "invalid_utf8"),
        (b'{"type": "a", "data": "\\ud800"}', "invalid_json"),
        (b'{"type": "a", "data": NaN}', "invalid_json"),
        (b'{"type": "a", "data": Infinity}', "invalid_json"),
        (b'{"type": "a", "data": 1e400}', "number_out_of_range"),
        (b'{"type": "a", "data": ' + b"9" * 5000 + b"}", "number_out_of_range"),
        (b'{"type": "a", "data": ' + b"[" * 100_000, "too_deep"),
        (b'"text"', "invalid_event"),
        (b"7", "invalid_event"),
        (b"null", "invalid_event"),
        (b"[]", "empty_batch"),
        (b'[{"type": "a"}]', "invalid_event"),
        (b"{}", "invalid_event"),
        (b'{"type": ""}', "invalid_event"),
        (b'{"type": 7}', "invalid_event"),
        (b'{"type": "a", "id": 7}', "invalid_id"),
        (b'{"type": "a", "id": ""}', "invalid_id"),
        (b'{"type": "a", "subject": {}}', "invalid_attribute"),
        (b'{"type": "a", "_id": "x"}', "invalid_attribute"),
        (b'{"type": "a", "$x": "x"}', "invalid_attribute"),
        (b'{"type": "a", "a.b": "x"}', "invalid_attribute"),
        (b'{"type": "a", "userId": "x"}', "invalid_attribute"),
        (b'{"type": "a", "extra": {}}', "invalid_attribute"),
        (b'{"type": "a", "extra": 2147483648}', "invalid_attribute"),
        (b'{"type": "a", "extra": "' + b"x" * 2001 + b'"}', "invalid_attribute"),
        (b'{"type": "a", "time": "soon"}', "invalid_timestamp"),
        (b'{"type": "a", "time": "0000-01-01T00:00:00Z"}', "invalid_timestamp"),
        (b'{"type": "a", "time": "10000-01-01T00:00:00Z"}', "invalid_timestamp"),
        (b'{"type": "a", "time": 1e18}', "invalid_timestamp"),
        (b'{"type": "a", "time": "2016-12-31T23:59:60Z"}', "invalid_timestamp"),
        (b'{"type": "a", "time": "2026-01-02T03:04:05"}', "invalid_timestamp"),
    ],
)
def test_bad_events(body: bytes, code: str) -> None:
    """Each kind of bad event has its code, alone and within a batch."""
    assert refusal(body).code == code
    if code not in {"empty_batch", "invalid_utf8"} and body not in {b"", b'[{"type": "a"}]'}:
        assert refusal(b"[" + body + b"]", Media.ARRAY).code == code


@pytest.mark.parametrize("media", [Media.ARRAY, Media.NDJSON])
def test_batch_says_which_event_is_wrong(media: Media) -> None:
    """The refusal of a batch names the index of the culprit and the path to it."""
    events = [event(0), event(1, id=["x"])]
    body = msgspec.json.encode(events) if media is Media.ARRAY else ndjson(*events)
    found = refusal(body, media)
    assert (found.code, found.index, found.path) == ("invalid_id", 1, "$[1].id")


def test_ndjson_says_which_line_is_no_json() -> None:
    """One broken line is named; blank lines don't count."""
    found = refusal(b'{"type": "a"}\n\n{"type"\n', Media.NDJSON)
    assert (found.code, found.index) == ("invalid_json", 1)


@pytest.mark.parametrize(
    ("body", "media"),
    [(b"[]", Media.ARRAY), (b"", Media.NDJSON), (b"\n \n", Media.NDJSON), (b"[]", Media.EVENT)],
)
def test_empty_batch(body: bytes, media: Media) -> None:
    """A batch without events is refused."""
    assert refusal(body, media).code == "empty_batch"


@pytest.mark.parametrize("text", [b'{"type":"a"}', b'{"type":"a","extra":1}', b'{"typ":"a"}'])
def test_too_many_events(text: bytes) -> None:
    """A batch above the limit is refused as such, whatever its events are."""
    body = b"[" + b",".join([text] * (BATCH_EVENTS_MAX + 1)) + b"]"
    found = refusal(body, Media.ARRAY)
    assert (found.code, found.status) == ("too_many_events", 413)


def test_one_event_too_large_is_named() -> None:
    """An event above its limit is found in either kind of batch."""
    events = [event(0), event(1, data="x" * EVENT_BYTES_MAX)]
    assert refusal(msgspec.json.encode(events), Media.ARRAY).index == 1
    assert refusal(ndjson(*events), Media.NDJSON).index == 1
    assert refusal(msgspec.json.encode(events[1])).code == "event_too_large"


def test_duplicate_keys_the_last_one_wins() -> None:
    """A key that is there twice has its last value."""
    decoded = decode(b'{"type": "a", "type": "b", "data": {"x": 1, "x": 2}}', Media.EVENT)
    assert decoded.events[0].type == "b"
    assert decoded.events[0].data == {"x": 2}


def test_extension_attributes_are_kept() -> None:
    """Members that follow CloudEvents' rule travel beside the event; null counts as absent."""
    body = b'{"type": "a", "partitionkey": "k", "sampled": true, "weight": 3, "gone": null}'
    decoded = decode(body, Media.EVENT)
    assert decoded.extensions == {0: {"partitionkey": "k", "sampled": True, "weight": 3}}


@pytest.mark.parametrize("depth", [*range(30, 200, 17), *range(200, 3000, 61), 993])
def test_deep_nesting_with_a_large_number(depth: int) -> None:
    """Whatever is found first, the nesting or the number, it is a refusal."""
    data = b"[" * depth + b"1e400" + b"]" * depth
    with pytest.raises(Refusal) as caught:
        decode(b'{"type": "t", "data": %b}' % data, Media.EVENT)
    assert caught.value.code in {"too_deep", "number_out_of_range"}


def test_long_paths_are_cut() -> None:
    """A path in an error is bounded: keys are the client's."""
    body = msgspec.json.encode({"type": "a", "time": {"k" * 5000: 1}})
    found = refusal(body)
    assert found.path is None or len(found.path) <= 300


@given(st.binary(max_size=200), st.sampled_from(Media))
def test_any_bytes_are_decoded_or_refused(body: bytes, media: Media) -> None:
    """No body raises anything but a Refusal with a known code."""
    try:
        decode(body, media)
    except Refusal as found:
        assert found.status == STATUS_BY_CODE[found.code]
        assert 400 <= found.status < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)
members = st.dictionaries(
    st.sampled_from(["type", "id", "time", "timestamp", "source", "data", "subject", "x", "X_"]),
    json_values,
    max_size=6,
)


@given(members)
def test_any_object_is_decoded_or_refused(value: dict[str, Any]) -> None:
    """No JSON object raises anything but a Refusal, whatever its members hold."""
    try:
        decode(msgspec.json.encode(value), Media.EVENT)
    except Refusal as found:
        assert found.status == 422 or found.code == "invalid_json"
