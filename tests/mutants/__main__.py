"""Plant bugs, one at a time, each in a copy of the project: the tests must notice every one.

    python -m tests.mutants [--only 3 …] [--all] [--json] [--write]

First the tests run on a copy as it is: they must pass. Exit 0 if every bug is caught, 1 if
one survives, or can't be tried; with --all also if a test was skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.mutants.planted import ROOT, Mutant, mutants
from tests.mutants.trial import NotTried, copied, run
from tests.mutants.verdict import Verdict, failing, judge

DOCUMENT = ROOT / "docs" / "GUARANTEES.md"
HEADING = "## Planted bugs\n"
_HEAD = ("| | planted | caught by | after |", "|---|---|---|---|")


class Told(Struct):
    """One line of `--json`'s list: a bug, and what became of it."""

    number: int
    name: str
    planted: str
    is_caught: bool
    after_s: float
    verdict: Verdict


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of bugs")
    parser.add_argument("--all", action="store_true", help="tests that take long as well")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument("--write", action="store_true", help=f"into docs/{DOCUMENT.name}")
    options = parser.parse_args()
    chosen = [one for one in mutants() if not options.only or one.number in options.only]
    if not chosen:
        parser.error("no bug has this number")
    if options.write and (options.only or options.all):
        parser.error("--write takes all bugs, and the quick tests")
    if options.all:
        chosen = [msgspec.structs.replace(one, tests=one.tests + one.also) for one in chosen]
    wrong = without_any(chosen)
    for line in wrong:
        say(f"without any bug: {line}")
    if wrong:
        return 1
    say("without any bug: all pass")
    found = [(one, tried(one)) for one in chosen]
    rows = table(found)
    if options.json:
        told = [
            Told(one.number, one.name, one.planted, v.is_caught, v.after_s, v) for one, v in found
        ]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(told)).decode() + "\n")
    else:
        sys.stdout.write("\n".join([*rows, ""]))
    skipped = [name for _, verdict in found for name in verdict.skipped]
    if not all(verdict.is_caught for _, verdict in found) or (options.all and skipped):
        return 1
    if options.write:
        write(DOCUMENT, rows)
    return 0


def without_any(chosen: Sequence[Mutant]) -> list[str]:
    """Return why the tests can't tell anything: what fails without a bug."""
    tests = list(dict.fromkeys(test for one in chosen for test in one.tests))
    try:
        with copied() as folder:
            return failing(tests, run(folder, tests).phases)
    except NotTried as error:
        return [str(error)]


def tried(mutant: Mutant) -> Verdict:
    """Plant a bug, run the tests that must notice, and say what they said."""
    try:
        with copied(mutant) as folder:
            done = run(folder, mutant.tests, mutant.files)
    except NotTried as error:
        verdict = Verdict(why_not=[str(error)])
    else:
        verdict = judge(mutant.tests, done.phases, done.began_at_s)
    said = f"caught after {verdict.after_s:.1f} s" if verdict.is_caught else "SURVIVED"
    skipped = [f"skipped, so it says nothing: {name}" for name in verdict.skipped]
    say("\n  ".join([f"{mutant.number:02} {mutant.name}: {said}", *verdict.why_not, *skipped]))
    return verdict


def table(found: Sequence[tuple[Mutant, Verdict]]) -> list[str]:
    """Return what became of bugs as lines of Markdown."""
    rows = []
    for mutant, verdict in found:
        names = [f"`{name}`" for name in mutant.tests if name in verdict.caught_after_s]
        by, after = ", ".join(names), f"{verdict.after_s:.1f} s"
        if not verdict.is_caught:
            by, after = f"**survived**: {'; '.join(verdict.why_not) or 'all were skipped'}", ""
        rows.append(f"| {mutant.number} | {mutant.planted} | {by} | {after} |")
    return [*_HEAD, *rows]


def write(document: Path, rows: Sequence[str]) -> None:
    """Put a table in the place of the one that the section of planted bugs has."""
    before, heading, rest = document.read_text(encoding="utf-8").partition(HEADING)
    section, next_, after = rest.partition("\n## ")
    lines = section.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|"))
    others = [line for line in lines if not line.startswith("|")]
    made = "\n".join([*others[:first], *rows, *others[first:]])
    document.write_text(f"{before}{heading}{made}\n{next_}{after}", encoding="utf-8")


def say(text: str) -> None:
    """Tell how far it got, beside the result."""
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
