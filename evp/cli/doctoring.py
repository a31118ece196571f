"""The parts of `evp doctor`: its progress, its question, its exit code."""

from __future__ import annotations

import sys
from typing import NamedTuple

import typer
from rich.console import Console

from evp.cli.context import run
from evp.cli.output import Output
from evp.doctor.findings import Finding, Mended, Report
from evp.doctor.run import examine, mend
from evp.errors import EXIT_FINDING, EXIT_OK, EXIT_UNAVAILABLE, UsageError
from evp.settings import Settings
from evp.views.doctor import report_view


class Options(NamedTuple):
    """Flags."""

    fix: bool
    yes: bool
    json: bool


def examine_and_tell(settings: Settings, options: Options) -> int:
    """Look, mend if that is wanted and granted, look again, report; return the exit code.

    Raises UsageError if mending is wanted and nobody can be asked.
    """
    if options.fix and not (options.yes or sys.stdin.isatty()):
        raise UsageError("nobody can be asked here: --yes says that --fix is meant")
    report = _examined(settings)
    if options.fix and report.fixable and _granted(report, options):
        mended = _mended(settings, report.fixable)
        report = _examined(settings)
        report.mended = mended
    _tell(report, options)
    if report.away:
        return EXIT_UNAVAILABLE
    return EXIT_OK if report.clean else EXIT_FINDING


def _granted(report: Report, options: Options) -> bool:
    if options.yes:
        return True
    screen = Output(stderr=True)
    screen.print(report_view(report, screen.width), soft_wrap=True)
    names = ", ".join(dict.fromkeys(one.check for one in report.fixable))
    return typer.confirm(f"\nMend {names}?", err=True)


def _examined(settings: Settings) -> Report:
    with Console(stderr=True).status("looking") as status:
        return run(examine(settings, lambda name: status.update(f"looking: {name}")))


def _mended(settings: Settings, found: list[Finding]) -> list[Mended]:
    with Console(stderr=True).status("mending") as status:
        return run(mend(settings, found, lambda name: status.update(f"mending: {name}")))


def _tell(report: Report, options: Options) -> None:
    output = Output()
    if options.json:
        output.say_json({"clean": report.clean, **_fields(report)})
    else:
        output.print(report_view(report, output.width), soft_wrap=True)


def _fields(report: Report) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__struct_fields__}
