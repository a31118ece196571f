"""What the dashboard costs, and whether it keeps up: viewers, and a page under load.

    python scripts/bench/viewers.py --viewers 20 --seconds 20 --eps 50000

Runs `evp up` with ten workers in a folder of its own. First it weighs the server process
with nobody, with one and with all viewers of the event stream; then it offers events,
and a real Chromium watches: how long from one update to the next, and how long from a
click until the page has drawn what it did (the browser's own measure, Event Timing).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

from contenders import prefer_built_store
from load import loadtest
from machine import machine
from processes import Failed, cpu_s, fresh_folder
from systems import System, start_evp

WARM_UP_S = 5.0
CLICK_EVERY_S = 0.5
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Notes when the headline changed, and how long each click took until it was drawn.
NOTES = """() => {
  window.updates = [];
  window.clicks = [];
  const seen = new MutationObserver(() => window.updates.push(performance.now()));
  seen.observe(document.querySelector('#tiles .note'), {childList: true, characterData: true, subtree: true});
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) if (one.name === 'click') window.clicks.push(one.duration);
  }).observe({type: 'event', durationThreshold: 16});
}"""  # noqa: E501 - is JavaScript


@contextlib.contextmanager
def viewers(system: System, count: int) -> Iterator[None]:
    """Have so many watch the event stream, and throw away what they are told."""
    address = urlsplit(system.url)
    request = (
        f"GET /live HTTP/1.1\r\nhost: {address.netloc}\r\nx-api-key: {system.key}\r\n"
        "accept: text/event-stream\r\n\r\n"
    )
    sockets = [socket.create_connection((address.hostname, address.port)) for _ in range(count)]

    def read(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while one.recv(65536):
                pass

    threads = [threading.Thread(target=read, args=(one,)) for one in sockets]
    for one, thread in zip(sockets, threads, strict=True):
        one.sendall(request.encode())
        thread.start()
    try:
        yield
    finally:
        for one in sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in threads:
            thread.join()


def weigh(system: System, count: int, seconds: float) -> float:
    """Return which share of a core the server process needs with so many viewers."""
    serve = {"serve": system.pids["serve"]}
    with viewers(system, count):
        time.sleep(WARM_UP_S)
        before_s, started_at_s = cpu_s(serve)["serve"], time.monotonic()
        time.sleep(seconds)
        return (cpu_s(serve)["serve"] - before_s) / (time.monotonic() - started_at_s)


def log_in(page: Page, system: System, folder: Path) -> None:
    """Log in as the user that `evp up` has made."""
    output = folder / "up.out"
    system.processes.wait(lambda: "Login: " in output.read_text(), "the first user")
    [password] = re.findall(r"Login: admin / (\S+)", output.read_text())
    page.goto(system.url)
    page.fill("#login-name", "admin")
    page.fill("#login-password", password)
    page.click("#login-button")
    page.locator("#state[data-state=live]").wait_for()


def watch_under_load(system: System, folder: Path, eps: int, seconds: float) -> dict[str, Any]:
    """Return gaps between updates and times of clicks, ms, while events come in. Raises Failed."""
    found: dict[str, Any] = {}
    flags = ["--eps", str(eps), "--batch", "100", "--accept-only"]
    flags += ["--duration", f"{seconds + WARM_UP_S:g}s"]

    def load() -> None:
        try:
            found["load"] = loadtest(system, flags)
        except Failed as error:
            found["failed"] = error

    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        log_in(page, system, folder)
        thread = threading.Thread(target=load)
        thread.start()
        page.wait_for_timeout(1000 * WARM_UP_S)
        page.evaluate(NOTES)
        ends_at_s = time.monotonic() + seconds
        ranges = page.locator("#ranges label")
        for number in range(int(seconds / CLICK_EVERY_S)):
            if time.monotonic() > ends_at_s:
                break
            (ranges.nth(number % 4) if number % 2 else page.locator("#theme")).click()
            page.wait_for_timeout(1000 * CLICK_EVERY_S)
        updates = page.evaluate("window.updates")
        found["clicks_ms"] = page.evaluate("window.clicks")
        found["state"] = page.locator("#state").inner_text()
        browser.close()
        thread.join()
    if "failed" in found:
        raise found["failed"]
    found["gaps_ms"] = [after - before for before, after in itertools.pairwise(updates)]
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile; 0 of nothing."""
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Measure and print; progress on stderr, the table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--viewers", type=int, default=20, help="who watches at a time")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each part takes")
    parser.add_argument("--eps", type=int, default=50_000, help="events a second on offer")
    parser.add_argument("--workers", type=int, default=10, help="worker processes")
    flags = parser.parse_args()
    prefer_built_store()
    print(machine(), file=sys.stderr)
    workers = ("--work-processes", str(flags.workers))
    with fresh_folder() as folder, start_evp(folder, workers) as system:
        print("| viewers | server process, % of a core |\n| ---: | ---: |")
        for count in (0, 1, flags.viewers):
            print(f"| {count} | {100 * weigh(system, count, flags.seconds):.2f} |", flush=True)
        found = watch_under_load(system, folder, flags.eps, flags.seconds)
    print("\n| under load | p50 | p90 | most |\n| --- | ---: | ---: | ---: |")
    for name in ("gaps_ms", "clicks_ms"):
        told = [quantile(found[name], share) for share in (0.5, 0.9, 1.0)]
        row = " | ".join(f"{value:.0f}" for value in told)
        print(f"| {name}, {len(found[name])} of them | {row} |")
    accepted = found["load"]["accepted"] / (flags.seconds + WARM_UP_S)
    print(f"\n{flags.eps:,} events/s on offer, {accepted:,.0f}/s accepted; {found['state']}")


if __name__ == "__main__":
    main()
