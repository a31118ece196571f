"""Keys as they are pressed: each by itself, and not shown."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import termios
import tty
from collections.abc import Callable
from typing import Any, NamedTuple

from evp.limits import KEYS_READ_BYTES_MAX

_ESCAPE = "\x1b"
_NONE = -1
#: A key that sends several bytes sends them at once, with one of these after the escape.
_SEQUENCES = (f"{_ESCAPE}[", f"{_ESCAPE}O")


class _Taken(NamedTuple):
    """A terminal as it is read from, and how it was set."""

    fd: int
    before: list[Any]


class Keyboard:
    """A terminal whose keys are told to `heard`: characters, and `esc` for the escape key.

    Keys that make signals, as Ctrl-C and Ctrl-Z do, still make them. `take` and `give_back`
    may be called again and again, in any order.
    """

    def __init__(self, fd: int, heard: Callable[[str], None]) -> None:
        self._fd = fd
        self._heard = heard
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._taken: _Taken | None = None

    @property
    def is_there(self) -> bool:
        """Whether this is a terminal."""
        return os.isatty(self._fd)

    def take(self) -> None:
        """Let keys be told one by one from now on, if this is a terminal."""
        if self._taken is not None or not self.is_there:
            return
        fd = _opened(self._fd)
        if fd is None:
            self._fd = _NONE
            return
        self._taken = _Taken(fd, termios.tcgetattr(fd))
        tty.setcbreak(fd, termios.TCSADRAIN)
        asyncio.get_running_loop().add_reader(fd, self._read, fd)

    def give_back(self) -> None:
        """Leave the terminal as it was found."""
        if self._taken is None:
            return
        (fd, before), self._taken = self._taken, None
        asyncio.get_running_loop().remove_reader(fd)
        # If the terminal is gone there is nothing to be left in order.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
        os.close(fd)

    def _read(self, fd: int) -> None:
        try:
            read = os.read(fd, KEYS_READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            read = b""
        if not read:
            # The terminal is gone; SIGHUP says the rest.
            asyncio.get_running_loop().remove_reader(fd)
        for key in keys_in(self._decoder.decode(read)):
            self._heard(key)


def keys_in(text: str) -> list[str]:
    """Return the keys that were pressed; arrows and the like are left out."""
    if text.startswith(_SEQUENCES):
        return []
    return ["esc" if char == _ESCAPE else char for char in text]


def _opened(fd: int) -> int | None:
    """Open a terminal once more; None where it has no name here: then there are no keys.

    What is waited for is made non-blocking, and standard input shares that with standard
    output and with the shell, to which a slow terminal would then be an error.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        return os.open(os.ttyname(fd), flags)
    # A container may have a terminal whose name is known outside only.
    with contextlib.suppress(OSError):
        return os.open("/dev/tty", flags)
    return None
