"""Sums over frames, and judging frames by ids: rules without I/O."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from evp.batch.outcome import ERASED, Held, judge_by_ids
from evp.batch.tally import Tally, bounded, quantiles_ms, slot_end_ms
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
        "source_cells": [[minute, "s", count] for minute, count in enumerate(types.values())],
        "first_ms": 0,
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
        for start_ms, cell in part.cells.items():
            joined.add_cell(start_ms, list(cell.types.items()), list(cell.sources.items()))
    assert joined == whole
    parts[0].add(parts[1])
    assert parts[0] == whole
    for names in ("types", "sources"):
        assert sum(getattr(cell, names).total() for cell in whole.cells.values()) == whole.stored
    assert all(start_ms % MINUTE_MS == 0 for start_ms in whole.cells)


def test_what_was_made_without_the_events_was_not_quick() -> None:
    """A provisional outcome counts what is stored and missing, not how long that took."""
    tally = Tally()
    tally.add_outcome(outcome({"a": 2}, provisional=True, missing=[5, 6]))
    assert (tally.stored, tally.missing, tally.took) == (2, 2, Counter())


def test_names_are_bounded() -> None:
    """Of too many names the most frequent stay, and the sum stays what it was."""
    many = Counter({f"n{place}": 1 for place in range(ROLLUP_NAMES_MAX + 10)} | {"top": 50})
    kept = bounded(many)
    assert len(kept) == ROLLUP_NAMES_MAX + 1
    assert (kept["top"], kept[SOURCE_OTHER], sum(kept.values())) == (50, 11, many.total())
    assert bounded(Counter(a=1)) == {"a": 1}


def test_sources_of_one_minute_need_no_cells() -> None:
    """A frame whose events are all of one minute counts its sources there."""
    tally = Tally()
    one = outcome({"a": 2}, first_ms=5 * MINUTE_MS + 1)
    del one["source_cells"]
    tally.add_outcome(one)
    assert tally.cells[5 * MINUTE_MS].sources == Counter(s=2)


@given(st.integers(0, 10_000_000))
def test_slots_are_narrow(took_ms: int) -> None:
    """A slot ends at most a fifth above what it holds, and never below."""
    assert took_ms <= slot_end_ms(took_ms) <= took_ms * 2**0.25


def test_slots_of_clocks_that_disagree() -> None:
    """What took no time, or less, is in the first slot; there is a last one."""
    assert slot_end_ms(-5) == slot_end_ms(0) == 0
    assert slot_end_ms(10**15) == slot_end_ms(10**12)


@given(st.lists(st.integers(0, 100_000), min_size=1))
def test_quantiles_are_never_too_small(took_ms: list[int]) -> None:
    """So many events as a quantile says took no longer, and it is at most a fifth too large."""
    shares = (0.5, 0.9, 0.99, 1.0)
    found = quantiles_ms(Counter(map(slot_end_ms, took_ms)), shares)
    ranked = sorted(took_ms)
    for share, told_ms in zip(shares, found, strict=True):
        exact_ms = ranked[math.ceil(share * len(ranked)) - 1]
        assert exact_ms <= told_ms <= exact_ms * 2**0.25


def test_nothing_has_no_quantiles() -> None:
    """Without events there are none."""
    assert quantiles_ms({}, (0.5,)) == []


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
