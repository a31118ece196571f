"""Documents of other programs: read as far as they can be, told apart byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import bson
import msgspec
import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument

from evp.batch.outcome import judge, same_event, summary_of
from evp.batch.raw import as_it_is, depth_of, event_as_json, member, text_of, time_ms_of
from tests.support.frames import document, frame_of_documents

FAR_MS = 1 << 60
"""Behind the last year that a date of Python's can hold."""


def raw(text: bytes = b"hello", **members: Any) -> RawBSONDocument:
    """Return a document with a text and a date; `text` takes the place of five letters."""
    made = bson.encode({"type": "hello", "time": bson.DatetimeMS(FAR_MS), **members})
    return RawBSONDocument(made.replace(b"hello", text))


def test_what_python_can_not_hold_is_read() -> None:
    """A text that is no UTF-8 and a date of a far year have a value."""
    one = as_it_is(raw(b"h\xffllo"))
    assert text_of(one, "type") == "h?llo"
    assert time_ms_of(one, "time") == FAR_MS
    assert (text_of(one, "time"), time_ms_of(one, "type"), text_of(one, "none")) == (None,) * 3
    assert time_ms_of({"time": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)}, "time") == 1000


def test_what_is_no_document_has_no_members() -> None:
    """Bytes that only look like a document don't raise."""
    good = bytes(raw().raw)
    broken = RawBSONDocument(good[:4] + b"\x7f" + good[5:])
    assert member(as_it_is(broken), "type") is None
    assert depth_of(broken) is None


@pytest.mark.parametrize(("data", "depth"), [({}, 1), ({"a": {}}, 2), ({"a": [{"b": []}]}, 4)])
def test_depth(data: dict[str, Any], depth: int) -> None:
    """A document alone is one level; each one in another, and each array, is one more."""
    assert depth_of(RawBSONDocument(bson.encode(data))) == depth


def test_unreadable_texts_are_told_apart() -> None:
    """Two texts that are no UTF-8 are the same only byte for byte."""
    one = raw(b"h\xffllo", received_at=1)
    assert same_event(one, raw(b"h\xffllo", received_at=2))
    assert not same_event(one, raw(b"h\xfello", received_at=1))
    assert not same_event(one, raw(b"h?llo", received_at=1))


def test_summary_counts_what_lacks_everything() -> None:
    """An event without type, source and time is counted, under nothing and when it came."""
    found = summary_of([RawBSONDocument(bson.encode({"_id": 1, "type": 5})), raw()], 120_000)
    assert found.cells == [(2, "", 1), (FAR_MS // 60_000, "hello", 1)]
    assert (found.sources, found.first_ms, found.last_ms) == ({"": 2}, 120_000, FAR_MS)


def test_frame_of_odd_documents_is_judged() -> None:
    """A frame whose documents lack what events have gets its account, however it is judged."""
    frame_id = ObjectId()
    bare = bson.decode(document(0, frame_id))
    documents = [
        bson.encode({"_id": bare["_id"]}),
        document(1, frame_id, type=1, source=None, time="soon"),
        document(2, frame_id),
    ]
    frame = frame_of_documents(frame_id, *documents)
    outcome = judge(frame, {0, 1}, {})
    assert (outcome.stored, outcome.dead) == (2, [2])
    assert sum(cell[2] for cell in outcome.summary.cells) == 2
    again = judge(frame, (), {id_: frame.documents[n] for n, id_ in enumerate(frame.ids[1:], 1)})
    assert (again.stored, again.duplicate, again.dead) == (2, 0, [0])


def test_any_value_has_a_form_in_json() -> None:
    """Bytes are base64, dates RFC 3339, numbers that JSON lacks null; the rest is what it was."""
    made = bson.encode(
        {
            "_id": bson.Binary(bytes(16), 4),
            "frame_id": ObjectId(),
            "type": "t",
            "time": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
            "data": {
                "bytes": b"\xff\x00",
                "nan": float("nan"),
                "far": bson.DatetimeMS(FAR_MS),
                "long": bson.Int64(2**60),
                "regex": bson.Regex("a"),
                "list": [None, True, 1.5],
            },
        }
    )
    found = event_as_json(made)
    assert found["event_id"] == "00000000-0000-0000-0000-000000000000"
    assert (found["specversion"], found["time"]) == ("1.0", "2026-01-02T03:04:05.678Z")
    data = found["data"]
    assert (data["bytes"], data["nan"], data["long"]) == ("/wA=", None, 2**60)
    assert data["list"] == [None, True, 1.5]
    assert "frame_id" not in found
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_bytes_as_data_are_told_as_cloudevents_do() -> None:
    """Data that is bytes is `data_base64`."""
    found = event_as_json(bson.encode({"_id": bson.Binary(bytes(16), 4), "data": b"abc"}))
    assert found["data_base64"] == "YWJj"
    assert "data" not in found
