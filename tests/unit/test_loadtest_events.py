"""The events of load tests: what goes over the wire, and by which ids they are found again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from bson import ObjectId

from evp.clock import from_ms, to_ms
from evp.codec import Media, decode
from evp.documents import Admission, build
from evp.loadtest.events import Bodies, id_of, place_of, source_of, stored_id, templates
from evp.loadtest.plan import Shape
from tests.support.loads import share_of

TIME_MS = 1_767_323_045_678
SHAPES = (Shape(), Shape(types=1, users=1, skew=0, payload_bytes=1), Shape(payload_bytes=5_000))


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a body."""
    found = msgspec.json.decode(body)
    return found if isinstance(found, list) else [found]


def many(shape: Shape) -> list[dict[str, Any]]:
    """Return the made events of a shape."""
    return [event for text in templates(share_of(shape=shape)) for event in events(marked(text))]


def marked(template: bytes) -> bytes:
    """Return a template as JSON."""
    return template.replace(b"\x01", b"1").replace(b"\x02", b"2")


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("shape", SHAPES, ids=range(3))
def test_bodies(batch: int, shape: Shape) -> None:
    """A body is what the server takes; ids are unique, and the time is the one given."""
    bodies = Bodies(share_of(batch=batch, shape=shape))
    seen: set[str] = set()
    for number in (0, 1, 2, 50_000, 123_456_789):
        body = bodies.body(number, TIME_MS + number)
        decoded = decode(body, Media.ARRAY if batch > 1 else Media.EVENT)
        assert len(decoded.events) == batch
        assert {event.source for event in decoded.events} == {source_of("run")}
        assert {event.time for event in decoded.events} == {from_ms(TIME_MS + number)}
        seen |= {event.id for event in decoded.events if event.id}
    assert len(seen) == 5 * batch


def test_sent_again_it_is_the_same() -> None:
    """The same number and time give the same bytes, whatever was made in between."""
    bodies, others = Bodies(share_of()), Bodies(share_of())
    first = bodies.body(3, TIME_MS)
    assert bodies.body(4, TIME_MS + 5_000) != first
    assert bodies.body(3, TIME_MS) == first == others.body(3, TIME_MS)


@pytest.mark.parametrize("admission", [Admission("evp", True), Admission("evp", False)])
def test_known_by_the_id_the_server_makes(admission: Admission) -> None:
    """Whoever knows run, process, request, place and time knows the `_id` in the store."""
    body = Bodies(share_of(batch=5)).body(77, TIME_MS)
    received_at = from_ms(TIME_MS + 1_000)
    built = build(decode(body, Media.ARRAY), ObjectId(), received_at, admission, batch=True)
    time_ms = TIME_MS if admission.time_in_id else 0
    assert built.ids == [stored_id("run", 0, 77, place, time_ms) for place in range(5)]
    assert [to_ms(one["time"]) for one in built.documents] == [TIME_MS] * 5


def test_ids_tell_their_place() -> None:
    """Process, request and place are read back from an id."""
    assert place_of(id_of(3, 12_345, 99)) == (3, 12_345, 99)
    assert id_of(3, 12_345, 99) == "3.12345-99"


def test_as_many_types_and_users_as_wanted() -> None:
    """Types and users are as many as the shape says, and the payload about as large."""
    found = many(Shape(types=12, users=50, skew=0, payload_bytes=300))
    assert len({event["type"] for event in found}) == 12
    assert len({event["subject"] for event in found}) == 50
    assert {len(msgspec.json.encode(event["data"])) for event in found} == {300}


def test_skew() -> None:
    """By Zipf's law the second user has half as many events as the first; without skew as many."""
    for skew, share in ((1.0, 0.5), (2.0, 0.25), (0.0, 1.0)):
        count = Counter(event["subject"] for event in many(Shape(users=100, skew=skew)))
        assert count["user_1"] / count["user_0"] == pytest.approx(share, rel=0.3)


def test_events_of_a_file() -> None:
    """A file's events take turns with all their members; ids, times and sources are the run's."""
    lines = [
        b'{"type":"a","id":"x","time":"2020-01-01T00:00:00Z","source":"s","data":{"id":"\\u0001"}}',
        b'{"type":"b","timestamp":"2020-01-01T00:00:00Z","subject":"u"}',
        b"{}",
    ]
    [first, *_] = map(events, (Bodies(share_of(batch=4, lines=lines)).body(0, TIME_MS),))
    assert [event.get("type") for event in first] == ["a", "b", None, "a"]
    assert first[0]["data"] == {"id": "\x01"}
    assert first[1]["subject"] == "u"
    assert "timestamp" not in first[1]
    assert [event["id"] for event in first] == [id_of(0, 0, place) for place in range(4)]
    assert {event["source"] for event in first} == {source_of("run")}


def test_memory_is_bounded() -> None:
    """Large events are made ahead only as far as they fit; they take turns all the same."""
    shape = Shape(payload_bytes=100_000)
    found = templates(share_of(batch=1, shape=shape))
    assert sum(map(len, found)) < 66 * 1024 * 1024
    body = Bodies(share_of(batch=1, shape=shape)).body(10 * len(found), TIME_MS)
    assert events(body)[0]["id"] == id_of(0, 10 * len(found), 0)
