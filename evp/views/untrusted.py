"""Texts of somebody else's, made harmless for a terminal."""

from __future__ import annotations

import msgspec


def printable(value: object) -> str:
    """Return a text so that no terminal takes it for a command."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in str(value)
    )


def json_text(value: object) -> str:
    """Return a value as JSON on one line, what is not printable escaped as JSON does it."""
    text = msgspec.json.encode(value).decode()
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
