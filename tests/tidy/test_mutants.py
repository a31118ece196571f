"""The bugs that `make mutants` plants: each can be planted, and the table of them is true."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.mutants.__main__ import DOCUMENT, HEADING
from tests.mutants.planted import Mutant, mutants
from tests.mutants.trial import apply
from tests.tidy.named import is_there
from tests.tidy.source import ROOT

MUTANTS = mutants()


def test_all_are_there() -> None:
    """They are numbered, each of another name; each is a bug of evp, in its own code."""
    assert [one.number for one in MUTANTS] == list(range(1, len(MUTANTS) + 1))
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) >= 14
    assert all(file.startswith("evp/") for one in MUTANTS for file in one.files)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_it_can_be_planted(mutant: Mutant) -> None:
    """The patch applies to the code as it is; if not, `git apply --3way` and `git diff` mend it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    assert apply(mutant.path, ROOT, "--check") == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_who_must_catch_it_is_there(mutant: Mutant) -> None:
    """A test that is named by a patch exists."""
    names = [name.partition("[")[0] for name in mutant.tests + mutant.also]
    assert [name for name in names if not is_there(name)] == []


def test_the_table_is_true() -> None:
    """docs/GUARANTEES.md has each bug, the tests that catch it, and after how many seconds."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (\d+\.\d) s \|$", section, re.MULTILINE)
    assert [(int(number), planted, by) for number, planted, by, _ in rows] == [
        (one.number, one.planted, ", ".join(f"`{name}`" for name in one.tests)) for one in MUTANTS
    ]
