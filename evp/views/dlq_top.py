"""`evp dlq top` as a person sees it: readable at 80 columns, commands to be copied."""

from __future__ import annotations

from textwrap import shorten

from rich.console import Group, RenderableType
from rich.text import Text

from evp.dlq_top import DeadGroup, Top
from evp.views.tables import printable

_INDENT = "    "
_LINE_CHARS_MAX = 120


def top_view(top: Top) -> RenderableType:
    """Return the groups, each with its newest letter and the commands that take hold of it."""
    more = "more than " if top.more else ""
    letters, groups = _many(top.counted, "dead letter"), _many(top.groups_total, "group")
    parts: list[RenderableType] = [Text(f"{more}{letters}, {groups} by {top.by.value}")]
    parts += [_group(one, top) for one in top.groups]
    hidden = top.groups_total - len(top.groups)
    if hidden:
        smaller = _many(hidden, "smaller group")
        parts.append(Text(f"and {smaller}: --limit shows more", style="dim"))
    if top.others:
        others = _many(top.others, "letter")
        parts.append(Text(f"and {others} of groups that were too many", style="dim"))
    return Group(*parts)


def _group(group: DeadGroup, top: Top) -> Text:
    name = group.key if group.key is not None else f"no {top.by.value}"
    if group.key is not None and top.by.value == "error":
        name = f"{group.reason} {group.key}"
    lines = [
        f"{group.letters:,}  {_short(name)}",
        f"first {group.first_at:%Y-%m-%d %H:%M:%SZ}, last {group.last_at:%Y-%m-%d %H:%M:%SZ}",
        _short(group.pattern),
        group.mend,
        f"evp dlq show {group.example}",
    ]
    # A value that is no plain text can't be copied from a terminal.
    if group.select is not None and printable(group.select) == group.select:
        lines.append(f"evp dlq replay {group.select}")
    return Text(f"\n{_INDENT}".join(filter(None, lines)))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _short(text: str) -> str:
    return shorten(printable(text), _LINE_CHARS_MAX, placeholder=" …")
