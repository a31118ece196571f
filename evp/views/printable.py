"""Text of somebody else's, made harmless for a terminal."""

from __future__ import annotations


def printable(value: object) -> str:
    """Return a text of somebody else's so that no terminal takes it for a command."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in str(value)
    )
