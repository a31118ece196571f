"""Entries that other programs wrote into the log."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.clock import from_ms
from evp.errors import CorruptFrame, FrameError, UnknownFrameVersion
from evp.identity import event_id
from evp.limits import EVENT_BYTES_MAX
from evp.plain import payload_of, read_entry
from tests.support.make import ADMISSION, SRV, event, join, open_frame

ENTRY = "1767323045678-3"


def document_of(fields: dict[bytes, bytes]) -> dict[str, Any]:
    """Return the one document of a plain entry."""
    [raw] = read_entry("s", ENTRY, fields, ADMISSION).documents
    return bson.decode(raw.raw)


def test_frame_is_read_as_a_frame() -> None:
    """An entry with a version is evp's own."""
    fields = open_frame(event(0)).fields(SRV, 7)
    frame = read_entry("s", ENTRY, fields, ADMISSION)
    assert (frame.seq, frame.external) == (7, False)


def test_unknown_version_is_no_corruption() -> None:
    """What a newer evp wrote must stay pending, so it has an error of its own."""
    fields = open_frame(event(0)).fields(SRV, 1) | {b"v": b"2"}
    with pytest.raises(UnknownFrameVersion):
        read_entry("s", ENTRY, fields, ADMISSION)


@pytest.mark.parametrize("bits", [0x01, 0x41, 0x80])
def test_no_flipped_byte_of_an_entry_makes_an_event(bits: int) -> None:
    """A damaged byte anywhere in a frame's entry, names and version too, is never taken as read."""
    frames = [open_frame(event(0)), open_frame(*(event(n, data={"t": "é"}) for n in range(3)))]
    join(frames[1], [event(4)])
    for frame in frames:
        items = [item for pair in frame.fields(SRV, 7).items() for item in pair]
        for number, item in enumerate(items):
            for place in range(len(item)):
                damaged = item[:place] + bytes((item[place] ^ bits,)) + item[place + 1 :]
                flat = [*items[:number], damaged, *items[number + 1 :]]
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                with pytest.raises((CorruptFrame, UnknownFrameVersion)):
                    read_entry("s", ENTRY, fields, ADMISSION)


def test_plain_entry_is_one_event() -> None:
    """Attributes are text, data is JSON; the event counts as external."""
    fields = {b"type": b"t", b"source": b"s1", b"data": b'{"a": [1, 2.5, null]}'}
    frame = read_entry("s", ENTRY, fields, ADMISSION)
    assert (frame.count, frame.external, frame.srv) == (1, True, b"")
    document = document_of(fields)
    assert document["type"] == "t"
    assert document["data"] == {"a": [1, 2.5, None]}


def test_every_delivery_finds_the_same_ids() -> None:
    """Ids of a plain entry follow from stream, entry id and payload alone."""
    fields = {b"type": b"t", b"data": b"1"}
    one, same = (read_entry("s", ENTRY, fields, ADMISSION) for _ in range(2))
    assert (one.frame_id, one.ids) == (same.frame_id, same.ids)
    for other in (
        read_entry("s2", ENTRY, fields, ADMISSION),
        read_entry("s", "1767323045678-4", fields, ADMISSION),
        read_entry("s", ENTRY, {b"type": b"t", b"data": b"2"}, ADMISSION),
    ):
        assert other.frame_id != one.frame_id
        assert other.ids != one.ids


def test_its_own_id_is_used() -> None:
    """A plain entry with an id has the identity it would have had over HTTP."""
    frame = read_entry("s", ENTRY, {b"type": b"t", b"id": b"7"}, ADMISSION)
    assert frame.ids == [event_id("evp", "7", 0)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({b"data": b"1"}, "invalid_event"),
        ({b"type": b"t", b"data": b"{"}, "invalid_json"),
        ({b"type": b"t", b"data": b"\xff"}, "invalid_json"),
        ({b"type": b"\xff"}, "invalid_utf8"),
        ({b"type": b"t", b"User": b"u"}, "invalid_attribute"),
        ({b"type": b"t", b"time": b"now"}, "invalid_timestamp"),
        ({b"type": b"t", b"data": b'{"a": 9223372036854775808}'}, "number_out_of_range"),
        ({b"type": b"t", b"data": b'"' + b"x" * EVENT_BYTES_MAX + b'"'}, "event_too_large"),
    ],
)
def test_wrong_entries_say_why(fields: dict[bytes, bytes], code: str) -> None:
    """A plain entry that is no event becomes a dead letter with the code of the HTTP table."""
    with pytest.raises(CorruptFrame, match=code):
        read_entry("s", ENTRY, fields, ADMISSION)


@pytest.mark.parametrize("entry_id", ["1700000000000000-0", f"{2**64 - 1}-7"])
def test_entry_ids_of_a_far_future(entry_id: str) -> None:
    """Whoever counts microseconds in an entry id stops no worker: times end with the year 9999."""
    frame = read_entry("s", entry_id, {b"type": b"t", b"id": b"1"}, ADMISSION)
    [document] = frame.documents
    assert from_ms(frame.accepted_ms).year == 9999
    assert document["received_at"].year == 9999


@pytest.mark.parametrize("depth", [33, 500, 990, 2000])
def test_nested_data_is_no_end_of_a_worker(depth: int) -> None:
    """Data that is too deep and holds a number that is too large is refused, at any depth."""
    data = b"[" * depth + b"1e400" + b"]" * depth
    with pytest.raises(CorruptFrame):
        read_entry("s", ENTRY, {b"type": b"t", b"data": data}, ADMISSION)


@given(st.dictionaries(st.binary(max_size=10), st.binary(max_size=30), max_size=5))
def test_any_entry_is_read_or_refused(fields: dict[bytes, bytes]) -> None:
    """No entry raises anything but a FrameError."""
    try:
        read_entry("s", ENTRY, fields, ADMISSION)
    except FrameError as error:
        assert ENTRY in str(error)


def test_payload_tells_fields_apart() -> None:
    """Two different entries never have the same payload."""
    assert payload_of({b"a": b"bc"}) != payload_of({b"ab": b"c"})
