"""Where commands print: standard output, whose reader may leave at any time."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec
from rich.console import Console, RenderableType

T = TypeVar("T")


class Output(Console):
    """Standard output. Once its reader has left, `is_heard` is false and the rest is dropped."""

    @property
    def is_heard(self) -> bool:
        """Whether anyone may read what is printed; a reader that left is noticed at once."""
        if not self.quiet and _has_left():
            self.on_broken_pipe()
        return not self.quiet

    def say(self, text: str) -> None:
        """Print a line as it stands."""
        self.out(text, highlight=False)

    def say_json(self, value: object) -> None:
        """Print a value as JSON that people can read as well."""
        self.say(msgspec.json.format(msgspec.json.encode(value)).decode())

    def say_report(self, report: T, render: Callable[[T], RenderableType], *, json: bool) -> None:
        """Print a report for people, as `render` shows it, or as JSON."""
        if json:
            self.say_json(report)
        else:
            self.print(render(report))

    def say_json_line(self, value: object) -> None:
        """Print a value as JSON on a line of its own: one of several that follow each other."""
        self.say(msgspec.json.encode(value).decode())

    def replace_unknown(self) -> None:
        """Print a question mark for each character that standard output has no code for."""
        if isinstance(self.file, io.TextIOWrapper):
            self.file.reconfigure(errors="replace")

    def on_broken_pipe(self) -> None:
        """Go on unheard: the work of a command, and its exit code, don't depend on a reader."""
        self.quiet = True
        # The interpreter flushes at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _has_left() -> bool:
    """Return whether standard output is a pipe that nobody reads any more."""
    looks = select.poll()
    try:
        looks.register(sys.stdout.fileno(), 0)
    except OSError:  # It is no file: somebody captures it.
        return False
    return any(what & (select.POLLERR | select.POLLHUP) for _, what in looks.poll(0))
