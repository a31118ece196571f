"""The release before this one, as its users have it: from a wheel, beside this one."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def previous_release(folder: Path) -> Path:
    """Build the last tag before this commit; return what to put on PYTHONPATH.

    Skips where git has no such tag, as in a shallow clone; with EVP_REQUIRE_PREVIOUS=1
    that is a failure.
    """
    tag = previous_tag()
    if tag is None:
        missing = "no earlier tag of evp here (a shallow clone, or no git): fetch the tags"
        if os.environ.get("EVP_REQUIRE_PREVIOUS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    source, wheels, unpacked = folder / "source", folder / "wheels", folder / "unpacked"
    with zipfile.ZipFile(io.BytesIO(_git("archive", "--format=zip", tag))) as files:
        files.extractall(source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [*build, "--disable-pip-version-check", "-w", str(wheels), str(source)]
    subprocess.run(command, check=True, cwd=folder)
    [wheel] = wheels.glob("evp-*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(unpacked)
    return unpacked


def previous_tag() -> str | None:
    """Return the last tag before this commit, if git knows one."""
    if shutil.which("git") is None:
        return None
    try:
        # A commit that is a release is not the one before itself.
        return _git("describe", "--tags", "--abbrev=0", "HEAD^").decode().strip()
    except subprocess.CalledProcessError:
        return None


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)
    return done.stdout
