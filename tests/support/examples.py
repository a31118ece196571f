"""Examples in a Markdown page: commands in `sh` blocks, each with the answer that follows it.

What varies is written as `…`: alone it stands for any value, within a text for any characters.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

_BLOCK = re.compile(
    r"^```sh\n(?P<command>.*?)^```\n(?:\s*^```(?P<kind>json|text)\n(?P<answer>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ANY = "…"


class Example(NamedTuple):
    """A command, the kind of its answer (json, text; None if none is shown), and the answer."""

    heading: str
    command: str
    kind: str | None
    answer: str


def examples(page: Path) -> list[Example]:
    """Return the examples of a page in order."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        headings = _HEADING.findall(text[: match.start()])
        found.append(Example(headings[-1], match["command"], match["kind"], match["answer"] or ""))
    return found


def differences(shown: Any, real: Any, path: str = "$") -> list[str]:
    """Return where a real JSON value is not what an example shows."""
    if shown == ANY:
        return []
    if isinstance(shown, dict) and isinstance(real, dict):
        found = [f"{path}: {sorted(shown)} is shown, {sorted(real)} came"]
        found = found if ANY not in shown and shown.keys() != real.keys() else []
        for key in (shown.keys() - {ANY}) & real.keys():
            found += differences(shown[key], real[key], f"{path}.{key}")
        return found
    if isinstance(shown, list) and isinstance(real, list):
        if shown == [ANY]:
            return []
        if len(shown) != len(real):
            return [f"{path}: {len(shown)} are shown, {len(real)} came"]
        pairs = enumerate(zip(shown, real, strict=True))
        by_place = [differences(*pair, f"{path}[{place}]") for place, pair in pairs]
        return [line for lines in by_place for line in lines]
    if isinstance(shown, str) and isinstance(real, str):
        pattern = ".*".join(re.escape(part) for part in shown.split(ANY))
        return [] if re.fullmatch(pattern, real, re.DOTALL) else [f"{path}: {real!r} came"]
    return [] if shown == real and type(shown) is type(real) else [f"{path}: {real!r} came"]
