"""`_id` is a published function: the same event always gets the same one."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.identity import TIME_MS_MAX, canonical, event_id, random_event_id
from tests.support.make import event, frame_of

VECTORS = Path(__file__).parents[2] / "docs" / "IDENTITY.md"
_ROW = re.compile(r"^\| `(.*?)` \| `(.*?)` \| (\d+) \| `([0-9a-f-]{36})` \|$", re.MULTILINE)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
times = st.integers(0, TIME_MS_MAX)


def vectors() -> list[tuple[str, str, int, str]]:
    """Return the published table."""
    rows = _ROW.findall(VECTORS.read_text(encoding="utf-8"))
    return [(source, id_, int(time_ms), text) for source, id_, time_ms, text in rows]


def test_there_are_published_vectors() -> None:
    """The table that other implementations check themselves against is there."""
    assert len(vectors()) >= 8


@pytest.mark.parametrize(("source", "id_", "time_ms", "text"), vectors())
def test_vectors(source: str, id_: str, time_ms: int, text: str) -> None:
    """Every row of the published table holds."""
    assert canonical(event_id(source, id_, time_ms)) == text


@given(texts, texts, times)
def test_is_a_version_8_uuid_with_the_time_in_front(source: str, id_: str, time_ms: int) -> None:
    """An id is an RFC 9562 UUID of version 8 whose first 48 bits are the time."""
    made = event_id(source, id_, time_ms)
    parsed = uuid.UUID(bytes=made)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert int.from_bytes(made[:6], "big") == time_ms
    assert canonical(made) == str(parsed)


@given(texts, texts, texts, texts)
def test_two_pairs_never_run_together(source: str, id_: str, source2: str, id2: str) -> None:
    """Different (source, id) have different ids, also where their texts joined are equal."""
    same = (source, id_) == (source2, id2)
    assert (event_id(source, id_, 0) == event_id(source2, id2, 0)) is same


@given(times)
def test_without_an_id_it_is_a_new_version_7_uuid(time_ms: int) -> None:
    """Two events without an id are never the same one."""
    one, other = random_event_id(time_ms), random_event_id(time_ms)
    assert one != other
    assert uuid.UUID(bytes=one).version == 7
    assert one[:6] == other[:6] == time_ms.to_bytes(6, "big")


def test_time_outside_48_bits_is_refused() -> None:
    """A time that doesn't fit raises instead of being cut."""
    with pytest.raises(OverflowError):
        event_id("s", "i", TIME_MS_MAX + 1)


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T03:04:05.678999Z",
        "2026-01-02t03:04:05.678z",
        "2026-01-02T05:04:05.678+02:00",
        "2026-01-01T21:34:05.678-05:30",
    ],
)
def test_notation_of_the_time_does_not_matter(time: str) -> None:
    """The same moment gives the same id in every zone and letter case; the rest is dropped."""
    expected = event_id("test", "e0", 1767323045678)
    assert frame_of(event(0, time=time)).ids == [expected]
    assert frame_of(event(0, time=None, timestamp=time)).ids == [expected]


def test_id_without_time_is_decided_by_the_id_alone() -> None:
    """An event without a time can be sent again later and is still the same one."""
    assert frame_of(event(0, time=None)).ids == [event_id("test", "e0", 0)]
