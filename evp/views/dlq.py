"""Dead letters as a person sees them: readable at 80 columns, ids never broken."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from textwrap import shorten

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from evp.dlq.actions import Account, Listing, Shown
from evp.storage.dlq import Letter
from evp.views.tables import plain_table
from evp.views.untrusted import printable

_INDENT = "    "
#: What a list shows of a detail; `show` has all of it.
_DETAIL_CHARS_MAX = 120
#: What is said of letters that stay, where they were not to be delivered.
_STAY = {"purged": "left as they are"}


def listing_view(listing: Listing, mends: Mapping[str, str]) -> RenderableType:
    """Return the letters by reason, with what to do about each, and the newest ones."""
    more = "more than " if listing.more else ""
    parts: list[RenderableType] = [Text(f"{more}{_letters(listing.counted)}")]
    if listing.by_reason:
        parts.append(_by_reason(listing.by_reason, mends))
    parts += [_row(one) for one in listing.letters]
    hidden = listing.counted - len(listing.letters)
    if hidden > 0 and listing.letters:
        parts.append(Text(f"and {more}{hidden:,} older: --limit shows more", style="dim"))
    return Group(*parts)


def shown_view(shown: Shown, chars_max: int | None) -> RenderableType:
    """Return one letter with what it holds, no more of that than `chars_max`."""
    fields = msgspec.to_builtins(shown.letter)
    fields["what to do"] = shown.mend
    width = max(map(len, fields))
    lines = [
        Text(f"{name.replace('_', ' '):{width}}  {printable(value)}")
        for name, value in fields.items()
        if value not in {None, ""}
    ]
    return Group(*lines, Text(), Text(_content(shown, chars_max)))


def selection_view(account: Account, what: str) -> RenderableType:
    """Return what is about to be changed."""
    parts: list[RenderableType] = [Text(f"{_letters(account.selected)} to {what}")]
    if account.by_reason:
        parts.append(_by_reason(account.by_reason, {}))
    return Group(*parts)


def account_view(account: Account, done: str) -> RenderableType:
    """Return what became of letters; `done` is the word for those that were changed."""
    lines = [f"{account.done:,} of {account.selected:,} {done}"]
    if account.refused_count:
        lines[0] += f", {account.refused_count:,} {_STAY.get(done, 'refused again')}"
    if account.duplicate or account.dead:
        lines.append(
            f"{_INDENT}events: {account.stored:,} stored, {account.duplicate:,} stored before, "
            f"{account.dead:,} dead again"
        )
    lines += [f"{_INDENT}{count:,} {reason}" for reason, count in sorted(account.refused.items())]
    lines += [
        f"{_INDENT}{one.id}  {one.reason}: {printable(one.detail)}" for one in account.examples
    ]
    hidden = account.refused_count - len(account.examples)
    if hidden > 0:
        lines.append(f"{_INDENT}and {hidden:,} more")
    lines += [f"{_INDENT}{one}  no such letter, or none to change" for one in account.missing]
    if not account.finished:
        lines.append("not finished: the rest is as it was; the same command goes on")
    return Group(*map(Text, lines))


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _by_reason(by_reason: Mapping[str, int], mends: Mapping[str, str]) -> RenderableType:
    rows = []
    for reason, count in sorted(by_reason.items(), key=lambda pair: (-pair[1], pair[0])):
        row = {"reason": reason, "letters": f"{count:,}"}
        if mends:
            row["what to do"] = mends.get(reason, "")
        rows.append(row)
    return plain_table(rows)


def _row(letter: Letter) -> Text:
    attempts = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
    about = [
        printable(letter.type or f"entry {letter.entry}"),
        f"from {printable(letter.source)}" if letter.source else "",
        attempts,
        f"{letter.payload_bytes:,} bytes",
        letter.state if letter.state != "dead" else "",
    ]
    first = f"{letter.id}  {letter.reason}  {_at(letter.last_at)}"
    detail = shorten(printable(letter.detail), _DETAIL_CHARS_MAX, placeholder=" …")
    return Text("\n".join((first, f"{_INDENT}{', '.join(filter(None, about))}", _INDENT + detail)))


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"


def _content(shown: Shown, chars_max: int | None) -> str:
    if shown.event is not None:
        made = msgspec.json.format(msgspec.json.encode(shown.event), indent=2).decode()
        text = "\n".join(map(printable, made.split("\n")))
    elif shown.payload is not None:
        text = repr(shown.payload)[2:-1]
    else:
        return "nothing of it is there any more"
    hidden = 0 if chars_max is None else max(0, len(text) - chars_max)
    if hidden:
        text = f"{text[:chars_max]}\n… and {hidden:,} characters more: --raw shows all"
    if not shown.whole:
        text += f"\n… {shown.letter.payload_bytes:,} bytes were received, not all were kept"
    return text
