"""Commands without their start: forked off a process that has imported everything already.

Most of what a short command costs is importing; a suite that runs hundreds of them
waits for little else. What is forked is a process of its own, with arguments,
environment, folder and files as they are given, and runs `evp.cli.app.main`. Whatever
tests signals, terminals or a start uses `python -m evp` instead.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Ended(NamedTuple):
    """What a command left behind."""

    code: int
    out: bytes
    err: bytes


class Forks:
    """A process that forks; one command at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        cwd: Path,
        stdin: bytes,
        within_s: float,
    ) -> Ended:
        """Run a command to its end. Raises TimeoutError; then it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn, TemporaryDirectory() as name:
            files = [Path(name) / one for one in ("in", "out", "err")]
            files[0].write_bytes(stdin)
            order = [list(arguments), dict(environ), str(cwd), [str(file) for file in files]]
            self._process.stdin.write(json.dumps([within_s, *order]).encode() + b"\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            if code == -signal.SIGALRM:
                raise TimeoutError(f"{arguments} took more than {within_s:g} s")
            return Ended(code, files[1].read_bytes(), files[2].read_bytes())


@cache
def forks() -> Forks:
    """Return the one of this process; it ends when this process does."""
    return Forks()


def _main() -> None:
    """Import, then fork for each line of stdin, and tell how each command ended."""
    main = import_module("evp.cli.app").main
    commands = import_module("evp.cli")
    for module in iter_modules(commands.__path__):
        import_module(f"{commands.__name__}.{module.name}")
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(*order)
            main()
            sys.exit(0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


def _become(
    within_s: float, arguments: list[str], environ: dict[str, str], cwd: str, files: list[str]
) -> None:
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2)
    for number, (file, flag) in enumerate(zip(files, flags, strict=True)):
        os.dup2(os.open(file, flag, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the one before has read ahead
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["evp", *arguments]
    signal.setitimer(signal.ITIMER_REAL, within_s)


if __name__ == "__main__":
    _main()
