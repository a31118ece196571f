"""docs/FEATURES.md shows each feature by something that is there, and leaves no command out."""

from __future__ import annotations

import re

import pytest

from tests.tidy.named import COMMANDS, is_there
from tests.tidy.test_docs import DOCS, read, table

TOLD = [cells for cells in table(read(DOCS / "FEATURES.md")) if cells[0] != "what"]

LEFT_OUT = {
    "evp dlq list": "`evp dlq top` is where one begins",
    "evp groups create": "the tests of a second consumer show it",
    "evp groups list": "`evp groups describe` tells more",
    "evp keys list": "it goes with the keys that are made",
    "evp users disable": "the life of a user shows it",
    "evp users enable": "the life of a user shows it",
    "evp users list": "the life of a user shows it",
    "evp users passwd": "the life of a user shows it",
}


@pytest.mark.parametrize("row", TOLD, ids=lambda row: row[0][:40])
def test_what_is_named_is_there(row: list[str]) -> None:
    """Commands, routes, settings, files and tests of a row exist; a test or a page shows it."""
    names = re.findall(r"`([^`]+)`", " ".join(row))
    assert [name for name in names if not is_there(name)] == []
    assert re.search(r"`tests/|\]\(", row[-1])


def test_every_command_is_a_feature() -> None:
    """No command is left out, but for those that are listed with the reason."""
    text = read(DOCS / "FEATURES.md")
    leaves = {name for name, one in COMMANDS.items() if not getattr(one, "commands", None)}
    assert {name for name in leaves if not re.search(rf"`{name}\b", text)} == set(LEFT_OUT)
