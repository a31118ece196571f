"""What the documents say is what the code does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evp import errors, limits
from evp.batch.outcome import ID_CONFLICT
from evp.cli.context import EXIT_INTERRUPTED
from evp.doctor.checks import CHECKS
from evp.limits import KIB, MIB
from evp.server import limits as server_limits
from evp.settings import ROWS, Row
from evp.storage import failures
from evp.storage.dead_letters import REASONS
from evp.storage.failures import UNIQUE_CONFLICT
from evp.storage.isolation import POISON
from tests.tidy.named import COMMANDS
from tests.tidy.source import ROOT, text_files

DOCS = ROOT / "docs"
PAGES = [path for path in text_files() if path.suffix == ".md"]

BOUNDS = {
    "request_timeout": f"{server_limits.REQUEST_READ_S_MAX} seconds",
    "body_too_large": f"{server_limits.SINGLE_BODY_BYTES_MAX // MIB} MiB, "
    f"or {limits.BATCH_BODY_BYTES_MAX // MIB} MiB for a batch",
    "event_too_large": f"{limits.EVENT_BYTES_MAX // KIB} KiB",
    "too_many_events": f"{limits.BATCH_EVENTS_MAX:,} events",
    "invalid_id": f"{limits.ID_BYTES_MAX} bytes",
    "timestamp_out_of_range": f"{limits.TIME_AHEAD_MS_MAX // 3_600_000} hours",
    "too_deep": f"{limits.NESTING_MAX} levels",
    "too_many_fields": f"{limits.EVENT_KEYS_MAX:,} keys, "
    f"or a key of more than {limits.KEY_BYTES_MAX} bytes",
    "too_many_logins": f"{server_limits.LOGIN_TRIES_MAX} tries in "
    f"{server_limits.LOGIN_WINDOW_S} seconds",
    "invalid_query": f"{server_limits.SERIES_POINTS_MAX:,} steps",
    "too_slow": f"{server_limits.READ_S_MAX:g} seconds",
    "headers_too_large": f"{server_limits.HEADER_BYTES_MAX // KIB} KiB",
}
"""What docs/ERRORS.md says about the limits behind a code."""

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def read(path: Path) -> str:
    """Return a document."""
    return path.read_text(encoding="utf-8")


def table(text: str) -> Iterator[list[str]]:
    """Return the rows of all tables in a document, as cells."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def anchors(text: str) -> set[str]:
    """Return what links can point at in a document, as GitHub names it."""
    headings = _HEADING.findall(_FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_generated_parts_are_new(tmp_path: Path) -> None:
    """`make docs` would change nothing, on whatever terminal it runs."""
    for name in ("SETTINGS.md", "CLI.md", "METRICS.md"):
        shutil.copy(DOCS / name, tmp_path)
    odd = {"COLUMNS": "40", "TERMINAL_WIDTH": "50", "FORCE_COLOR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "docs.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | odd)
    for made in tmp_path.iterdir():
        assert read(made) == read(DOCS / made.name), f"{made.name} is old: run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_flag_has_help(name: str) -> None:
    """A command and each of its flags say what they do, and stand in docs/CLI.md."""
    command = COMMANDS[name]
    assert command.help
    _, heading, section = read(DOCS / "CLI.md").partition(f"## `{name}`\n")
    assert heading
    told = section.partition("\n## ")[0]
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            assert parameter.help, parameter.name
            for flag in parameter.opts:
                assert re.search(rf"^ .*{re.escape(flag)}\b", told, re.MULTILINE), flag


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_setting_is_documented(row: Row) -> None:
    """A setting stands in docs/SETTINGS.md: key, other names, default, purpose, what is wanted."""
    found = [cells for cells in table(read(DOCS / "SETTINGS.md")) if cells[0] == f"`{row.key}`"]
    assert len(found) == 1
    _, also, default, *told = found[0]
    assert re.findall(r"`(.+?)`", also) == list(row.also)
    assert default.strip("`") == row.default
    assert told == [row.purpose, row.wanted]
    assert row.purpose
    assert row.wanted


def test_every_reason_of_a_dead_letter_is_documented() -> None:
    """docs/ARCHITECTURE.md has each reason with its cause and its mend, and no other."""
    rows = {cells[0].strip("`"): cells[1:] for cells in table(read(DOCS / "ARCHITECTURE.md"))}
    assert set(REASONS) <= set(rows)
    assert all(cause and mend for cause, mend in (rows[reason] for reason in REASONS))
    assert {*failures._OF_A_DOCUMENT.values(), ID_CONFLICT, UNIQUE_CONFLICT, POISON} <= set(REASONS)


def test_every_error_code_is_documented() -> None:
    """docs/ERRORS.md has each code with its status, what it means and what to do, and no other."""
    rows = [cells for cells in table(read(DOCS / "ERRORS.md")) if cells[0].startswith("`")]
    assert {code.strip("`"): int(status) for code, status, _, _ in rows} == errors.STATUS_BY_CODE
    assert all(means and mend for _, _, means, mend in rows)
    means_by_code = {code.strip("`"): means for code, _, means, _ in rows}
    assert {code for code, bound in BOUNDS.items() if bound not in means_by_code[code]} == set()


def test_every_check_of_the_doctor_is_documented() -> None:
    """docs/OPERATIONS.md has each check, with `--fix` where it mends, and no other."""
    section = read(DOCS / "OPERATIONS.md").partition("### All checks\n")[2].partition("\n## ")[0]
    rows = {cells[0].strip("`"): cells for cells in table(section) if cells[0].startswith("`")}
    assert {name: bool(fix) for name, (_, _, fix, _) in rows.items()} == {
        check.name: check.fix is not None for check in CHECKS
    }
    assert all(severity and finds for _, severity, _, finds in rows.values())


def test_every_exit_code_is_documented() -> None:
    """docs/CLI.md has each exit code with its meaning, and no other."""
    codes = {code for name, code in vars(errors).items() if name.startswith("EXIT_")}
    section = read(DOCS / "CLI.md").partition("## Exit codes\n")[2]
    rows = [cells for cells in table(section) if cells[0].isdigit()]
    assert {int(code) for code, _ in rows} == codes | {EXIT_INTERRUPTED}
    assert all(meaning for _, meaning in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links within the project point at files and headings that are there."""
    broken = []
    for link in _LINK.findall(_FENCED.sub("", read(page))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(read(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_one_title(page: Path) -> None:
    """A document begins with its title, the only one."""
    text = read(page)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", _FENCED.sub("", text), re.MULTILINE)) == 1
