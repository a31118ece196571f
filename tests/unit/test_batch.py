"""Rules about batches: how much to read, how long to wait, what became of each event."""

from __future__ import annotations

import random
import time
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st

from evp.batch.outcome import Outcome, judge, same_event
from evp.batch.policy import ReadSize
from evp.batch.retry import Backoff
from evp.frame import Frame
from evp.limits import READ_BYTES_TARGET, READ_FRAMES_MAX
from tests.support.make import event, frame_of


def stored(frame: Frame, *indexes: int) -> dict[bytes, Any]:
    """Return documents of a frame as a look-up in the store finds them."""
    return {frame.ids[index]: bson.decode(frame.documents[index].raw) for index in indexes}


def account(outcome: Outcome) -> tuple[int, int, list[int]]:
    """Return stored, duplicate, dead."""
    return outcome.stored, outcome.duplicate, outcome.dead


def test_all_inserted() -> None:
    """Without a failure everything is stored and the summary is the door's."""
    frame = frame_of(event(0), event(1))
    outcome = judge(frame, range(2), {})
    assert account(outcome) == (2, 0, [])
    assert outcome.summary is frame.summary


def test_redelivered_frame_finds_its_own_documents() -> None:
    """Written before and delivered again: the same account as the first time."""
    frame = frame_of(event(0), event(1))
    assert account(judge(frame, (), stored(frame, 0, 1))) == (2, 0, [])


def test_another_frame_has_it() -> None:
    """An event that an earlier frame stored is a duplicate and leaves the summary."""
    earlier = frame_of(event(1))
    frame = frame_of(event(0), event(1, traceparent="00-retry"), event(2, source="s2"))
    outcome = judge(frame, {0, 2}, stored(earlier, 0))
    assert account(outcome) == (2, 1, [])
    assert outcome.summary.sources == {"test": 1, "s2": 1}
    assert sum(cell[2] for cell in outcome.summary.cells) == 2


def test_summary_made_by_a_worker_is_the_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a summary counts the same minutes, whatever zone the machine is set to."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        frame = frame_of(event(0), event(1))
        outcome = judge(frame, {0}, stored(frame_of(event(1)), 0))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert outcome.summary == frame_of(event(0)).summary


def test_another_event_has_its_id() -> None:
    """The same identity with another content is dead, not a duplicate."""
    earlier = frame_of(event(1, data={"other": True}))
    frame = frame_of(event(0), event(1))
    assert account(judge(frame, {0}, stored(earlier, 0))) == (1, 0, [1])


def test_refused_and_not_there_is_dead() -> None:
    """What was refused is dead, unless the store has it by now."""
    frame = frame_of(event(0), event(1))
    assert account(judge(frame, {0}, {})) == (1, 0, [1])
    assert account(judge(frame, {0}, stored(frame, 1))) == (2, 0, [])


@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_every_event_is_counted_once(mine: set[int], others: set[int], wrong: set[int]) -> None:
    """Stored + duplicate + dead is the frame's count, whoever inserted what before."""
    frame = frame_of(*(event(number) for number in range(6)))
    elsewhere = frame_of(*(event(number) for number in range(6)))
    conflicting = frame_of(*(event(number, data="x") for number in range(6)))
    found = stored(conflicting, *wrong) | stored(elsewhere, *others) | stored(frame, *mine)
    outcome = judge(frame, (), found)
    assert outcome.stored == len(mine)
    assert outcome.duplicate == len(others - mine)
    assert outcome.count == 6


def test_comparing_events() -> None:
    """Type, subject, data and dataschema decide, whatever the order of keys."""
    one = {"type": "t", "data": {"a": 1, "b": [1, {"c": None}]}, "received_at": 1}
    same = {"data": {"b": [1, {"c": None}], "a": 1}, "type": "t", "received_at": 2, "source": "s"}
    assert same_event(one, same)
    for other in (
        one | {"type": "u"},
        one | {"subject": "s"},
        one | {"data": {"a": True, "b": [1, {"c": None}]}},
        one | {"data": {"a": 1, "b": [1, {"c": 0}]}},
        one | {"data": {"a": 1, "b": [1]}},
        one | {"data": None},
        {"type": "t"},
    ):
        assert not same_event(one, other)
    raw = RawBSONDocument(bson.encode({"type": "t", "data": {"a": [1.5]}}))
    assert same_event(raw, {"type": "t", "data": {"a": [1.5]}})


def test_read_size_begins_carefully_and_learns() -> None:
    """The first read asks for one frame; then as many as make a batch."""
    size = ReadSize(1000)
    assert size.frames() == 1
    size.saw(100, 30_000)
    assert size.frames() == 10
    for _ in range(100):
        size.saw(1, 300)
    assert size.frames() > 900


def test_read_size_is_bounded_by_bytes_and_count() -> None:
    """Large frames are read one by one, tiny ones not without limit."""
    large, tiny = ReadSize(100_000), ReadSize(100_000)
    large.saw(10, READ_BYTES_TARGET)
    tiny.saw(1, 10)
    assert large.frames() == 1
    assert tiny.frames() == READ_FRAMES_MAX
    assert ReadSize(1000, 7).frames() == 7


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 40))
def test_portions_are_bounded(counts: list[int], target: int) -> None:
    """A portion is within the target, or one frame; no frame is lost, and their order stays."""
    frames = [
        frame_of(*(event(number) for number in range(count)), entry_id=f"{place}-0")
        for place, count in enumerate(counts)
    ]
    portions = list(ReadSize(target).portions(frames))
    assert [frame for portion in portions for frame in portion] == frames
    for portion in portions:
        assert portion
        assert len(portion) == 1 or sum(frame.count for frame in portion) <= target


@given(st.integers(0, 200))
def test_waits_double_up_to_a_bound(attempts: int) -> None:
    """Each wait is drawn evenly below a bound that doubles and then stays."""
    backoff = Backoff(0.1, 5.0, draw=lambda: 1.0)
    waits = [backoff.next_s() for _ in range(attempts + 1)]
    assert waits[-1] == min(0.1 * 2**attempts, 5.0)
    backoff.reset()
    assert backoff.next_s() == 0.1
    drawn = Backoff(0.1, 5.0, draw=random.Random(1).random)
    assert all(0 <= drawn.next_s() < 5.0 for _ in range(50))
