"""What `evp init` found and made, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from evp.storage.provision import Provision, Step
from evp.views.tables import plain_table
from evp.views.untrusted import printable

_NONE = "-"
_MANY = {"collection": "collections", "index": "indexes", "sharding": "shardings"}


def provision_view(found: Provision) -> RenderableType:
    """Return a table of the collections, what is to be known of single ones, and the verdict."""
    server = found.server.replace("_", " ")
    head = f"{printable(found.database)} on a {server} (MongoDB {printable(found.version)})"
    parts: list[RenderableType] = [Text(head), plain_table(_rows(found))]
    parts += [_remark(step, wrong=step in found.wrong) for step in found.steps if step.detail]
    parts.append(_verdict(found))
    return Group(*parts)


def _rows(found: Provision) -> list[dict[str, str]]:
    rows = []
    for name in dict.fromkeys(step.collection for step in found.steps):
        own = [step for step in found.steps if step.collection == name]
        row = {
            "collection": name,
            "state": ", ".join(one.state for one in own if one.what == "collection"),
            "indexes": _counted(one.state for one in own if one.what == "index"),
        }
        if found.is_cluster:
            keys = [f"{one.name}, {one.state}" for one in own if one.what == "sharding"]
            row["sharded by"] = keys[0] if keys else _NONE
        rows.append(row)
    return rows


def _counted(states: Iterable[str]) -> str:
    """Return how many are in each state: `2 made, 1 there`."""
    counts = Counter(states)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or _NONE


def _remark(step: Step, *, wrong: bool) -> Text:
    what = step.collection if step.what == "collection" else f"{step.collection}, {step.name}"
    text = f"{what}: {step.state}, {printable(step.detail)}"
    return Text(text, style="red" if wrong else "yellow")


def _verdict(found: Provision) -> Text:
    missing = found.count("missing")
    if found.wrong:
        return Text("not all is as it should be; mend it, then run this again", style="red")
    if missing:
        return Text(f"nothing was changed; without --dry-run these {missing} are made")
    made = Counter(step.what for step in found.steps if step.state == "made")
    if not made:
        return Text("all is there")
    told = (f"{count} {what if count == 1 else _MANY[what]}" for what, count in made.items())
    return Text(f"made what was missing: {', '.join(told)}")
