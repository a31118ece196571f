"""What this evp is, and what it would run: for `evp --version`, and for reports of faults."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
from msgspec import Struct

from evp.engines.locate import Binary, find_log, find_store
from evp.errors import EngineFailed
from evp.limits import PROBE_S_MAX

_ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"\d+\.\d+[\w.+-]*")
_COMMIT_CHARS = 12


class Found(Struct, frozen=True):
    """An engine that `evp up` would start; `path` is the program, or Python where it runs it."""

    kind: str
    version: str | None
    origin: str
    path: str


class Versions(Struct, frozen=True):
    """Of evp and what is around it; `commit` ends in -dirty where files were changed since."""

    evp: str
    commit: str | None
    python: str
    system: str
    log: Found | None
    store: Found | None


def look(evp: str) -> Versions:
    """Return what is found here. Takes a moment: a log that is found is asked what it can."""
    return Versions(
        evp=evp,
        commit=_installed_commit() or _checked_out_commit(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        log=_found(find_log),
        store=_found(find_store),
    )


def _found(find: Callable[[], Binary]) -> Found | None:
    try:
        binary = find()
    except EngineFailed:
        return None
    _, _, package = binary.origin.partition("wheel ")
    origin = f"{binary.origin} {metadata.version(package)}" if package else binary.origin
    # What Python runs would tell the version of Python.
    version = None if len(binary.command) > 1 else _output([*binary.command, "--version"])
    number = _NUMBER.search(version or "")
    return Found(binary.kind, number and number[0], origin, binary.command[0])


def _installed_commit() -> str | None:
    """Return the commit that pip installed from, if it was a repository's."""
    try:
        origin = metadata.distribution("evp").read_text("direct_url.json")
        found = msgspec.json.decode(origin or "{}")["vcs_info"]["commit_id"]
    except (metadata.PackageNotFoundError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return str(found)[:_COMMIT_CHARS]


def _checked_out_commit() -> str | None:
    """Return the commit of the checkout that this code stands in, if it is one."""
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--exclude=*", f"--abbrev={_COMMIT_CHARS}"]
    return _output([git, "-C", str(_ROOT), *describe]) or None


def _output(command: list[str]) -> str | None:
    """Return the first line that a program prints; None if it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - found on PATH, or in a wheel
            command, check=True, capture_output=True, text=True, timeout=PROBE_S_MAX
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.partition("\n")[0].strip()
