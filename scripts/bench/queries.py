"""What questions cost: sums and pages of events, while others come in.

    python scripts/bench/queries.py --stored 1000000 --eps 20000 --seconds 30

Runs `evp up` in a folder of its own (or asks one that runs: --url, --key, then nothing is
filled or loaded), fills it by `evp loadtest` and asks, each kind in turn, while as many
events a second come in. No two questions for sums are equal, so none is answered from
another one's answer. At the end the sums are compared with a count of all documents.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import single_frames
import systems
from contenders import prefer_built_store
from load import loadtest
from machine import machine
from processes import Failed, fresh_folder
from systems import System

FILL_EPS = 30_000
PAUSE_S = 0.02
SETTLED_S_MAX = 120.0
ANSWER_S_MAX = 30.0


class Asked(NamedTuple):
    """One kind of question: how long its answers took, and how many were none."""

    name: str
    took_ms: list[float]
    failed: int


class Server:
    """A server that is asked over one connection."""

    def __init__(self, url: str, key: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S_MAX)
        self._headers = {"x-api-key": key}

    def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Return status and body."""
        self._connection.request("GET", f"{path}?{urlencode(query)}", headers=self._headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def sums(self, first: str, **query: str) -> tuple[int, Any]:
        """Return the answer of /analytics/metrics."""
        return self.get("/analytics/metrics", **{"from": first}, **query)


def kinds(server: Server, rare: str) -> dict[str, Callable[[int], tuple[int, Any]]]:
    """Return what is asked; each takes a number that makes the question a new one."""
    cursor: dict[str, str] = {}

    def next_page(_number: int) -> tuple[int, Any]:
        status, page = server.get("/events", limit="50", **cursor)
        cursor.clear()
        if status == 200 and page["next_cursor"]:
            cursor["cursor"] = page["next_cursor"]
        return status, page

    return {
        "sums of the last hour, by the minute": lambda n: server.sums(
            f"now-{60 + n % 40}m", interval="1m"
        ),
        "sums of 30 days, by the hour": lambda n: server.sums(
            f"now-{24 * 30 + n % 40}h", interval="1h"
        ),
        "sums of 30 days, by the day": lambda n: server.sums(f"now-{30 + n % 40}d", interval="1d"),
        "first page of events": lambda _n: server.get("/events", limit="50"),
        "the next page, and so on": next_page,
        "first page of one type": lambda _n: server.get("/events", limit="50", type=rare),
        "a type that there is none of": lambda n: server.get("/events", type=f"none-{n}"),
        "events of a time range": lambda n: server.get(
            "/events", **{"from": f"now-{20 + n % 40}m", "to": f"now-{n % 20}m"}
        ),
    }


def ask(server: Server, rare: str, seconds: float) -> list[Asked]:
    """Ask each kind in turn until time is up."""
    questions = kinds(server, rare)
    asked = {name: Asked(name, [], 0) for name in questions}
    ends_at_s = time.monotonic() + seconds
    for number in itertools.count():
        for name, question in questions.items():
            if time.monotonic() >= ends_at_s:
                return list(asked.values())
            began_at_s = time.perf_counter()
            status, _ = question(number)
            asked[name].took_ms.append(1000 * (time.perf_counter() - began_at_s))
            if status != http.client.OK:
                asked[name] = asked[name]._replace(failed=asked[name].failed + 1)
            time.sleep(PAUSE_S)
    return []


@contextmanager
def under_load(system: System, flags: Sequence[str]) -> Iterator[list[str]]:
    """Send events meanwhile; what went wrong is in the list that is given."""
    wrong: list[str] = []

    def load() -> None:
        try:
            found = loadtest(system, flags)
            print(f"load: accepted {found['accepted']:,}", file=sys.stderr)
        except Failed as error:
            wrong.append(str(error))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield wrong
    finally:
        thread.join()


def compare(server: Server, system: System) -> tuple[int, int]:
    """Return events by the sums and by a count of all documents, once they stand still."""
    ends_at_s = time.monotonic() + SETTLED_S_MAX
    while True:
        _, found = server.sums("now-3d", interval="1d")
        summed, stored = found["events"], system.stored()
        if summed == stored or time.monotonic() > ends_at_s:
            return summed, stored
        time.sleep(1.0)


def table(asked: Sequence[Asked]) -> str:
    """Return what was measured as Markdown."""
    rows = ["| question | asked | p50, ms | p99, ms | most, ms | failed |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for one in asked:
        took = sorted(one.took_ms) or [0.0]
        p50, p99 = (took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.99))
        rows.append(
            f"| {one.name} | {len(one.took_ms)} | {p50:.1f} | {p99:.1f} | {took[-1]:.1f} "
            f"| {one.failed} |"
        )
    return "\n".join(rows)


def measure(flags: argparse.Namespace) -> None:
    """Fill, load and ask a stack of its own."""
    with fresh_folder() as folder, systems.start_evp(folder) as system:
        if flags.single_frames:
            single_frames.fill(system, flags.stored)
        elif flags.stored:
            eps = min(FILL_EPS, flags.stored)
            seconds = flags.stored / eps
            loadtest(system, ["--eps", str(eps), "--duration", f"{seconds:.3f}s"])
        server = Server(system.url, system.key)
        load = ["--eps", str(flags.eps), "--batch", str(flags.batch)]
        load += ["--duration", f"{flags.seconds + 2:g}s"]
        with under_load(system, load) as wrong:
            time.sleep(1.0)
            asked = ask(server, flags.type, flags.seconds)
        summed, stored = compare(server, system)
        print(table(asked))
        print(f"\n{stored:,} documents, {summed:,} by the sums; {flags.eps:,} events/s came in")
        if wrong or summed != stored:
            sys.exit(f"not as it should be: {wrong or 'sums and documents differ'}")


def main() -> None:
    """Measure and print; progress on stderr, the table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stored", type=int, default=100_000, help="events to store before")
    parser.add_argument(
        "--single-frames", action="store_true", help="store each of them in a frame of its own"
    )
    parser.add_argument("--eps", type=int, default=20_000, help="events a second that come in")
    parser.add_argument("--batch", type=int, default=100, help="events a request")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to ask")
    parser.add_argument("--type", default="page_view", help="the type that is asked for")
    parser.add_argument("--url", help="ask a server that runs, and nothing else")
    parser.add_argument("--key", default="", help="its key")
    flags = parser.parse_args()
    prefer_built_store()
    print(machine(), file=sys.stderr)
    if flags.url:
        print(table(ask(Server(flags.url, flags.key), flags.type, flags.seconds)))
    else:
        measure(flags)


if __name__ == "__main__":
    main()
