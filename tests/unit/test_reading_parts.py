"""What questions are made of: moments, spans, receipts, cursors; and sharing answers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evp.clock import MS_MAX
from evp.errors import Refusal
from evp.receipt import Receipt
from evp.server.analytics import INTERVALS_MS, span_of
from evp.server.limits import SERIES_POINTS_MAX, SERIES_POINTS_USUAL
from evp.server.queries import moment_ms
from evp.server.receipts import read_cursor, read_receipt, write_cursor
from evp.server.shared import Shared
from evp.server.turns import Turns
from evp.storage.buckets import BUCKET_MS
from evp.storage.listing import Place

NOW_MS = 1_767_323_045_678
MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS


@pytest.mark.parametrize(
    ("text", "wanted_ms"),
    [
        ("now", NOW_MS),
        ("now-90s", NOW_MS - 90_000),
        ("now-2h", NOW_MS - 120 * MINUTE_MS),
        ("now-30d", NOW_MS - 30 * DAY_MS),
        ("1970-01-01T00:00:01.5Z", 1_500),
        ("2026-01-02T04:04:05.678+01:00", NOW_MS),
    ],
)
def test_moments(text: str, wanted_ms: int) -> None:
    """A moment is a time with a zone, now, or so long ago."""
    assert moment_ms("from", text, NOW_MS) == wanted_ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "now+1h", "now-1w", "now-", "now-1.5h", "now-9999999d", "now-99999d"),
        *("2026-01-02", "2026-01-02T03:04:05", "1969-12-31T23:59:59Z", "1767323045678"),
        *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00+00:01"),
        *("2026-01-02T04:04:05 01:00", "10000-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "$gt"),
    ],
)
def test_no_moments(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(Refusal) as caught:
        moment_ms("from", text, NOW_MS)
    assert caught.value.code == "invalid_query"


@given(st.integers(1, 999_999), st.sampled_from("smhd"), st.sampled_from([None, *INTERVALS_MS]))
def test_spans_are_bounded(count: int, unit: str, interval: str | None) -> None:
    """A span has whole steps that cover what was asked for, and no more than are allowed."""
    try:
        first_ms = moment_ms("from", f"now-{count}{unit}", NOW_MS)
        span = span_of(f"now-{count}{unit}", "now", interval, NOW_MS)
    except Refusal as refusal:
        assert refusal.code == "invalid_query"
        return
    assert span.first_ms <= first_ms < NOW_MS <= span.end_ms
    assert span.first_ms % span.step_ms == span.end_ms % span.step_ms == 0
    assert (span.end_ms - span.first_ms) // span.step_ms <= SERIES_POINTS_MAX


@pytest.mark.parametrize(
    ("first", "interval"),
    [("now-1h", "1m"), ("now-24h", "5m"), ("now-7d", "1h"), ("now-30d", "1d")],
)
def test_interval_follows_from_the_span(first: str, interval: str) -> None:
    """Without an interval it is the finest that gives a few hundred steps."""
    span = span_of(first, "now", None, NOW_MS)
    assert span.interval == interval
    assert (span.end_ms - span.first_ms) // span.step_ms <= SERIES_POINTS_USUAL + 1


@pytest.mark.parametrize(
    ("first", "to", "interval"),
    [
        ("now", "now-1h", None),
        ("now", "now", None),
        ("now-3650d", "now", "1m"),
        ("now-3650d", "now", None),
        ("now-1h", "9999-12-31T23:59:59Z", "1d"),
    ],
)
def test_spans_that_make_no_sense(first: str, to: str, interval: str | None) -> None:
    """A span that is empty, the wrong way round, or has too many steps is refused."""
    with pytest.raises(Refusal) as caught:
        span_of(first, to, interval, NOW_MS)
    assert caught.value.code == "invalid_query"


@given(
    st.integers(0, MS_MAX // BUCKET_MS),
    st.binary(min_size=12, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_cursor_comes_back(bucket: int, frame_id: bytes, index: int) -> None:
    """A cursor stands for one place, and needs no quoting in a URL."""
    place = Place(bucket * BUCKET_MS, frame_id, index)
    cursor = write_cursor(place)
    assert read_cursor(cursor) == place
    assert all(char.isalnum() or char in "-_" for char in cursor)


@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """Whatever is sent as a cursor, nothing else happens."""
    try:
        place = read_cursor(text)
    except Refusal as refusal:
        assert refusal.code == "invalid_query"
    else:
        assert 0 <= place.bucket_ms <= MS_MAX


def test_receipts() -> None:
    """A receipt is what the server gave, and nothing else."""
    assert read_receipt("0.1767323045678-3.17") == Receipt("1767323045678-3", 17)
    assert read_receipt(f"0.{2**64 - 1}-{2**64 - 1}.0").entry_id == f"{2**64 - 1}-{2**64 - 1}"
    assert read_receipt("0.01-01.0").entry_id == "1-1"
    assert read_receipt("255.1-1.0") == Receipt("1-1", 0, 255)
    for text in (
        "",
        "256.1-1.1",
        "-1.1-1.1",
        "0.1-1",
        "0.1-1.x",
        "0.1.1",
        "0.$gt-1.1",
        "0.1-1.1 ",
        "0.\u0661-1.1",
        f"0.{2**64}-0.0",
        f"0.0-{2**64}.0",
    ):
        with pytest.raises(Refusal):
            read_receipt(text)


async def test_equal_questions_share_an_answer() -> None:
    """Of many that ask the same at once one does the work; another question is its own."""
    made: list[str] = []
    shared: Shared[str] = Shared(60.0)

    async def make() -> str:
        made.append("made")
        await asyncio.sleep(0)
        return "answer"

    answers = await asyncio.gather(*(shared.get("q", make) for _ in range(20)))
    assert answers == ["answer"] * 20
    await shared.get("q", make)
    assert len(made) == 1
    await shared.get("other", make)
    assert len(made) == 2


async def test_whoever_leaves_takes_nothing_along() -> None:
    """One that is cancelled while it waits does not end the work for the others."""
    shared: Shared[str] = Shared(0.0)
    go_on = asyncio.Event()

    async def make() -> str:
        await go_on.wait()
        return "answer"

    first, second = (asyncio.create_task(shared.get("q", make)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert await second == "answer"


async def test_failure_is_told_to_all_and_not_kept() -> None:
    """Who waits for an answer that fails is told so; the next one tries anew."""
    shared: Shared[str] = Shared(60.0)

    async def fail() -> str:
        await asyncio.sleep(0)
        raise Refusal("too_slow", "it takes too long")

    async def make() -> str:
        return "answer"

    found = await asyncio.gather(*(shared.get("q", fail) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [Refusal] * 3
    assert await shared.get("q", make) == "answer"


async def test_too_many_questions_are_refused() -> None:
    """So many work, so many wait, and the next one is told to come again."""
    turns = Turns(at_once=1, waiting_max=1)
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def ask() -> str:
        async with turns.one():
            inside.set()
            await go_on.wait()
            return "done"

    working, waiting = asyncio.create_task(ask()), asyncio.create_task(ask())
    await inside.wait()
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as caught:
        await ask()
    assert caught.value.code == "server_busy"
    waiting.cancel()
    await asyncio.wait({waiting})
    go_on.set()
    assert await working == "done"
    assert await ask() == "done"
