"""Compare evp with its store alone and with what else a team would glue together.

    python scripts/bench/run.py --rounds 5

Only figures of one run compare, so everybody is measured in turns, each turn on
engines of its own that are started for it, and told as a ratio within one round.
Needs wrk. A contender whose tools are not there is skipped by name.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

import contenders
import report
import systems
from bare import bare_store, sample
from contenders import OTHERS, prefer_built_store
from load import Load, accepting_ms, saturate
from processes import Failed, fresh_folder, peak_mib
from systems import System

BATCH, SINGLE = 100, 1
WARM_S = 1
PACE_SHARE = 0.5
PAGE = Path(__file__).parents[2] / "docs" / "BENCHMARKS.md"


def start(name: str, folder: Path) -> AbstractContextManager[System]:
    """Start evp or another contender."""
    if name == "evp":
        return systems.start_evp(folder)
    return systems.start(next(one for one in OTHERS if one.name == name), folder)


def turn(name: str, seconds: int, *, asgi_first: bool) -> dict[str, Any]:
    """Measure one contender once. Raises Failed."""
    with fresh_folder() as folder, start(name, folder) as system:
        warm = saturate(system, BATCH, WARM_S)
        batches = saturate(system, BATCH, seconds)
        loads = [warm, batches]
        found: dict[str, Any] = {"batches": batches._asdict()}
        singles = ["single"]
        if name == "evp":
            singles.insert(0 if asgi_first else 1, "asgi")
        for which in singles:
            loads.append(_single(which, system, folder, seconds))
            found[which] = loads[-1]._asdict()
        accepted, stored = sum(load.accepted for load in loads), system.stored()
        found["missing"] = accepted - stored
        found["unlogged"] = max(0, sum(load.answered for load in loads) - accepted)
        pace = PACE_SHARE * batches.stored_per_s
        found["paced"] = accepting_ms(system, pace, seconds)
        found["peak_mib"] = peak_mib(system.pids)
    return found


def _single(which: str, system: System, folder: Path, seconds: int) -> Load:
    if which == "single":
        return saturate(system, SINGLE, seconds)
    with systems.plain_asgi(system, folder) as app:
        return saturate(app, SINGLE, seconds)


def take_sample() -> list[RawBSONDocument]:
    """Return documents for the bare store: what evp made of the generator's events."""
    with fresh_folder() as folder, systems.start_evp(folder) as system:
        saturate(system, BATCH, WARM_S)
        return sample(system)


def measure(names: Sequence[str], rounds: int, seconds: int) -> list[dict[str, Any]]:
    """Return what was found, by round and contender."""
    documents = take_sample()
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        by_name: dict[str, Any] = {}
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            try:
                if name == "bare":
                    with fresh_folder() as folder:
                        rates = bare_store(folder, documents, seconds)
                    by_name[name] = {"writers": rates, "stored_per_s": max(rates.values())}
                else:
                    by_name[name] = turn(name, seconds, asgi_first=number % 2 == 1)
            except (Failed, RedisError, PyMongoError, psutil.Error) as error:
                print(f"round {number + 1}: {name} failed: {error}", file=sys.stderr, flush=True)
                continue
            print(report.line(number + 1, name, by_name[name]), file=sys.stderr, flush=True)
        found.append(by_name)
    return found


def install(wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Build the contenders; return who takes part, and why others are skipped."""
    present, skipped = ["evp", "bare"], {}
    for contender in OTHERS:
        if contender.name not in wanted:
            continue
        try:
            contenders.install(contender)
        except Failed as error:
            skipped[contender.title] = str(error)
            print(f"skipped: {contender.title}: {error}", file=sys.stderr, flush=True)
        else:
            present.append(contender.name)
    return present, skipped


def main() -> None:
    """Measure and print; figures of each turn on stderr, tables on stdout."""
    everybody = [one.name for one in OTHERS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--seconds", type=int, default=3, help="how long each load lasts")
    parser.add_argument(
        "--only",
        nargs="*",
        default=everybody,
        choices=everybody,
        metavar="NAME",
        help=f"contenders beside evp and the bare store: {', '.join(everybody)}",
    )
    parser.add_argument("--json", type=Path, help="write every figure of every round to a file")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {PAGE.name}")
    flags = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk was not found; install it (Debian: apt-get install wrk)")
    prefer_built_store()
    names, skipped = install(flags.only)
    rounds = measure(names, flags.rounds, flags.seconds)
    if flags.json:
        flags.json.write_text(json.dumps(rounds, indent=1) + "\n")
    command = f"--rounds {flags.rounds} --seconds {flags.seconds}"
    text = report.render(names, rounds, skipped, command)
    print(text)
    if flags.write:
        report.write(PAGE, text)


if __name__ == "__main__":
    main()
