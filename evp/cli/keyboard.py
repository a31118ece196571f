"""Keys as they are pressed: each by itself, and not shown."""

from __future__ import annotations

import asyncio
import codecs
import os
import termios
import tty
from collections.abc import Callable
from typing import Any

from evp.limits import KEYS_READ_BYTES_MAX

_ESCAPE = "\x1b"
#: A key that sends several bytes sends them at once, with one of these after the escape.
_SEQUENCES = (f"{_ESCAPE}[", f"{_ESCAPE}O")


class Keyboard:
    """A terminal whose keys are told to `heard`: characters, and `esc` for the escape key.

    Keys that make signals, as Ctrl-C and Ctrl-Z do, still make them. `take` and `give_back`
    may be called again and again, in any order.
    """

    def __init__(self, fd: int, heard: Callable[[str], None]) -> None:
        self._fd = fd
        self._heard = heard
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._before: list[Any] | None = None

    @property
    def is_there(self) -> bool:
        """Whether this is a terminal."""
        return os.isatty(self._fd)

    def take(self) -> None:
        """Let keys be told one by one from now on, if this is a terminal."""
        if self._before is not None or not self.is_there:
            return
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSADRAIN)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def give_back(self) -> None:
        """Leave the terminal as it was found."""
        if self._before is None:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        before, self._before = self._before, None
        termios.tcsetattr(self._fd, termios.TCSADRAIN, before)

    def _read(self) -> None:
        try:
            read = os.read(self._fd, KEYS_READ_BYTES_MAX)
        except OSError:
            read = b""
        if not read:
            # The terminal is gone; SIGHUP says the rest.
            asyncio.get_running_loop().remove_reader(self._fd)
        for key in keys_in(self._decoder.decode(read)):
            self._heard(key)


def keys_in(text: str) -> list[str]:
    """Return the keys that were pressed; arrows and the like are left out."""
    if text.startswith(_SEQUENCES):
        return []
    return ["esc" if char == _ESCAPE else char for char in text]
