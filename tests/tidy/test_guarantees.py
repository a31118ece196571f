"""Every test that docs/GUARANTEES.md names as a proof is there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.tidy.source import ROOT

TEXT = (ROOT / "docs" / "GUARANTEES.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


def test_tests_are_named() -> None:
    """Each row of the tables of failures ends with a test, by file and name."""
    section = TEXT.partition("## Ways to lose an event, and the test for each\n")[2]
    section = section.partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| what can go wrong ")]
    assert rows
    assert [row for row in rows if not re.search(r"\| `tests/\S+::\w+`.* \|$", row)] == []


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_named_test_is_there(path: str, name: str) -> None:
    """A test that is named as a proof exists."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
