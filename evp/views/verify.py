"""`evp verify` as a person sees it; readable at 60 columns."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from evp.verify.report import Counts, Finding, Report

_FINDINGS_SHOWN = 20


def render(report: Report) -> RenderableType:
    """Return a report."""
    parts: list[RenderableType] = [_verdict(report), _counts(report.counts)]
    if report.log_error is not None:
        parts.append(
            Text(
                f"The log can't be read ({report.log_error}): {report.undecided_frames:,} frames "
                "may be there, or lost. Verify again when it is back.",
                style="yellow",
            )
        )
    elif report.undecided_frames:
        parts.append(
            Text(
                f"{report.undecided_frames:,} frames were changed each time they were looked at. "
                "Verify again.",
                style="yellow",
            )
        )
    if report.acknowledge_error is not None:
        parts.append(Text(f"--acknowledge: {report.acknowledge_error}", style="yellow"))
    told: set[str] = set()
    for finding in report.findings[:_FINDINGS_SHOWN]:
        parts.append(Padding(_finding(finding, report.partitions), (1, 0, 0, 0)))
        if finding.kind not in told:
            told.add(finding.kind)
            parts.append(Padding(Text(finding.meaning), (0, 0, 0, 2)))
    rest = report.findings_total - min(_FINDINGS_SHOWN, len(report.findings))
    if rest > 0:
        parts.append(Text(f"\nand {rest:,} more; --json names the first of them"))
    for finding in report.acknowledged[:_FINDINGS_SHOWN]:
        parts.append(Padding(_finding(finding, report.partitions), (1, 0, 0, 0)))
        if finding.acknowledged is not None:
            known = finding.acknowledged
            parts.append(
                Text(f"  acknowledged at {_moment(known.at)}: {known.reason}", style="yellow")
            )
    rest = report.acknowledged_total - min(_FINDINGS_SHOWN, len(report.acknowledged))
    if rest > 0:
        parts.append(Text(f"\nand {rest:,} more that are acknowledged"))
    return Group(*parts)


def _verdict(report: Report) -> Text:
    where = f"{report.stream}, {report.database}"
    if report.findings_total:
        what = ", ".join(f"{n:,} {kind}" for kind, n in sorted(report.findings_by_kind.items()))
        return Text(f"{where}: {what}", style="bold red")
    if not report.clean:
        return Text(f"{where}: no fault in the store, as far as it could be looked at")
    scope = report.scope
    limits = []
    if scope.since is not None:
        limits.append(f"since {_moment(scope.since)}")
    if scope.sample is not None:
        limits.append(f"ids of {scope.sample:,} frames")
    if report.acknowledged_total:
        limits.append(f"acknowledged: {report.acknowledged_total:,}")
    return Text(f"{where}: clean" + (f" ({', '.join(limits)})" if limits else ""), style="green")


def _counts(counts: Counts) -> Table:
    rows: list[tuple[str, str]] = [
        ("acknowledged", _events(counts.recorded_events, counts.recorded_frames)),
        ("in the store", _events(counts.events, counts.frames)),
        ("  stored", f"{counts.stored:,}"),
        ("  duplicate", f"{counts.duplicate:,}"),
        ("  dead", f"{counts.dead:,}"),
        ("only in the log", _events(counts.in_log_events, counts.in_log_frames)),
        ("ids looked up", f"{counts.ids_checked:,}"),
    ]
    if counts.lost_events or counts.lost_events_at_least:
        rows.insert(6, ("lost", _lost(counts)))
    if counts.external_events:
        rows.insert(2, ("  of other programs", f"{counts.external_events:,}"))
    if counts.expired_frames:
        rows.append(("frames expired", f"{counts.expired_frames:,}"))
    if counts.repaired_frames:
        rows.append(("frames repaired", f"{counts.repaired_frames:,}"))
    if counts.redelivered_frames:
        rows.append(("frames delivered again", f"{counts.redelivered_frames:,}"))
    if counts.documents_scanned:
        rows.append(("documents scanned", f"{counts.documents_scanned:,}"))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def _lost(counts: Counts) -> str:
    if not counts.lost_events:
        return "events, it is not known how many"
    at_least = "at least " if counts.lost_events_at_least else ""
    return f"{at_least}{counts.lost_events:,} events"


def _events(events: int, frames: int) -> str:
    return f"{events:,} events in {frames:,} frames"


def _finding(finding: Finding, partitions: int) -> Text:
    facts = [_place(finding), _size(finding), _time(finding)]
    if finding.frame_id is not None:
        facts.append(f"frame {finding.frame_id}")
    if finding.partition is not None and partitions > 1:
        facts.append(f"partition {finding.partition}")
    if finding.entry_id is not None:
        facts.append(f"entry {finding.entry_id}")
    if finding.dead_letter is not None:
        facts.append(f"dead letter {finding.dead_letter}")
    text = Text(f"{finding.kind}: ", style="bold red")
    text.append(", ".join(filter(None, facts)), style="not bold default")
    for id_ in finding.event_ids:
        text.append(f"\n  {id_}", style="not bold default")
    if finding.event_ids and (finding.events or 0) > len(finding.event_ids):
        text.append("\n  …", style="not bold default")
    return text


def _place(finding: Finding) -> str:
    if finding.srv is None:
        return ""
    numbers = str(finding.first_seq)
    if finding.last_seq != finding.first_seq:
        numbers += f" to {finding.last_seq}"
    return f"epoch {finding.srv}, seq {numbers}"


def _size(finding: Finding) -> str:
    frames = "" if finding.frame_id else f"{finding.frames:,} frames"
    if finding.events is not None:
        events = f"{finding.events:,} events"
    elif finding.events_together is not None:
        events = f"of {finding.events_together:,} events in all such gaps of the epoch"
    else:
        events = "events not known"
    return ", ".join(filter(None, [frames, events]))


def _time(finding: Finding) -> str:
    if finding.after is not None and finding.after == finding.before:
        return f"accepted at {_moment(finding.after)}"
    after = "" if finding.after is None else f"after {_moment(finding.after)}"
    before = "" if finding.before is None else f"before {_moment(finding.before)}"
    return " and ".join(filter(None, [after, before]))


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
