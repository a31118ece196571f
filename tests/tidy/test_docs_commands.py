"""The commands, settings, routes, targets and tests that documents name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.exceptions import TyperException
from typer.testing import CliRunner

from evp.cli.app import app
from tests.tidy.named import is_there, lines_of_shell, parse
from tests.tidy.test_docs import PAGES, read

OF_THE_PAST = {"CHANGELOG.md"}
LINES = sorted({(page.name, line) for page in PAGES for line in lines_of_shell(page)})
RUN = [line for _, line in LINES if re.match(r"evp (--version|config show|openapi)\b", line)]
"""Those that need no engine and change nothing."""

_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_is_there(page: Path) -> None:
    """What stands between backticks in a page exists."""
    if page.name in OF_THE_PAST:
        pytest.skip("it tells of what was")
    names = _CODE.findall(_FENCED.sub("", read(page)))
    assert [name for name in names if not is_there(name)] == []


@pytest.mark.parametrize(("page", "line"), LINES, ids=[line[:50] for _, line in LINES])
def test_command_lines_are_understood(page: str, line: str) -> None:
    """A command line of a document is read by evp without complaint."""
    try:
        parse(line)
    except TyperException as error:
        pytest.fail(f"{page}: {line}: {error}")


@pytest.mark.parametrize("line", RUN)
def test_command_lines_that_need_nothing_work(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need no engine are run."""
    for name in ("EVP_CONFIG", "EVP_ENV"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, line.split()[1:], prog_name="evp")
    assert done.exit_code == 0, done.output
