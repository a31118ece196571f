"""Make the pictures of the dashboard in docs/images: a real browser on a real `evp up`.

    python scripts/screenshots.py          # some three minutes

Events of a shop come in at a changing pace, some of them dead letters and some doubled; then
as many as the machine takes; then the log is suspended. Needs Chromium on PATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright
from pymongo import MongoClient

from evp import running
from evp.running import Running

IMAGES = Path(__file__).parent.parent / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY_S_MAX = 60.0
SHOP_S = 100.0
LOAD = ("--eps", "40000", "--duration", "25s", "--accept-only")
DESKTOP = {"width": 1280, "height": 1000}
PHONE = {"width": 360, "height": 780}
TYPES = ("page_view", "search", "add_to_cart", "order.placed", "payment.settled")
WEIGHTS = (60, 20, 12, 6, 5)
DEAD_SHARE = 0.004


class Stage(NamedTuple):
    """What runs: its addresses, and the password that it told."""

    facts: Running
    password: str


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Run `evp up` in a folder."""
    environ = os.environ | {"EVP_DATA_DIR": str(folder), "EVP_CONSUMER_NAME": "worker"}
    output = folder / "out"
    with output.open("wb") as file:
        up = subprocess.Popen(
            [sys.executable, "-m", "evp", "up", "--port", "0", "--work-processes", "4"],
            env=environ,
            cwd=folder,
            stdout=file,
            stderr=file,
        )
    try:
        until_s = time.monotonic() + READY_S_MAX
        while not (found := re.search(r"Login: admin / (\S+)", output.read_text())):
            if up.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(output.read_text())
            time.sleep(0.1)
        facts = running.read(folder)
        if facts is None:
            raise SystemExit("evp up has ended")
        yield Stage(facts, found[1])
    finally:
        up.terminate()
        up.wait()


def refuse_some(facts: Running) -> None:
    """Let the store refuse payments without an amount, as a validator of somebody's would."""
    client: MongoClient[Any] = MongoClient(facts.mongo_url)
    rule = {"$or": [{"type": {"$ne": "payment.settled"}}, {"data.amount": {"$exists": True}}]}
    with client:
        client[facts.mongo_db].command({"collMod": "events", "validator": rule})


def shop(facts: Running, ends_at_s: float) -> None:
    """Send what a shop sends, at a changing pace."""
    chance = random.Random(7)  # noqa: S311 - is no secret
    number = 0
    while (left_s := ends_at_s - time.monotonic()) > 0:
        count = int(chance.gauss(160, 25) * (1.5 if 40 < left_s < 60 else 1.0))
        events = [event(chance, number + one) for one in range(max(1, count))]
        number += len(events) - 2  # The last ones are sent again.
        body = json.dumps(events).encode()
        headers = {"content-type": "application/json", "x-api-key": facts.api_key}
        request = urllib.request.Request(f"{facts.http_url}/events/batch", body, headers)  # noqa: S310 - is the server's own
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - see above
        time.sleep(0.1)


def event(chance: random.Random, number: int) -> dict[str, Any]:
    """Return an event of a shop."""
    [kind] = random.Random(number).choices(TYPES, WEIGHTS)  # noqa: S311 - is no secret
    data: dict[str, Any] = {"order": number}
    if kind == "payment.settled" and chance.random() > DEAD_SHARE * 20:
        data["amount"] = number % 90 + 9.9
    return {"type": kind, "source": "shop", "id": f"shop-{number}", "data": data}


def log_in(page: Page, on: Stage) -> None:
    """Log in, and wait until the page is live."""
    page.goto(on.facts.http_url)
    page.fill("#login-name", "admin")
    page.fill("#login-password", on.password)
    page.click("#login-button")
    page.locator("#state[data-state=live]").wait_for()


def save(page: Page, name: str) -> None:
    """Save what is seen."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)
    page.screenshot(path=IMAGES / f"{name}.png")
    print(f"{name}.png: {(IMAGES / f'{name}.png').stat().st_size / 1024:.0f} KiB", file=sys.stderr)


def section(page: Page, title: str) -> None:
    """Scroll to a section."""
    page.evaluate("id => document.getElementById(id).scrollIntoView()", title)


def take_pictures(browser: Browser, on: Stage) -> None:
    """Take all pictures, one after the other."""
    page = browser.new_page(viewport=DESKTOP)
    log_in(page, on)
    refuse_some(on.facts)
    ends_at_s = time.monotonic() + SHOP_S
    sending = threading.Thread(target=shop, args=(on.facts, ends_at_s))
    sending.start()
    page.wait_for_timeout(1000 * (SHOP_S - 12))
    save(page, "dashboard")
    session = page.context.storage_state()
    for name, options in (
        ("dashboard-dark", {"viewport": DESKTOP, "color_scheme": "dark"}),
        ("dashboard-phone", {"viewport": PHONE, "device_scale_factor": 2}),
    ):
        other = browser.new_page(storage_state=session, **options)
        other.goto(on.facts.http_url)
        other.locator("#dead-groups tr").first.wait_for()
        other.locator("#past-tiles > div").first.wait_for()
        if "dark" in name:
            section(other, "engines-title")
        save(other, name)
        other.close()
    sending.join()
    section(page, "dead-title")
    page.get_by_role("button", name="Show letters").first.click()
    page.get_by_role("button", name="Look at letter").first.click()
    page.locator("#letter[open]").wait_for()
    save(page, "dashboard-letter")
    page.keyboard.press("Escape")
    page.evaluate("scrollTo(0, 0)")
    load = [sys.executable, "-m", "evp", "loadtest", "--url", on.facts.http_url, *LOAD]
    loading = subprocess.Popen([*load, "--key", on.facts.api_key], stdout=subprocess.DEVNULL)
    page.wait_for_timeout(21_000)
    save(page, "dashboard-load")
    loading.wait()
    os.kill(on.facts.children["log"], signal.SIGSTOP)
    try:
        page.locator("#notices .notice").wait_for()
        page.wait_for_timeout(2000)
        save(page, "dashboard-log-away")
    finally:
        os.kill(on.facts.children["log"], signal.SIGCONT)


def main() -> None:
    """Run everything, and save the pictures."""
    IMAGES.mkdir(exist_ok=True)
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with (
        tempfile.TemporaryDirectory(prefix="evp-pictures-") as name,
        stage(Path(name)) as on,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        take_pictures(browser, on)
        browser.close()


if __name__ == "__main__":
    main()
