"""The whole terminal for a while, left as it was found however that ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import RenderableType

from evp.cli.keyboard import Keyboard
from evp.cli.output import Output

#: What would end the process and leave the terminal as it is.
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NO_FILE = -1


class Screen:
    """Draws on the terminal's other screen, and hears its keys.

    It sets `changed` when it is to be drawn anew: it has another size, or is back from
    Ctrl-Z. `ended_by` is the signal that asked to end, if one did: the process should end
    by it once the screen is left (`die`).
    """

    def __init__(
        self, output: Output, heard: Callable[[str], None], changed: asyncio.Event
    ) -> None:
        self.ended_by: int | None = None
        self._output = output
        self._changed = changed
        self._keyboard = Keyboard(_NO_FILE if sys.stdin is None else sys.stdin.fileno(), heard)
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Callable[[], None]] = {
            signal.SIGWINCH: self._clear,
            signal.SIGTSTP: self._suspend,
            signal.SIGCONT: self._resume,
        }

    @property
    def has_keys(self) -> bool:
        """Whether there is anything to press keys on."""
        return self._keyboard.is_there

    def __enter__(self) -> Self:
        """Take the terminal."""
        for number in _ENDING:
            self._loop.add_signal_handler(number, self._end, number)
        for other, handler in self._handlers.items():
            self._loop.add_signal_handler(other, handler)
        self._take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        self._give_back()
        for number in (*_ENDING, *self._handlers):
            self._loop.remove_signal_handler(number)

    def draw(self, renderable: RenderableType) -> None:
        """Show something in place of what was there."""
        if self._output.is_alt_screen:
            self._output.update_screen(renderable)

    def die(self) -> None:
        """End the process by the signal that asked for it, if one did."""
        if self.ended_by is not None:
            signal.signal(self.ended_by, signal.SIG_DFL)
            signal.raise_signal(self.ended_by)

    def _take(self) -> None:
        self._keyboard.take()
        if not self._output.is_alt_screen:
            self._output.set_alt_screen(True)
            self._output.show_cursor(False)

    def _give_back(self) -> None:
        if self._output.is_alt_screen:
            self._output.show_cursor(True)
            self._output.set_alt_screen(False)
        self._keyboard.give_back()

    def _clear(self) -> None:
        # What was drawn for another size may have been wrapped by the terminal.
        self._output.clear()
        self._changed.set()

    def _suspend(self) -> None:
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _resume(self) -> None:
        """Go on in the foreground; in the background wait for it, as any full screen does."""
        if not _is_foreground():
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        # The shell may have set the terminal anew.
        self._give_back()
        self._take()
        self._changed.set()

    def _end(self, number: int) -> None:
        self.ended_by = number
        self._changed.set()


def _is_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        return True  # This terminal controls nobody.
