"""Compare evp with the limit of its store, and its HTTP layer with a plain ASGI app.

    python scripts/bench/run.py --seconds 6 --rounds 3

Only figures of one run compare, so everything is measured in turns and told as
a ratio. Needs wrk. Whatever engines `evp up` finds are used, with its defaults:
one server process, one worker, and the generator on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern

from evp.documents import Admission
from evp.plain import read_entry
from evp.running import Running, read
from evp.storage.schema import EVENTS
from evp.stream.client import Link
from evp.stream.info import log_facts
from evp.stream.keys import Keys

T = TypeVar("T")
HERE = Path(__file__).parent
STREAM = "evp:events"
CONNECTIONS = {100: 32, 1: 128}
BARE_BATCH_EVENTS = 1000
BARE_EVENTS_MAX = 200_000
START_S_MAX = 30.0
DRAIN_S_MAX = 300.0


class Load(NamedTuple):
    """One run of the generator: what became of it, and what wrk saw."""

    stored: int
    stored_per_s: float
    accepted_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


@contextmanager
def up(folder: Path) -> Iterator[Running]:
    """Run `evp up` in a folder of its own."""
    command = [sys.executable, "-m", "evp", "up", "--port", "0", "--data-dir", str(folder)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield _wait(lambda: read(folder), "evp up")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


@contextmanager
def asgi_server(running: Running) -> Iterator[str]:
    """Run the same handler as an ASGI app on the same engines; gives its address."""
    environ = {
        "EVP_REDIS_URL": running.redis_url,
        "EVP_MONGO_URL": running.mongo_url,
        "EVP_API_KEYS": running.api_key,
    }
    process = subprocess.Popen(
        [sys.executable, HERE / "asgi_server.py"],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port = process.stdout.readline() if process.stdout else ""
        yield f"http://127.0.0.1:{int(port)}"
    finally:
        process.terminate()
        process.wait()


def load(running: Running, url: str, events: int, seconds: float) -> Load:
    """Run wrk, wait until the worker has stored all, and return what happened."""
    before, _ = backlog(running)
    environ = {"EVENTS": str(events), "KEY": running.api_key, "RUN": secrets.token_hex(4)}
    command = ["wrk", "-t1", f"-c{CONNECTIONS[events]}", f"-d{seconds:g}s"]
    started_at_s = time.monotonic()
    output = subprocess.run(
        [*command, "-s", HERE / "events.lua", url],
        env=os.environ | environ,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    accepted = backlog(running)[0] - before
    accepting_s = time.monotonic() - started_at_s
    _wait(lambda: backlog(running)[1] == 0, "the worker", DRAIN_S_MAX, look_s=0.02)
    result = json.loads(output.partition("RESULT ")[2])
    return Load(
        accepted,
        accepted / (time.monotonic() - started_at_s),
        accepted / accepting_s,
        result["p50_ms"],
        result["p99_ms"],
        result["failed"],
    )


def bare_inserts(running: Running, count: int) -> float:
    """Insert the newest documents of the log into an empty database; return events a second.

    One writer, the same write concern, nothing else running.
    """
    documents = asyncio.run(_documents(running, count))
    client: MongoClient[RawBSONDocument] = MongoClient(running.mongo_url)
    name = f"bare_{secrets.token_hex(4)}"
    database = client.get_database(name, write_concern=WriteConcern("majority", j=True))
    database.create_collection(EVENTS, clusteredIndex={"key": {"_id": 1}, "unique": True})
    started_at_s = time.monotonic()
    for start in range(0, len(documents), BARE_BATCH_EVENTS):
        database[EVENTS].insert_many(documents[start : start + BARE_BATCH_EVENTS], ordered=False)
    took_s = time.monotonic() - started_at_s
    client.drop_database(name)
    client.close()
    return len(documents) / took_s


def backlog(running: Running) -> tuple[int, int]:
    """Return events accepted so far, and entries that are not settled yet."""

    async def look() -> tuple[int, int]:
        link = await Link.open(running.redis_url)
        try:
            facts = await log_facts(link, Keys(STREAM))
        finally:
            await link.close()
        left = sum(group.pending + group.lag_events for group in facts.groups)
        return facts.events_accepted, left

    return asyncio.run(look())


async def _documents(running: Running, count: int) -> list[RawBSONDocument]:
    documents: list[RawBSONDocument] = []
    link = await Link.open(running.redis_url)
    before = "+"
    while len(documents) < count:
        entries = await link.call("XREVRANGE", STREAM, before, "-", "COUNT", 20)
        if not entries:
            break
        for raw_id, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            entry_id = raw_id.decode()
            frame = read_entry(STREAM, entry_id, fields, Admission("evp", time_in_id=True))
            documents += frame.documents
            before = f"({entry_id}"
    await link.close()
    return documents[:count]


def _wait(
    look: Callable[[], T], what: str, s_max: float = START_S_MAX, *, look_s: float = 0.1
) -> T:
    ends_at_s = time.monotonic() + s_max
    while not (found := look()):
        if time.monotonic() > ends_at_s:
            raise SystemExit(f"{what} took more than {s_max:g} s")
        time.sleep(look_s)
    return found


def measure(seconds: float, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return the figures of all rounds by what was measured."""
    found: dict[str, list[dict[str, float]]] = {}

    def keep(name: str, figures: dict[str, float]) -> None:
        found.setdefault(name, []).append(figures)
        shown = "  ".join(f"{key} {value:,.2f}" for key, value in figures.items())
        print(f"  {name:<14} {shown}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="evp-bench-") as name, up(Path(name)) as running:
        load(running, running.http_url, 100, 1.0)
        for _ in range(rounds):
            batches = load(running, running.http_url, 100, seconds)
            bare_per_s = bare_inserts(running, min(batches.stored, BARE_EVENTS_MAX))
            keep("batches of 100", batches._asdict())
            keep("bare inserts", {"stored_per_s": bare_per_s})
            keep("evp / bare", {"ratio": batches.stored_per_s / bare_per_s})
        for number in range(rounds):
            turns = [("single", running.http_url)]
            with asgi_server(running) as url:
                turns.insert(number % 2, ("single, ASGI", url))
                results = {turn: load(running, address, 1, seconds) for turn, address in turns}
            for turn, result in results.items():
                keep(turn, result._asdict())
            one, other = results["single"], results["single, ASGI"]
            keep(
                "single / ASGI",
                {
                    "ratio": one.stored_per_s / other.stored_per_s,
                    "accept_ratio": one.accepted_per_s / other.accepted_per_s,
                },
            )
    return found


def main() -> None:
    """Measure and print; figures of rounds on stderr, medians on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each load lasts")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--json", action="store_true", help="print every round as JSON")
    flags = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk was not found; install it (Debian: apt-get install wrk)")
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    found = measure(flags.seconds, flags.rounds)
    if flags.json:
        print(json.dumps(found))
        return
    for name, rounds in found.items():
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{name:<16}" + "  ".join(f"{key} {value:,.2f}" for key, value in medians.items()))


if __name__ == "__main__":
    main()
