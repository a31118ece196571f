"""`evp doctor` as a person sees it: the worst first, commands on lines of their own."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.text import Text

from evp.doctor.findings import Finding, Mended, Report
from evp.views.partitions import away_texts
from evp.views.untrusted import printable

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_ADDRESSES = {"log": "EVP_REDIS_URL", "store": "EVP_MONGO_URL"}
_INDENT = "  "


def report_view(report: Report, width: int) -> RenderableType:
    """Return a report, in lines of at most `width`; commands are never broken.

    To be printed without wrapping (`soft_wrap`).
    """
    parts = [_verdict(report, width)]
    for name, why in report.away.items():
        if name in _ADDRESSES:
            text = f"The {name} is away: {why.rstrip('.')}; `evp up` starts one, "
            parts.append(_prose(f"{text}{_ADDRESSES[name]} names another one.", width))
    away = away_texts(_partitions_of(report))
    parts += [_prose(f"{text[0].upper()}{text[1:]}", width) for text in away]
    for mended in report.mended:
        parts += _mended(mended, width)
    for finding in report.findings:
        parts += _finding(finding, width)
    parts += _not_checked(report, width)
    return Group(*parts)


def _verdict(report: Report, width: int) -> Text:
    made = report.checks - len({one.check for one in report.not_checked})
    told = [
        f"{count:,} {severity}{'' if count == 1 else 's'}"
        for severity in _STYLES
        if (count := report.count(severity))
    ]
    worst = next((one for one in ("error", "warning") if report.count(one)), None)
    style = _STYLES[worst] if worst else "" if report.away else "green"
    verdict = ", ".join(told) or ("nothing was found" if report.not_checked else "nothing is wrong")
    text = f"{report.stream}, {report.database}: {verdict} ({made} of {report.checks} checks made)"
    return _prose(text, width, style=style)


def _finding(finding: Finding, width: int) -> list[Text]:
    head = Text(f"\n{finding.severity}: ", style=_STYLES[finding.severity])
    head.append(finding.check, style="bold")
    head.append(f", {printable(finding.where)}" if finding.where else "")
    lines = [
        head,
        _prose(finding.what, width, _INDENT),
        _prose(finding.meaning, width, _INDENT, "dim"),
        _prose(f"{finding.mend}{' (--fix does it)' if finding.fixable else ''}", width, _INDENT),
    ]
    if finding.command:
        lines.append(Text(f"{_INDENT * 2}{printable(finding.command)}", style="bold"))
    return lines


def _mended(mended: Mended, width: int) -> list[Text]:
    lines = [_prose(f"mended {mended.check}: {one}", width, style="green") for one in mended.done]
    if mended.failed is not None:
        text = f"{mended.check} could not be mended: {mended.failed}"
        lines.append(_prose(text, width, style=_STYLES["error"]))
    return lines


def _not_checked(report: Report, width: int) -> list[Text]:
    """Tell once of checks that could not be made for the same reason."""
    by_reason: dict[str, list[str]] = {}
    for one in report.not_checked:
        by_reason.setdefault(one.why, []).append(one.check)
    by_names: dict[str, list[str]] = {}
    for why, names in by_reason.items():
        by_names.setdefault(", ".join(names), []).append(why)
    lines = [] if not by_names else [Text("\nnot checked:", style="bold")]
    lines += [
        _prose(f"{names}: {'; '.join(reasons)}", width, _INDENT)
        for names, reasons in by_names.items()
    ]
    return lines


def _partitions_of(report: Report) -> Iterator[tuple[int, str]]:
    """Give the partitions that are away, each with the reason."""
    for name, why in report.away.items():
        if name not in _ADDRESSES:
            yield int(name.rpartition(" ")[2]), why


def _prose(text: str, width: int, indent: str = "", style: str = "") -> Text:
    lines = wrap(
        printable(text),
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    return Text("\n".join(lines), style=style)
