"""Metrics: what is counted is what is told, whoever of several processes is asked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser

from evp import clock
from evp.limits import METRICS_PLACE_BYTES
from evp.metrics import board as board_module
from evp.metrics.board import Board, Note, Place, Reading
from evp.metrics.counts import IngestCounts, WorkCounts
from evp.metrics.exporter import Exporter, may_read
from evp.metrics.exposition import readings_of, readings_of_process, told
from evp.metrics.families import FAMILIES, LOG, Values
from evp.metrics.histogram import SECONDS, Histogram
from evp.signals import end
from tests.support.metrics import samples
from tests.support.wait import until

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), max_size=30))
def test_histogram_counts_what_is_at_most_each_end(values: list[tuple[float, int]]) -> None:
    """What is told for an end is how many values are at most that, as Prometheus has it."""
    histogram = Histogram(SECONDS)
    for value, times in values:
        histogram.add(value, times)
    text, _ = told([Note("p", 0.0, list(readings_of({"evp_ingest_seconds": histogram})))], {}, "")
    found = samples(text)
    for most in SECONDS:
        wanted = sum(times for value, times in values if value <= most)
        assert found["evp_ingest_seconds_bucket", str(most), "p"] == wanted
    count = sum(times for _, times in values)
    assert found["evp_ingest_seconds_bucket", "+Inf", "p"] == count
    assert found["evp_ingest_seconds_count", "p"] == count
    total = sum(value * times for value, times in values)
    assert found["evp_ingest_seconds_sum", "p"] == pytest.approx(total)


def test_both_formats_are_well_formed() -> None:
    """Prometheus text and OpenMetrics hold the same, and parse."""
    counts = IngestCounts()
    counts.answered("accepted", 3, 2, 0.004)
    counts.answered("unknown", 1, 1, 3.0)
    note = Note("serve-1", 0.0, [*readings_of(counts.values()), *readings_of_process()])
    log: dict[str, Values] = {
        "0": {"evp_log_up": 1, "evp_stream_lag_events": {'a "group"': 7}},
        "1": {"evp_log_up": 0},
    }
    plain, plain_type = told([note], log, "")
    found = samples(plain)
    assert plain_type.startswith("text/plain")
    assert found["evp_ingest_events_total", "serve-1", "accepted"] == 3
    assert found["evp_ingest_events_total", "serve-1", "unknown"] == 1
    assert found["evp_stream_lag_events", 'a "group"', "0"] == 7
    assert (found["evp_log_up", "0"], found["evp_log_up", "1"]) == (1, 0)
    other, other_type = told([note], log, OPEN_METRICS)
    assert other_type.startswith("application/openmetrics-text")
    parse: Any = parser.text_string_to_metric_families
    names = {family.name for family in parse(other.decode())}
    assert {"evp_ingest_events", "evp_stream_lag_events", "process_cpu_seconds"} <= names


def test_families_are_told_once() -> None:
    """No name is there twice, and each says what it is."""
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert family.help.endswith(".")
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert bool(family.ends) == (family.kind == "histogram")
    assert any(family.told_by == LOG for family in FAMILIES)


def test_dead_letters_begin_at_zero() -> None:
    """Each reason is there from the beginning: a rate needs the 0 before the first one."""
    counts = WorkCounts(["poison"])
    assert counts.values()["evp_dead_letters_total"] == {"poison": 0}


@pytest.fixture
def board() -> Iterator[Board]:
    """A board."""
    with contextlib.closing(Board()) as board:
        yield board


def places(board: Board, *names: str) -> list[Place]:
    """Return the places of processes on a board."""
    return [Place.of_flag(board.place(name)) for name in names]


def test_board_tells_of_the_others(board: Board) -> None:
    """Each reads what the others wrote last, and whoever follows under a name takes its place."""
    first, second, third = places(board, "a", "b", "c")
    assert first.others() == []
    second.write([Reading("x", "", 1.0)])
    third.write([Reading("x", "", 2.0, [1, 2])])
    second.write([Reading("x", "", 3.0)])
    assert [(one.process, one.readings) for one in first.others()] == [
        ("b", [Reading("x", "", 3.0)]),
        ("c", [Reading("x", "", 2.0, [1, 2])]),
    ]
    assert [one.process for one in second.others()] == ["c"]


def test_what_is_torn_or_old_is_left_out(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note that is half written, or of a process that is gone, is not told."""
    first, second, third = places(board, "a", "b", "c")
    second.write([Reading("x", "", 1.0)])
    third.write([Reading("x", "", 1.0)])
    os.pwrite(board.fd, b"\xff", METRICS_PLACE_BYTES + 20)
    assert [one.process for one in first.others()] == ["c"]
    now_s = clock.monotonic_s()
    monkeypatch.setattr(board_module, "monotonic_s", lambda: now_s + 60)
    assert first.others() == []


def test_note_too_large_is_refused(board: Board) -> None:
    """No process writes into the place of another one."""
    first, second = places(board, "a", "b")
    second.write([Reading("x", "", 1.0)])
    with pytest.raises(ValueError, match="too large"):
        first.write([Reading("x" * 100, "", 1.0)] * 1_000)
    assert [one.process for one in first.others()] == ["b"]


async def test_whoever_is_asked_tells_all(board: Board) -> None:
    """Of two processes either tells the numbers of both, each under its name."""
    numbers = {"serve-1": 1, "serve-2": 2}

    async def log() -> dict[str, Values]:
        return {"0": {"evp_log_up": 1}}

    def exporter(place: Place) -> Exporter:
        return Exporter(
            "alone",
            lambda: {"evp_events_stored_total": numbers[place.process]},
            log,
            place,
        )

    pair = places(board, *numbers)
    sharing = [asyncio.create_task(exporter(place).run()) for place in pair]
    for place, other in zip(pair, reversed(pair), strict=True):
        await until(functools.partial(_knows, place, other), what="it has read of the other")
    for place in pair:
        text, _ = await exporter(place).told("")
        found = samples(text)
        for process, number in numbers.items():
            assert found["evp_events_stored_total", process] == number
            assert found["process_resident_memory_bytes", process] > 0
        assert found["evp_log_up", "0"] == 1
    await end(*sharing)


async def test_many_who_ask_share_a_text(board: Board) -> None:
    """However many ask, and whatever they accept, there are two texts a second to make at most."""
    made = itertools.count()
    looks = itertools.count()

    async def log() -> dict[str, Values]:
        return {"0": {"evp_log_up": 1, "evp_stream_lag_events": next(looks)}}

    exporter = Exporter("alone", lambda: {"evp_events_stored_total": next(made)}, log)
    accepted = ["", "*/*", "a", OPEN_METRICS, f"{OPEN_METRICS[:-1]}7", f"{OPEN_METRICS};q=0.5"]
    accepted += [f"{OPEN_METRICS[:-1]}{number}" for number in range(50)]
    told = await asyncio.gather(*(exporter.told(one) for one in accepted))
    assert len(set(told)) == 2
    assert next(made) == next(looks) == 2

    async def is_new() -> bool:
        return await exporter.told("") not in told

    await until(is_new, what="the text is made anew")


async def _knows(place: Place, other: Place) -> bool:
    notes = await asyncio.to_thread(place.others)
    return [one.process for one in notes] == [other.process]


@pytest.mark.parametrize(
    ("token", "given_", "may"),
    [
        (None, None, True),
        (None, "Bearer whatever", True),
        ("secret", None, False),
        ("secret", "secret", False),
        ("secret", "Bearer secre", False),
        ("secret", "Bearer \u20ac", False),
        ("secret", "Bearer secret", True),
    ],
)
def test_token(token: str | None, given_: str | None, may: bool) -> None:  # noqa: FBT001 - a case
    """Where a token is set, only who sends it may read."""
    assert may_read(token, given_) == may
