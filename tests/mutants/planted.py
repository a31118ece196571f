"""The bugs to plant: one patch each in this folder, which says what it does and who must notice.

    Planted: what is wrong from then on, in a sentence.
    Must fail: tests/integration/test_x.py::test_y
    Also: tests/faults/test_z.py::test_long[case]

    --- a/evp/…

Each named test must fail, and by a complaint of its own: it is there to catch just this.
Those beside `Also` take long, or need what may not be here; they run with `--all`.
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

_FILE = re.compile(r"(?P<number>\d\d)-(?P<name>[a-z0-9-]+)\.patch")
_PLANTED = re.compile(r"^Planted: (.+)$", re.MULTILINE)
_MUST_FAIL = re.compile(r"^Must fail: (\S+)$", re.MULTILINE)
_ALSO = re.compile(r"^Also: (\S+)$", re.MULTILINE)
_CHANGED = re.compile(r"^\+\+\+ b/(\S+)$", re.MULTILINE)


class Mutant(Struct, frozen=True):
    """One bug. `tests` and `also` are pytest's names of tests, `files` are what it changes.

    `also` has those alone whose file is there.
    """

    number: int
    name: str
    planted: str
    tests: list[str]
    also: list[str]
    files: list[str]
    path: Path


def mutants(folder: Path = FOLDER) -> list[Mutant]:
    """Return all of them by number. Raises ValueError for a patch that does not say what it is."""
    return [_read(path) for path in sorted(folder.glob("*.patch"))]


def _read(path: Path) -> Mutant:
    named = _FILE.fullmatch(path.name)
    head, begins, diff = path.read_text(encoding="utf-8").partition("\n--- a/")
    planted, tests = _PLANTED.findall(head), _MUST_FAIL.findall(head)
    files = _CHANGED.findall(diff)
    if named is None or not begins or len(planted) != 1 or not tests or not files:
        raise ValueError(f"{path.name}: wanted NN-name.patch with Planted:, Must fail: and a diff")
    also = [name for name in _ALSO.findall(head) if (ROOT / name.partition("::")[0]).exists()]
    return Mutant(int(named["number"]), named["name"], planted[0], tests, also, files, path)
