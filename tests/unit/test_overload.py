"""When a log is full, when it is not any more, and when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.server.limits import BACKLOG_RETRY_S_MAX, DRAIN_WINDOW_S
from evp.server.overload import DrainRate, Overload
from evp.stream.backlog import Backlog, Pin
from evp.stream.memory import Memory

MARK = 1000


def look(
    waiting: int = 0, done: int = 0, group: str = "workers", size_bytes: int | None = None
) -> Backlog:
    """Return a look at a stream: events that wait, and that are done; a byte each."""
    size = waiting if size_bytes is None else size_bytes
    pin = Pin(group, exists=True, age_s=7, events=waiting, size_bytes=size, alone_bytes=0)
    return Backlog(1, 0, waiting + done, done, done, pin)


def test_full_stays_full_until_it_has_drained() -> None:
    """A small log is full at 90 % of its mark, no longer at 80 %; between, it stays as it is."""
    overload = Overload(None)
    seen = []
    for used in (0, 850, 899, 900, 899, 801, 800, 899, 1200):
        overload.note(0, Memory(used, MARK), look(used))
        seen.append(overload.full)
    assert seen == [False, False, False, True, True, True, False, False, True]


def states(*levels: tuple[int, int]) -> list[bool]:
    """Return whether it is full after each look at used memory and what of it waits."""
    overload = Overload(None)
    seen = []
    for used, waiting in levels:
        overload.note(0, Memory(used, MARK), look(waiting))
        seen.append(overload.full)
    return seen


def test_other_things_in_memory_do_not_keep_it_full() -> None:
    """Where other things fill the log above 80 %, it opens again as what waits has drained."""
    assert states((850, 0), (900, 50), (895, 45), (890, 40)) == [False, True, True, False]
    assert states((900, 50), (850, 0), (889, 39)) == [True, False, False]


def test_it_stays_full_where_there_is_no_room() -> None:
    """Where other things alone fill it, no noise opens it, and it says what they are."""
    assert set(states(*[(level, 0) for level in (900, 899, 895, 901, 891) * 3])) == {True}
    overload = Overload(None)
    overload.note(0, Memory(9 * 2**20, 10 * 2**20), look(2**20))
    assert "8.0 MiB of them for other things than what waits" in overload.why()


@given(st.lists(st.tuples(st.integers(0, MARK), st.integers(0, MARK)), max_size=50))
def test_it_does_not_flap(levels: list[tuple[int, int]]) -> None:
    """Between open and full again lies a hundredth of the mark at least, whatever waits."""
    levels = [(used, min(used, waiting)) for used, waiting in levels]
    opened_at = 0
    was_full = False
    for (used, _), full in zip(levels, states(*levels), strict=True):
        if was_full and not full:
            opened_at = used
        if full and not was_full:
            assert used - opened_at >= MARK / 100
        was_full = full


def test_large_log_is_used_up_to_the_mark() -> None:
    """Only what gives no server a whole frame until the next look stays free."""
    overload = Overload(None)
    mark = 10 * 2**30
    for used, full in ((mark - 3 * 2**20, False), (mark - 2 * 2**20, True)):
        overload.note(0, Memory(used, mark), look())
        assert overload.full is full


def test_either_level_is_enough() -> None:
    """Full in events or in memory is full; only both together are drained."""
    overload = Overload(100)
    seen = []
    for used, waiting in ((0, 99), (0, 100), (0, 81), (850, 80), (800, 80), (950, 0), (850, 0)):
        overload.note(0, Memory(used, MARK), look(waiting, size_bytes=used))
        seen.append(overload.full)
    assert seen == [False, True, True, True, False, True, True]


def test_hidden_memory_leaves_the_events() -> None:
    """Where the log hides its memory, or has no limit, the backlog in events decides."""
    overload = Overload(100)
    for memory in (None, Memory(10**12, None)):
        overload.note(0, memory, look(100))
        assert overload.full
        overload.note(0, memory, look(10))
        assert not overload.full


def test_nothing_drains() -> None:
    """Without a group that works, the answer is to come back after the longest time."""
    overload = Overload(None, draw=lambda: 0.9)
    for at_s in range(10):
        overload.note(at_s, Memory(MARK, MARK), look(50))
    assert overload.retry_after_s() == BACKLOG_RETRY_S_MAX


@pytest.mark.parametrize("drawn", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("per_s", [2, 10, 50, 1000])
def test_retry_after_is_what_the_rate_says(per_s: int, drawn: float) -> None:
    """It is the excess over 80 % by the rate, never less, at most half more, within 1 to 300."""
    overload = Overload(None, draw=lambda: drawn)
    for at_s in range(20):
        overload.note(at_s, Memory(MARK, MARK), look(50, per_s * at_s, size_bytes=MARK))
    exact_s = max(1, 0.2 * MARK / per_s)
    assert exact_s <= overload.retry_after_s() <= min(300, 1.5 * exact_s + 1)


def test_rate_that_is_not_known_yet() -> None:
    """Just after the start nobody knows the rate: the answer is to come back when it is known."""
    overload = Overload(None, draw=lambda: 0.0)
    for at_s in (0.0, 0.5):
        overload.note(at_s, Memory(MARK, MARK), look(MARK))
        assert overload.retry_after_s() == DRAIN_WINDOW_S
    overload.note(1.0, Memory(MARK, MARK), look(MARK))
    assert overload.retry_after_s() == BACKLOG_RETRY_S_MAX


@pytest.mark.parametrize("waiting", [0, 500])
def test_request_that_fits_after_the_next_look(waiting: int) -> None:
    """Who only came too soon after others comes back at once, however full the log is."""
    overload = Overload(None, draw=lambda: 0.0)
    for at_s in range(5):
        overload.note(at_s, Memory(850, MARK), look(waiting))
    assert not overload.full
    assert overload.retry_after_s(75) == 1


def test_request_that_is_large_for_what_is_free() -> None:
    """It comes back when so much has drained that it fits; never, where nothing can drain."""
    overload = Overload(None, draw=lambda: 0.0)
    for at_s in range(5):
        overload.note(at_s, Memory(850, MARK), look(500, 10 * at_s))
    # It needs 300 free bytes for its half, 150 more than there are.
    assert overload.retry_after_s(150) == 15
    for at_s in range(5, 15):
        overload.note(at_s, Memory(850, MARK), look(0, 540))
    assert overload.retry_after_s(150) == BACKLOG_RETRY_S_MAX


def test_request_that_never_fits() -> None:
    """Half of what is free of other things is what one request can ever have of one server."""
    overload = Overload(None)
    overload.note(0, Memory(850, MARK), look(450))
    assert [overload.never_fits(size) for size in (300, 301)] == [False, True]
    for hidden in (None, Memory(850, None)):
        overload.note(0, hidden, look(450))
        assert not overload.never_fits(10**9)


def test_rate_is_over_a_window() -> None:
    """What was before the window does not count; a group that begins anew begins a new window."""
    draining = DrainRate()
    assert draining.rate().events_per_s == 0
    for at_s in range(100):
        draining.note(at_s, 10 * at_s, at_s)
    assert draining.rate().events_per_s == 10
    for at_s in range(100, 100 + int(DRAIN_WINDOW_S) + 1):
        draining.note(at_s, 990, 99)
    assert draining.rate().events_per_s == pytest.approx(0, abs=2)
    draining.note(200, 0, 0)
    draining.note(201, 5, 50)
    assert (draining.rate().events_per_s, draining.rate().bytes_per_s) == (5, 50)


def test_who_holds_it_up_is_named() -> None:
    """What is told names levels, marks and the group, with its age."""
    overload = Overload(100)
    overload.note(0, Memory(3 * 2**20, 2 * 2**20), look(123_456, group="reports"))
    told = overload.why()
    for part in ("3.0 MiB", "2.0 MiB", "BACKLOG_MAX is 100", "'reports'", "123,456", "7 s old"):
        assert part in told
    nobody = Pin("", exists=False, age_s=0, events=1, size_bytes=1, alone_bytes=0)
    assert "evp work" in str(nobody)
