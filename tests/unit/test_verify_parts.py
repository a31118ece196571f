"""Parts of `evp verify` that need no engine: samples, epochs, the cache of headers, the view."""

from __future__ import annotations

import io
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from rich.console import Console

from evp.limits import CLOCK_SKEW_MS_MAX
from evp.storage.acknowledged import Acknowledgement
from evp.storage.evidence import FrameHeader, StoredEvent, UnreadableEntry
from evp.stream.headers import Header
from evp.verify import documents
from evp.verify.documents import Documents
from evp.verify.epochs import Epochs, Hole
from evp.verify.holes import Known, Part, Spans, counted, lost_events, parts_of
from evp.verify.intervals import Gap
from evp.verify.report import MEANING, Finding, Kind, Report, Scope
from evp.verify.sample import Sample
from evp.views.verify import render

SRV = b"\x01" * 8
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def test_a_sample_is_fair() -> None:
    """Each of ten frames is among three that are drawn about three times out of ten."""
    frame_ids = [ObjectId() for _ in range(10)]
    drawn: Counter[ObjectId] = Counter()
    for _ in range(2000):
        sample = Sample(3)
        sample.offer(frame_ids[:4])
        sample.offer(frame_ids[4:])
        assert len(set(sample.drawn)) == 3
        drawn.update(sample.drawn)
    assert set(drawn) == set(frame_ids)
    assert all(450 < count < 750 for count in drawn.values())


def test_a_sample_of_nothing() -> None:
    """A sample of size 0 draws nothing, and a small run is drawn whole."""
    none, few = Sample(0), Sample(5)
    frame_ids = [ObjectId() for _ in range(3)]
    none.offer(frame_ids)
    few.offer(frame_ids)
    assert (none.drawn, few.drawn) == ([], frame_ids)


def test_what_comes_later_fills_holes_only() -> None:
    """Frames that are seen in a second look make no new holes, whatever their number."""
    epochs = Epochs()
    epochs.record(SRV, 3, 30, None)
    for seq in (1, 5):
        epochs.saw(SRV, seq, 10, seq, early=seq == 1)
    assert [(one.gap.first, one.gap.last) for one in epochs.holes()] == [(2, 3)]
    assert epochs.nowhere_events(SRV, 3) == 20
    epochs.freeze()
    epochs.saw(SRV, 9, 10, 9, early=True)
    epochs.saw(SRV, 2, 10, 2, early=True)
    epochs.saw(SRV, 2, 10, 2, early=True)
    assert [(one.gap.first, one.gap.last) for one in epochs.holes()] == [(3, 3)]
    assert epochs.nowhere_events(SRV, 3) == 10
    epochs.saw(SRV, 3, 10, 3, early=True)
    assert list(epochs.holes()) == []


def test_events_of_several_holes_are_known_together() -> None:
    """How many events each of two holes has can't be told from their sum, which is."""
    epochs = Epochs()
    epochs.record(SRV, 5, 50, None)
    for seq in (1, 3, 5):
        epochs.saw(SRV, seq, 10, seq, early=True)
    parts = [Part(Kind.HOLE, SRV, seq, seq, None, None, None) for seq in (2, 4)]
    assert [(one.gap.first, one.gap.last) for one in epochs.holes()] == [(2, 2), (4, 4)]
    found = counted(parts, epochs.nowhere_events(SRV, 4))
    assert [(one.events, one.events_together) for one in found] == [(None, 20), (None, 20)]
    assert lost_events(found) == (20, True)
    # One that the log still has is not among them, so that all others are known.
    epochs.can_mend(SRV, 7)
    mendable = Part(Kind.ACKED_NOT_STORED, SRV, 2, 2, 7, None, None)
    found = counted([mendable, parts[1]], epochs.nowhere_events(SRV, 4))
    assert [(one.events, one.events_together) for one in found] == [(7, None), (13, None)]
    assert lost_events(found) == (13, True)


def test_events_that_are_not_known() -> None:
    """Of what was not recorded, or lies before the time that is looked at, there is no sum."""
    epochs, part = Epochs(), Part(Kind.HOLE, SRV, 2, 6, None, None, None)
    epochs.record(SRV, 5, 50, None)
    assert (epochs.nowhere_events(SRV, 5), epochs.nowhere_events(SRV, 6)) == (50, None)
    epochs.stood(SRV, 1)
    assert epochs.nowhere_events(SRV, 5) is None
    assert counted([part], None) == [part]
    assert lost_events([part]) == (0, False)


@pytest.mark.parametrize(
    ("records", "expected_ms", "unclear"),
    [
        ([(5, 90)], None, set()),
        ([(5, 100)], None, {SRV}),
        ([(5, None)], None, {SRV}),
        ([(5, None), (5, 90)], None, set()),
        ([(6, 90), (5, 99)], None, set()),
        ([(6, None), (5, 90)], None, {SRV}),
        ([(5, 90), (6, None)], None, {SRV}),
        ([(5, 90)], 100, {SRV}),
        ([(6, None), (5, 90)], 100, {SRV}),
        ([], 100, {SRV}),
    ],
)
def test_which_epochs_ended_before(
    records: list[tuple[int, int | None]], expected_ms: int | None, unclear: set[bytes]
) -> None:
    """An epoch is passed over only if all that is known of it is older, by its largest number."""
    epochs = Epochs()
    for seq, said_ms in records:
        epochs.record(SRV, seq, seq, said_ms)
    if expected_ms is not None:
        epochs.expect(SRV, 7, expected_ms)
    assert epochs.without_beginning(100 + CLOCK_SKEW_MS_MAX) == unclear
    assert {hole.srv for hole in epochs.holes()} == unclear


def acked(seq: int) -> Header:
    """Return an entry of the epoch that is acked, of ten events."""
    return Header(f"{100 + seq}-0", b"f" * 12, SRV, seq, 10, acked=True)


def told(parts: list[Part]) -> list[tuple[str, int, int, int | None]]:
    """Return kind, first and last number, and events of parts."""
    return [(one.kind.value, one.first, one.last, one.events) for one in parts]


def test_parts_of_a_hole() -> None:
    """Each part of a hole has its kind, and what is lost between two marks the time of both."""
    hole = Hole(SRV, Gap(3, 12, 50, 200))
    known = Known(Spans.of([hole]), [UnreadableEntry("letter", "106-0", SRV, 6)])
    for seq in (2, 4, 5, 6, 7, 9, 10, 10, 13):
        known.offer(acked(seq))
    parts = parts_of(hole, known)
    assert told(parts) == [
        ("hole", 3, 3, None),
        ("acked_not_stored", 4, 5, 20),
        ("damaged", 6, 6, None),
        ("acked_not_stored", 7, 7, 10),
        ("hole", 8, 8, None),
        ("acked_not_stored", 9, 10, 20),
        ("hole", 11, 12, None),
    ]
    assert [one.after_ms for one in parts] == [50, 104, 106, 107, 107, 109, 110]
    assert [one.before_ms for one in parts] == [104, 105, 106, 107, 109, 110, 200]
    assert (parts[1].entry_id, parts[2].letter_id) == ("104-0", "letter")
    # The rest was found in the store meanwhile.
    parts = parts_of(Hole(SRV, Gap(10, 11, 50, None)), known)
    assert told(counted(parts, 20)) == [("acked_not_stored", 10, 10, 10), ("hole", 11, 11, 20)]
    parts = parts_of(Hole(SRV, Gap(4, 6, 50, None)), known)
    assert told(counted(parts, 30)) == [("acked_not_stored", 4, 5, 20), ("damaged", 6, 6, 30)]


def test_acked_events_up_to_a_number() -> None:
    """The events of acked frames are told apart at the recorded number, and at the hole's ends."""
    whole, part = Hole(SRV, Gap(3, 12, 50, 200)), Hole(SRV, Gap(5, 8, 50, 200))
    known = Known(Spans.of([whole]), [])
    for seq in (4, 5, 6, 7, 9, 10):
        known.offer(acked(seq))
    assert [known.acked_events(whole, upto) for upto in (0, 4, 6, 8, 9, 99)] == [
        *(0, 10, 30, 40, 50, 60),
    ]
    assert [known.acked_events(part, upto) for upto in (4, 5, 99)] == [0, 10, 30]


def test_one_letter_of_several_is_told() -> None:
    """A damaged frame is the same finding in whatever order its dead letters are read."""
    hole = Hole(SRV, Gap(6, 6, 50, 200))
    letters = [UnreadableEntry(letter, f"{letter}-0", SRV, 6) for letter in ("12", "11", "13")]
    for order in (letters, letters[::-1]):
        [part] = parts_of(hole, Known(Spans.of([hole]), order))
        assert (part.kind, part.letter_id, part.entry_id) == (Kind.DAMAGED, "11", "11-0")


@pytest.mark.parametrize(("damaged", "good"), [(300, 0), (0, 300), (150, 150)])
def test_each_of_many_holes_gets_what_lies_in_it(damaged: int, good: int) -> None:
    """Of all that is known of an epoch, a hole is told what lies between its numbers."""
    count = damaged + good
    holes = [Hole(SRV, Gap(seq, seq, 50, 200)) for seq in range(2, 2 * count + 2, 2)]
    letters = [
        UnreadableEntry(f"{hole.gap.first}", "106-0", SRV, hole.gap.first)
        for hole in holes[:damaged]
    ]
    known = Known(Spans.of(holes), reversed(letters))
    for hole in holes[damaged:]:
        known.offer(acked(hole.gap.first))
    parts = [part for hole in holes for part in parts_of(hole, known)]
    assert [one.first for one in parts] == [hole.gap.first for hole in holes]
    kinds = Counter(one.kind for one in parts)
    assert (kinds[Kind.DAMAGED], kinds[Kind.ACKED_NOT_STORED]) == (damaged, good)


def test_mendable_events_are_no_losses() -> None:
    """What is lost is told by epoch, and of none it is less than nothing."""
    epochs, other = Epochs(), b"\x02" * 8
    epochs.record(SRV, 3, 30, None)
    epochs.record(other, 3, 30, None)
    epochs.saw(SRV, 1, 10, 1, early=True)
    epochs.saw(SRV, 9, 10, 1, early=True)
    assert epochs.lost_events == 50
    epochs.can_mend(SRV, 15)
    assert epochs.lost_events == 35
    epochs.can_mend(SRV, 15)
    assert epochs.lost_events == 30
    assert [epochs.recorded_upto(srv) for srv in (SRV, other, b"nobody__")] == [3, 3, 0]


async def test_headers_at_hand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of documents whose frames alternate keeps no more headers than it may."""
    monkeypatch.setattr(documents, "VERIFY_HEADERS_BYTES_MAX", 10 * 516)
    headers = {
        frame_id: FrameHeader(frame_id, SRV, 1, 1, "1-0", False, False, frame_id.binary + b"0000")
        for frame_id in (ObjectId() for _ in range(40))
    }

    async def frames_by_id(_db: Any, frame_ids: list[ObjectId]) -> dict[ObjectId, FrameHeader]:
        return {one: headers[one] for one in frame_ids}

    monkeypatch.setattr(documents, "frames_by_id", frames_by_id)
    scan = Documents(db=None)  # type: ignore[arg-type]  # nothing is asked of it
    page = [StoredEvent(one.ids, one.frame_id) for one in headers.values()]
    for _ in range(2):
        assert await scan.strangers(page) == []
        assert len(scan._headers) == 10
        assert scan._bytes == 10 * 516


async def test_unknown_frames_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that stay unknown are asked for again and again, and cost what they cost once."""

    async def frames_by_id(_db: Any, frame_ids: list[ObjectId]) -> dict[ObjectId, FrameHeader]:
        return {}

    monkeypatch.setattr(documents, "frames_by_id", frames_by_id)
    scan = Documents(db=None)  # type: ignore[arg-type]  # nothing is asked of it
    page = [StoredEvent(number, ObjectId()) for number in range(3)]
    for _ in range(5):
        assert len(await scan.strangers(page)) == 3
    assert scan._bytes == 3 * 500


def shown(report: Report, width: int) -> str:
    """Return a report as it is shown, without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def a_report(*findings: Finding, **facts: Any) -> Report:
    """Return a report of these findings."""
    report = Report(stream="evp:events", database="evp", scope=Scope(), began_at=AT, **facts)
    for finding in findings:
        report.add(finding)
    return report


def test_every_kind_is_told_at_any_width() -> None:
    """Each kind is shown with its meaning, once, and fits 60 columns."""
    several = [
        Finding(
            kind=kind,
            key="",
            meaning=MEANING[kind],
            srv=SRV.hex(),
            first_seq=3,
            last_seq=5,
            frames=3,
            events=None if kind is Kind.HOLE else 30,
            frame_id=None if kind is Kind.HOLE else str(ObjectId()),
            entry_id="1767323045678-0",
            event_ids=["018f4e2a-0000-8000-8000-000000000000"],
            after=AT,
            before=None,
            dead_letter="abc",
        )
        for kind in (*Kind, Kind.HOLE)
    ]
    text = shown(a_report(*several), 60)
    assert max(map(len, text.splitlines())) <= 60
    flat = " ".join(text.split())
    assert set(MEANING) == set(Kind)
    for kind, meaning in MEANING.items():
        assert f"{kind}: " in text
        assert flat.count(meaning) == 1
    assert "seq 3 to 5" in flat
    assert "after 2026-01-02T03:04:05.678Z" in flat
    assert "2 hole" in text


def test_sums_of_what_is_lost_are_told() -> None:
    """Where only the sum of several holes is known that is told, and what is lost in all."""
    hole = Finding(kind=Kind.HOLE, key="", meaning="", srv="01", events_together=1200)
    report = a_report(hole)
    report.counts.lost_events = 1234
    text = " ".join(shown(report, 80).split())
    assert "1 frames, of 1,200 events in all such gaps of the epoch" in text
    assert "lost 1,234 events" in text
    assert "lost" not in shown(a_report(), 80)
    # Where of some hole nothing is known, the sum of the others is not all.
    report.counts.lost_events_at_least = True
    assert "lost at least 1,234 events" in " ".join(shown(report, 80).split())
    report.counts.lost_events = 0
    assert "lost events, it is not known how many" in " ".join(shown(report, 80).split())


def test_more_findings_than_fit() -> None:
    """Of very many findings the first are shown, and the rest is counted."""
    one = Finding(kind=Kind.HOLE, key="", meaning=MEANING[Kind.HOLE], events=1)
    report = a_report(*[one] * 1500)
    assert (report.findings_total, len(report.findings)) == (1500, 1000)
    assert "and 1,480 more" in shown(report, 80)


def test_acknowledged_findings_are_told_apart() -> None:
    """What is acknowledged is listed with its reason, and the verdict is clean."""
    known = Acknowledgement("the failover of January", AT)
    one = Finding(kind=Kind.HOLE, key="", meaning=MEANING[Kind.HOLE], acknowledged=known)
    report = a_report(*[one] * 30, clean=True)
    text = shown(report, 80)
    assert "clean (acknowledged: 30)" in text
    assert text.count("2026-01-02T03:04:05.678Z: the failover of January") == 20
    assert "and 10 more that are acknowledged" in text
    assert (report.exit_code, report.findings_total) == (0, 0)


def test_scope_and_log_are_told() -> None:
    """A clean report says of what; one without a log says that it is none."""
    report = a_report(clean=True)
    report.scope = Scope(since=AT, sample=5)
    assert "clean (since 2026-01-02T03:04:05.678Z, ids of 5 frames)" in shown(report, 100)
    report = a_report(log_error="no answer", undecided_frames=7)
    text = " ".join(shown(report, 80).split())
    assert "no fault in the store" in text
    assert "The log can't be read (no answer): 7 frames may be there, or lost" in text
    assert report.exit_code == 3
    report = a_report(undecided_frames=7)
    assert "7 frames were changed each time they were looked at" in shown(report, 80)
    assert report.exit_code == 3
    why = "nothing is acknowledged: there are more than 10,000 findings"
    report = a_report(acknowledge_error=why)
    assert f"--acknowledge: {why}" in shown(report, 80)
    assert report.exit_code == 3


def test_the_partition_is_told_where_there_are_several() -> None:
    """A finding names its partition, unless there is but one."""
    finding = Finding(kind=Kind.HOLE, key="", meaning="m", srv="01", partition=1, entry_id="1-0")
    assert "partition 1, entry 1-0" in shown(a_report(finding, partitions=2), 100)
    assert "partition" not in shown(a_report(finding), 100)
