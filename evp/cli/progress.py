"""Progress of what takes long: on stderr, and on a terminal alone."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def progress(*columns: ProgressColumn, transient: bool = True) -> Progress:
    """Return a bar of these columns, to be entered; a `transient` one leaves nothing behind."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=transient)
