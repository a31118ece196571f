"""A copy of the project in a folder of its own, with a bug planted or not, and tests run there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.mutants.planted import ROOT, Mutant
from tests.mutants.witness import Ended, Phase, read

RUN_S_MAX = 300.0
TEST_S_MAX = 90
_LINES_SHOWN = 15


class NotTried(Exception):
    """Raised when a run says nothing about a mutant: the runner is at fault, or the patch."""


class Run(Struct):
    """What became of the tests; it began at `began_at_s`, in seconds since 1970."""

    phases: list[Phase]
    began_at_s: float


@contextmanager
def copied(mutant: Mutant | None = None) -> Iterator[Path]:
    """Give a copy of what git knows of the project, a bug planted in it; it is removed afterwards.

    Raises NotTried if the patch does not apply.
    """
    with tempfile.TemporaryDirectory(prefix="evp-mutant-") as name:
        folder = Path(name).resolve()
        for path in _known_to_git():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path, follow_symlinks=False)
        if mutant is not None:
            _plant(mutant, folder)
        yield folder


def apply(patch: Path, folder: Path, *options: str) -> str:
    """Have git apply a patch in a folder; return what it says if it can't, and else nothing."""
    # A repository around the folder must not take the paths for its own.
    apart = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    command = ["git", "apply", *options, str(patch)]
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, env=apart
    )
    return done.stderr.strip() or "git apply failed" if done.returncode else ""


def run(folder: Path, tests: Iterable[str], patched: Iterable[str] = ()) -> Run:
    """Run tests in a copy.

    Raises NotTried unless pytest came to its end, all of evp was the copy's, and the files
    that were patched were imported.
    """
    began_at_s = time.time()
    output, testimony = folder / "pytest.out", folder / "testimony.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.witness"]
    command += ["--testimony", str(testimony), "--timeout", str(TEST_S_MAX), *tests]
    environ = os.environ | {"PYTHONPATH": str(folder)}
    with output.open("wb") as out:
        _to_its_end(command, cwd=folder, env=environ, stdout=out, stderr=out)
    told = read(testimony)
    ends = [one for one in told if isinstance(one, Ended)]
    if not ends:
        lines = output.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
        raise NotTried("\n".join(["pytest did not come to its end", *lines]))
    loaded = {Path(file) for file in ends[0].files}
    strangers = sorted(file for file in loaded if not file.is_relative_to(folder))
    if strangers:
        raise NotTried(f"the evp of another folder was tested: {strangers[0]}")
    if unused := [file for file in patched if folder / file not in loaded]:
        raise NotTried(f"no test imported {unused[0]}, which is patched")
    return Run([one for one in told if isinstance(one, Phase)], began_at_s)


def _known_to_git() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _plant(mutant: Mutant, folder: Path) -> None:
    before = [(folder / file).read_bytes() for file in mutant.files]
    if why := apply(mutant.path, folder):
        raise NotTried(f"the patch does not apply: {why}")
    if before == [(folder / file).read_bytes() for file in mutant.files]:
        raise NotTried("the patch changed nothing")


def _to_its_end(command: list[str], **options: Any) -> None:
    """Run a command; whatever happens, nothing of it is left."""
    options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, **options) as process:
        try:
            process.wait(RUN_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise NotTried(f"not done within {RUN_S_MAX:g} s") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
