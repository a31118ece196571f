"""`evp dlq top` as a person sees it: readable at 80 columns, commands to be copied."""

from __future__ import annotations

from textwrap import shorten

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from evp.dlq.top import DeadGroup, Top
from evp.views.untrusted import printable

_INDENT = 4
_NAME_CHARS_MAX = 120
_PATTERN_CHARS_MAX = 300


def top_view(top: Top) -> RenderableType:
    """Return the groups, each with its newest letter and the commands that take hold of it."""
    more = "more than " if top.more else ""
    letters, groups = _many(top.counted, "dead letter"), _many(top.groups_total, "group")
    parts: list[RenderableType] = [Text(f"{more}{letters}, {groups} by {top.by.value}")]
    parts += [part for one in top.groups for part in _group(one, top.by.value)]
    hidden = top.groups_total - len(top.groups)
    if hidden:
        smaller = _many(hidden, "smaller group")
        parts.append(Text(f"and {smaller}: --limit shows more", style="dim"))
    if top.others:
        others = _many(top.others, "letter")
        parts.append(Text(f"and {others} of groups that were too many", style="dim"))
    return Group(*parts)


def _group(group: DeadGroup, by: str) -> list[RenderableType]:
    pattern = _short(group.pattern, _PATTERN_CHARS_MAX)
    lines = [
        f"first {group.first_at:%Y-%m-%d %H:%M:%SZ}, last {group.last_at:%Y-%m-%d %H:%M:%SZ}",
        pattern if by == "error" else f"the last one: {group.reason}, {pattern}",
        group.mend,
    ]
    commands = [f"evp dlq show {group.example}"]
    # A value that is no plain text can't be copied from a terminal.
    if group.select is not None and printable(group.select) == group.select:
        commands.append(f"evp dlq replay {group.select}")
    return [
        Text(f"{group.letters:,}  {_name(group, by)}"),
        *(Padding.indent(Text(line), _INDENT) for line in lines if line),
        *(Text(" " * _INDENT + one, no_wrap=True, overflow="ignore") for one in commands),
    ]


def _name(group: DeadGroup, by: str) -> str:
    if group.key is None:
        return f"no {by}"
    name = f"{group.reason} {group.key}" if by == "error" else group.key
    return _short(name, _NAME_CHARS_MAX)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _short(text: str, chars_max: int) -> str:
    return shorten(printable(text), chars_max, placeholder=" …")
