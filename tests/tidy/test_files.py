"""The files around the code: locks, the version, the Makefile, text as such."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import evp
from tests.tidy.source import ROOT, modules, text_files

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
EXTRAS = {"image": (), "runtime": ("embedded",), "dev": ("embedded", "dev")}
GROUPS = ("build", "tools")

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_TARGET = re.compile(r"^([a-z0-9_-]+):(?!=)[^#\n]*(?:## (.+))?$", re.MULTILINE)
_SOMEBODYS_HOME = re.compile(r"(?<![\w.])(?:/(?:home|root|Users)/|[A-Z]:\\Users\\)\w")


def pyproject() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    return dict(pyproject()["project"])


def wanted_by(lock: str) -> list[str]:
    """Return the requirements that a lock is made from."""
    if lock in GROUPS:
        return list(pyproject()["dependency-groups"][lock])
    extras = project()["optional-dependencies"]
    return [*project()["dependencies"], *(one for name in EXTRAS[lock] for one in extras[name])]


def name_of(requirement: str) -> str:
    """Return the normalised name in a requirement."""
    found = _NAME.match(requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def requirements(lock: Path) -> dict[str, list[str]]:
    """Return what a lock pins: `name==version ; marker` and the lines below it, joined."""
    text = lock.read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.partition(" --hash")[0].strip(): line.split("--hash=")[1:] for line in lines}


def makefile() -> str:
    """Return the Makefile."""
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def test_there_is_a_lock_of_each() -> None:
    """One lock for running evp, one for its image, one for working on it, one of each group."""
    assert {lock.stem for lock in LOCKS} == {*EXTRAS, *GROUPS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_name_no_index(lock: Path) -> None:
    """A lock holds for every mirror: it has no address and no option."""
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert [line for line in text.splitlines() if line.startswith("-")] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_pin_by_hash(lock: Path) -> None:
    """Each requirement has one version and its hashes."""
    pinned = requirements(lock)
    assert len(pinned) > 4
    for requirement, hashes in pinned.items():
        assert re.match(r"[a-z0-9-]+==[\w.]+( ; .+)?$", requirement), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_have_every_dependency(lock: Path) -> None:
    """What pyproject.toml asks for is locked."""
    wanted = {name_of(one) for one in wanted_by(lock.stem)}
    assert wanted - {name_of(one) for one in requirements(lock)} == set()


def test_locks_agree() -> None:
    """Tests run on the versions that users get, from the index or in an image."""
    pinned = {lock.stem: {one.partition(" ;")[0] for one in requirements(lock)} for lock in LOCKS}
    assert pinned["image"] <= pinned["runtime"] <= pinned["dev"]
    assert pinned["build"] <= pinned["dev"]


def test_images_hold_no_embedded_engine() -> None:
    """What is under the GPL, or is no use in a container, is not in an image."""
    image = {name_of(one) for one in requirements(ROOT / "requirements" / "image.lock")}
    embedded = {name_of(one) for one in project()["optional-dependencies"]["embedded"]}
    assert not image & embedded


def test_images_are_built_as_wheels_are() -> None:
    """The group that images build with is what the build system asks for."""
    assert pyproject()["dependency-groups"]["build"] == pyproject()["build-system"]["requires"]


def test_version_stands_once() -> None:
    """The version is set in evp/__init__.py; everyone else reads it there."""
    assert "version" not in project()
    assert "version" in project()["dynamic"]
    quoted = re.compile(rf"""["']{re.escape(evp.__version__)}["']""")
    assert [module.name for module in modules() if quoted.search(module.text)] == ["evp"]


def test_text_is_clean() -> None:
    """Lines don't end in spaces, files end with their last line, nobody's home is named."""
    wrong = []
    for path in text_files():
        text = path.read_bytes().decode("utf-8")
        lines = text.split("\n")
        where = path.relative_to(ROOT)
        wrong += [
            f"{where}:{n} ends in a space"
            for n, line in enumerate(lines, 1)
            if line != line.rstrip()
        ]
        wrong += [
            f"{where}:{n} names a home"
            for n, line in enumerate(lines, 1)
            if _SOMEBODYS_HOME.search(line)
        ]
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            wrong.append(f"{where} does not end with its last line")
    assert wrong == []


def test_targets_of_the_makefile_are_told() -> None:
    """Each target is phony, has a help text, and `make help` shows it."""
    targets = dict(_TARGET.findall(makefile()))
    phony = re.findall(r"^\.PHONY:(.*)$", makefile(), re.MULTILINE)
    assert set(" ".join(phony).split()) == set(targets)
    assert [name for name, told in targets.items() if not told] == []
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    shown = subprocess.run(
        [make, "-s", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert [line.split(None, 2)[1:] for line in shown.stdout.splitlines()] == [
        list(one) for one in targets.items()
    ]
