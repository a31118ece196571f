"""Rounds to tables: medians, their spread, and ratios within one round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contenders import OTHERS
from machine import machine

Round = dict[str, Any]

TITLES = {"evp": "evp", "bare": "the store alone"} | {one.name: one.title for one in OTHERS}
ROLES = ("serve", "work", "log", "store", "generator")
BEGIN = "<!-- figures: written by `make bench`, from here -->"
END = "<!-- to here -->"


def line(number: int, name: str, found: Round) -> str:
    """Return one turn in a line, for whoever watches."""
    if name == "bare":
        rates = ", ".join(f"{one}: {rate:,.0f}" for one, rate in found["writers"].items())
        return f"round {number}: {TITLES[name]:<28} stored/s by writers {rates}"
    batches, single = found["batches"], found["single"]
    shares = " and ".join(f"{load['others_share']:.0%}" for load in (batches, single))
    lost = f"  MISSING {found['missing']}" if found["missing"] or found["unlogged"] else ""
    return (
        f"round {number}: {TITLES[name]:<28} "
        f"batches {batches['stored_per_s']:,.0f}/s stored, {batches['accepted_per_s']:,.0f} "
        f"accepted; single {single['stored_per_s']:,.0f}, {single['accepted_per_s']:,.0f}; "
        f"others used {shares}{lost}"
    )


def render(
    names: Sequence[str], rounds: Sequence[Round], skipped: dict[str, str], command: str
) -> str:
    """Return the section with the figures, as Markdown."""
    present = [name for name in names if any(name in one for one in rounds)]
    systems = [name for name in present if name != "bare"]
    never = {TITLES[name]: "failed in every round" for name in names if name not in present}
    facts = f"{today()}; {machine()}; `{command}`"
    parts = [
        f"{facts}. Medians of the rounds, in brackets the least and the most.",
        _rates(present, rounds),
        _costs(systems, rounds),
        *_remarks(systems, rounds, skipped | never),
    ]
    return "\n\n".join(parts)


def today() -> str:
    """Return the date, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def write(page: Path, text: str, begins: str = BEGIN, ends: str = END) -> None:
    """Put a section between its two marks."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise SystemExit(f"{page} has no marks for the figures")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _rates(present: Sequence[str], rounds: Sequence[Round]) -> str:
    evp, ceiling = _per_s("evp", "batches"), _per_s("bare", "batches")
    rows = []
    for name in present:
        batches, single = _per_s(name, "batches"), _per_s(name, "single")
        other = name not in {"evp", "bare"}
        rows.append(
            [
                TITLES[name],
                _spread(batches(one) for one in rounds),
                _median(_figure(name, "batches", "accepted_per_s")(one) for one in rounds),
                _ratio(batches, ceiling, rounds) if name != "bare" else "",
                _ratio(evp, batches, rounds) if other else "",
                _spread(single(one) for one in rounds),
                _ratio(_per_s("evp", "single"), single, rounds) if other else "",
                _paced(name, rounds),
            ]
        )
    app = _per_s("evp", "asgi")
    cells = [_spread(app(one) for one in rounds), _ratio(_per_s("evp", "single"), app, rounds)]
    rows.insert(1, ["evp's handler as a plain ASGI app", "", "", "", "", *cells, ""])
    head = [
        "",
        "batches of 100: stored/s",
        "accepted/s",
        "of the store alone",
        "evp stores … times as much",
        "single events: stored/s",
        "evp stores … times as much",
        "p50 / p99 of accepting at half its rate, ms",
    ]
    return _table(head, rows)


def _costs(systems: Sequence[str], rounds: Sequence[Round]) -> str:
    rows = []
    for name in systems:
        turns = [one[name] for one in rounds if name in one]
        cpu = {
            role: statistics.median(one["batches"]["cpu_us"][role] for one in turns)
            for role in ROLES
        }
        single = statistics.median(
            sum(one["single"]["cpu_us"].values()) - one["single"]["cpu_us"]["generator"]
            for one in turns
        )
        memory = [_median(one["peak_mib"].get(role) for one in turns) for role in ("serve", "work")]
        whole = sum(cpu.values()) - cpu["generator"]
        shown = [f"{cpu[role]:.1f}" for role in ROLES]
        rows.append([TITLES[name], *shown, f"{whole:.1f}", f"{single:.0f}", *memory])
    head = ["processor time of an event, µs", *ROLES, "all but the generator"]
    return _table([*head, "of a single event", "serve, MiB at most", "work, MiB at most"], rows)


def _remarks(
    systems: Sequence[str], rounds: Sequence[Round], skipped: dict[str, str]
) -> Iterable[str]:
    lost, others, shares = [], [], []
    for name in systems:
        turns = [one[name] for one in rounds if name in one]
        loads = [one[load] for one in turns for load in ("batches", "single")]
        shares += [load["others_share"] for load in loads]
        if any(one["missing"] or one["unlogged"] for one in turns):
            counts = ", ".join(f"{one['missing'] + one['unlogged']:,}" for one in turns)
            lost.append(f"{TITLES[name]} did not store what it had accepted: {counts} events.")
        if failed := sum(load["failed"] for load in loads):
            others.append(f"{TITLES[name]} did not accept {failed:,} requests.")
        if len(turns) < len(rounds):
            others.append(f"{TITLES[name]} failed in {len(rounds) - len(turns)} rounds.")
    told = lost or ["Everybody stored every event that was accepted."]
    yield " ".join(told + others)
    yield (
        f"Anybody else on the machine used {statistics.median(shares):.0%} of its processor time "
        f"during a load, and {max(shares):.0%} at most."
    )
    if skipped:
        yield "Skipped: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()) + "."


def _per_s(name: str, load: str) -> Callable[[Round], float | None]:
    # The store alone knows no requests: its rate stands beside that of batches.
    bare = name == "bare" and load == "batches"
    return _figure(name, "" if bare else load, "stored_per_s")


def _figure(name: str, load: str, key: str) -> Callable[[Round], float | None]:
    def look(one: Round) -> float | None:
        found = one.get(name, {})
        found = found.get(load, {}) if load else found
        value: float | None = found.get(key)
        return value

    return look


def _ratio(
    over: Callable[[Round], float | None],
    under: Callable[[Round], float | None],
    rounds: Sequence[Round],
) -> str:
    pairs = [(over(one), under(one)) for one in rounds]
    return _spread((a / b for a, b in pairs if a and b), digits=2)


def _paced(name: str, rounds: Sequence[Round]) -> str:
    cells = [
        _median((_figure(name, "paced", key)(one) for one in rounds), digits=1)
        for key in ("p50_ms", "p99_ms")
    ]
    return " / ".join(filter(None, cells))


def _median(values: Iterable[float | None], digits: int = 0) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):,.{digits}f}" if known else ""


def _spread(values: Iterable[float | None], digits: int = 0) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    least, middle, most = min(known), statistics.median(known), max(known)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
