"""Every example in docs/CLIENT.md works as it is printed, and its tables are those of the code."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path

import pytest

from evp import AsyncClient
from evp.client.sync_client import Options
from tests.support.examples import ANY
from tests.support.server import API_KEY, InProcess

PAGE = (Path(__file__).parents[2] / "docs" / "CLIENT.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE
)


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: the examples are clients, in threads of their own."""


def printed(code: str, url: str) -> str:
    """Run an example; return what it prints."""
    lines: list[str] = []
    names = {
        "URL": url,
        "KEY": API_KEY,
        "print": lambda *words: lines.append(" ".join(map(str, words)) + "\n"),
    }
    exec(compile(code, "CLIENT.md", "exec"), names)
    return "".join(lines)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_example_prints_what_is_shown(example: tuple[str, str], server: InProcess) -> None:
    """It runs as it stands, and prints what is printed below."""
    code, shown = example
    pattern = ".*".join(re.escape(part) for part in shown.split(ANY))
    told = await asyncio.to_thread(printed, code, server.url)
    assert re.fullmatch(pattern, told), told


def test_no_example_is_left_out() -> None:
    """Each block of Python is followed by what it prints."""
    assert len(EXAMPLES) == PAGE.count("```python") > 3


def test_options_are_those_of_the_code() -> None:
    """The table has each option with its default; both clients take the same ones."""
    defaults = {
        name: f"{one.default:g}" if isinstance(one.default, float) else str(one.default)
        for name, one in inspect.signature(AsyncClient).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    }
    table = PAGE.partition("## Options\n")[2].partition("\n\n`close")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE)
    assert {name: cell.strip('`"') for name, cell in rows} == defaults
    assert set(Options.__annotations__) == set(defaults)
