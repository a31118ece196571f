"""Sums over frames, and judging frames by ids: rules without I/O."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from evp.batch.outcome import ERASED, Held, judge_by_ids
from evp.batch.tally import Tally, bounded, slot_of
from evp.clock import from_ms
from evp.frame import MINUTE_MS, SOURCE_OTHER
from evp.limits import ROLLUP_NAMES_MAX

MINE, OTHER = ObjectId(), ObjectId()
ID = b"i" * 16

counts = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)


def outcome(types: dict[str, int], took_ms: int = 7, **more: Any) -> dict[str, Any]:
    """Return an outcome as it stands in the store."""
    return {
        "stored": sum(types.values()),
        "duplicate": 1,
        "dead": [3],
        "cells": [[minute, type_, count] for minute, (type_, count) in enumerate(types.items())],
        "sources": [["s", sum(types.values())]],
        "accepted_at": from_ms(1_000),
        "settled_at": from_ms(1_000 + took_ms),
    } | more


@given(st.lists(counts, max_size=6), st.integers(0, 6))
def test_sums_of_sums_are_sums(frames: list[dict[str, int]], split: int) -> None:
    """A tally made from accounts and cells of two others is that of all their frames."""
    whole, parts, joined = Tally(), [Tally(), Tally()], Tally()
    for place, types in enumerate(frames):
        whole.add_outcome(outcome(types))
        parts[place < split].add_outcome(outcome(types))
    for part in parts:
        joined.add_account(part.account())
        for start_ms, types in part.cells.items():
            joined.add_cell(start_ms, list(types.items()))
    assert joined == whole
    assert sum(cell.total() for cell in whole.cells.values()) == whole.stored
    assert all(start_ms % MINUTE_MS == 0 for start_ms in whole.cells)


def test_what_was_made_without_the_events_was_not_quick() -> None:
    """A provisional outcome counts what is stored and missing, not how long that took."""
    tally = Tally()
    tally.add_outcome(outcome({"a": 2}, provisional=True, missing=[5, 6]))
    assert (tally.stored, tally.missing, tally.latency) == (2, 2, Counter())


def test_names_are_bounded() -> None:
    """Of too many names the most frequent stay, and the sum stays what it was."""
    many = Counter({f"n{place}": 1 for place in range(ROLLUP_NAMES_MAX + 10)} | {"top": 50})
    kept = bounded(many)
    assert len(kept) == ROLLUP_NAMES_MAX + 1
    assert (kept["top"], kept[SOURCE_OTHER], sum(kept.values())) == (50, 11, many.total())
    assert bounded(Counter(a=1)) == {"a": 1}


@given(st.integers(1, 10_000_000))
def test_slots_are_narrow(took_ms: int) -> None:
    """Two slots a doubling: a slot's upper end is at most √2 times what it holds."""
    assert took_ms * 0.999 <= 2 ** (slot_of(took_ms) / 2) <= took_ms * 2**0.5 * 1.001


def test_slots_of_clocks_that_disagree() -> None:
    """What took no time, or less, is in the first slot; there is a last one."""
    assert slot_of(-5) == slot_of(0) == 0
    assert slot_of(10**15) == slot_of(10**12)


def document(frame_id: ObjectId, data: Any = 1, **more: Any) -> dict[str, Any]:
    """Return an event as it stands in the store."""
    kept = {"frame_id": frame_id, "type": "t", "source": "s", "time": from_ms(0)}
    return kept | {"data": data} | more


@pytest.mark.parametrize(
    ("stored", "letter", "listed", "account"),
    [
        (None, None, None, (0, 0, [], [0])),
        (None, 1, None, (0, 0, [0], [])),
        (None, None, {0}, (0, 0, [0], [])),
        (None, 1, set(), (0, 0, [0], [])),
        (document(MINE), None, None, (1, 0, [], [])),
        (document(OTHER), None, None, (0, 1, [], [])),
        (document(OTHER), 1, {0}, (0, 1, [], [])),
        (document(OTHER), 2, {0}, (0, 0, [0], [])),
        (document(OTHER), 2, None, (0, 0, [0], [])),
        (document(OTHER), 2, set(), (0, 1, [], [])),
        (document(OTHER), None, {0}, (0, 0, [0], [])),
        (document(OTHER, **{ERASED: from_ms(0)}), 2, {0}, (0, 1, [], [])),
        (document(MINE, 3), 2, {0}, (1, 0, [], [])),
    ],
)
def test_frame_is_judged_by_ids(
    stored: dict[str, Any] | None,
    letter: int | None,
    listed: set[int] | None,
    account: tuple[int, int, list[int], list[int]],
) -> None:
    """What the store has, a dead letter and the account so far decide what becomes of an event."""
    letters = {} if letter is None else {0: {"event": document(MINE, letter)}}
    found = {} if stored is None else {ID: stored}
    one = judge_by_ids(Held(MINE, [ID], 0), found, letters, listed)
    assert (one.stored, one.duplicate, one.dead, one.missing) == account
    assert one.count == 1
