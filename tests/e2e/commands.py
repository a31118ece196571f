"""Running the command as a person does: to its end, in the background, or in a terminal."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.support.forks import Ended, forks
from tests.support.up import EVP, Stopped
from tests.support.wait import WAIT_S_MAX, until_now

#: Makes the terminal the one whose keys make signals for the program, then becomes the program.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
#: These are started as anybody starts them; the others are forked.
_AFRESH = (("up",), ("serve",), ("work",), ("loadtest",))
#: A program that fills the screen begins there.
_HOME = "\x1b[1;1H"
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|.)")


class Finished(NamedTuple):
    """What a command that ended left behind."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def one_line(self) -> str:
        """The only line of stderr; fails if there are more, as a traceback has."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def evp(
    *arguments: str,
    environ: Mapping[str, str],
    cwd: Path,
    stdin: bytes = b"",
    within_s: float = WAIT_S_MAX,
) -> Finished:
    """Run `evp` to its end; what it prints must be plain text."""
    started_at_s = time.monotonic()
    if arguments[:1] in _AFRESH:
        done = _started(arguments, environ, cwd, stdin, within_s)
    else:
        done = forks().run(arguments, environ, cwd, stdin, within_s)
    seconds = time.monotonic() - started_at_s
    out, err = done.out.decode(), done.err.decode()
    assert "\x1b" not in out + err, "escape codes, and no terminal"
    return Finished(done.code, out, err, seconds)


def _started(
    arguments: Sequence[str], environ: Mapping[str, str], cwd: Path, stdin: bytes, within_s: float
) -> Ended:
    done = subprocess.run(
        [*EVP, *arguments],
        env=environ,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=within_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Background:
    """`evp` in the background, its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output

    @property
    def text(self) -> str:
        """What it has printed so far, logs included."""
        return self.output.read_text(errors="replace")

    def write(self, text: bytes) -> None:
        """Give it input, where its `stdin` is a pipe."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def close(self) -> None:
        """End its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    @property
    def runs(self) -> bool:
        """True while it has not ended."""
        return self.process.poll() is None

    def wait_says(self, text: str) -> None:
        """Wait until it has printed something."""
        until_now(lambda: text in self.text or not self.runs, what=f"{text!r} is said: {self.text}")
        assert text in self.text, self.text

    def wait(self, within_s: float = WAIT_S_MAX) -> Stopped:
        """Wait until it has ended."""
        started_at_s = time.monotonic()
        code = self.process.wait(within_s)
        return Stopped(code, time.monotonic() - started_at_s)

    def stop(self, number: int = signal.SIGTERM) -> Stopped:
        """Ask it to end, and wait."""
        self.process.send_signal(number)
        return self.wait()


@contextlib.contextmanager
def background(
    *arguments: str,
    environ: Mapping[str, str],
    cwd: Path,
    name: str = "evp",
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Background]:
    """Run `evp` in the background; it is ended at the end."""
    output = cwd / f"{name}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*EVP, *arguments],
            env=environ,
            cwd=cwd,
            stdin=stdin,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield Background(process, output)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        _end(process)


class Terminal:
    """A pseudo-terminal with a program in it; what it shows is read all the time it is awaited."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process = process
        self.raw = ""
        self._fd = fd
        # What is read may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def text(self) -> str:
        """What was shown, without escape codes."""
        return _ESCAPE.sub("", self.raw)

    @property
    def lines(self) -> list[str]:
        """Everything that was ever shown as a line, without escape codes."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text)]

    @property
    def drawn(self) -> str:
        """The last screen that was drawn whole, without escape codes, line behind line."""
        screens = self.raw.split(_HOME)
        return _ESCAPE.sub("", screens[-2]) if len(screens) > 2 else ""

    @property
    def modes(self) -> list[Any]:
        """How the terminal is set: whether it echoes, and so on."""
        return termios.tcgetattr(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, which the program is told."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_drawn(self, text: str, within_s: float = WAIT_S_MAX) -> None:
        """Wait until something is on the screen."""
        self._read_until(lambda: text in self.drawn, what=f"{text!r} is drawn", within_s=within_s)

    def wait_gone(self, text: str, within_s: float = WAIT_S_MAX) -> None:
        """Wait until something is on the screen no longer."""
        self._read_until(
            lambda: text not in self.drawn, what=f"{text!r} is gone", within_s=within_s
        )

    def wait_ends_with(self, codes: str, within_s: float = WAIT_S_MAX) -> None:
        """Wait until what was sent to the terminal ends with these codes."""
        self._read_until(
            lambda: self.raw.endswith(codes), what=f"{codes!r} is sent", within_s=within_s
        )

    def wait_stopped(self, within_s: float = WAIT_S_MAX) -> None:
        """Wait until the program was suspended."""
        one = psutil.Process(self.process.pid)
        self._read_until(
            lambda: one.status() == psutil.STATUS_STOPPED,
            what="the program is suspended",
            within_s=within_s,
        )

    def wait_shows(self, text: str, within_s: float = WAIT_S_MAX) -> None:
        """Wait until something was shown."""
        self._read_until(lambda: text in self.text, what=f"{text!r} is shown", within_s=within_s)

    def press_ctrl_c(self) -> None:
        """Send what the key sends: the terminal makes a signal of it."""
        os.write(self._fd, b"\x03")

    def type(self, keys: bytes) -> None:
        """Send what a person types."""
        os.write(self._fd, keys)

    def wait_ended(self, within_s: float = WAIT_S_MAX) -> Stopped:
        """Wait until the program has ended."""
        started_at_s = time.monotonic()
        self._read_until(
            lambda: self.process.poll() is not None, what="the program ends", within_s=within_s
        )
        while self._read():
            pass
        return Stopped(self.process.returncode, time.monotonic() - started_at_s)

    def _read_until(self, holds: Callable[[], bool], *, what: str, within_s: float) -> None:
        ends_at_s = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < ends_at_s, (
                f"not within {within_s:g} s: {what}: {self.text[-500:]}"
            )
            self._read()

    def _read(self) -> bool:
        """Take what is there; tells whether there was something."""
        if not select.select([self._fd], [], [], 0.05)[0]:
            return False
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # Linux says so once nobody has the other end.
            return False
        self.raw += self._decoder.decode(piece)
        return bool(piece)


@contextlib.contextmanager
def terminal(
    command: Sequence[str], *, environ: Mapping[str, str], cwd: Path, columns: int, rows: int = 24
) -> Iterator[Terminal]:
    """Run a program in a terminal of this size; it is ended at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    sized = {"COLUMNS", "LINES", "NO_COLOR", "CI"}
    clean = {key: value for key, value in environ.items() if key not in sized}
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command],
        env=clean | {"TERM": "xterm-256color"},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        _end(process)
        os.close(ours)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(WAIT_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
