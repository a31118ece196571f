"""The dashboard in a real browser: for anyone, whatever fails and whatever is sent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect

from tests.e2e.conftest import on_store
from tests.support.browser import chromium
from tests.support.up import Up, running_up
from tests.support.wait import until_now

HOSTILE = '<script>document.title = "owned"</script>'
SHUTDOWN_TIMEOUT_S = 20
#: A server that waits for who watches takes all of SHUTDOWN_TIMEOUT_S.
WATCHED_STOP_S_MAX = 12.0
#: What a browser itself says of answers that are no success, and of a server that is gone.
EXPECTED = re.compile(r"status of (401|503)|net::ERR_")

expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def up(browser: Browser, tmp_path_factory: pytest.TempPathFactory, store_url: str) -> Iterator[Up]:
    """An `evp up` of its own: it is hurt."""
    environ = on_store(store_url, f"dashboard{os.getpid()}")
    environ["EVP_SHUTDOWN_TIMEOUT_S"] = str(SHUTDOWN_TIMEOUT_S)
    with running_up(tmp_path_factory.mktemp("dashboard"), environ=environ) as up:
        until_now(lambda: "Login: " in up.text, what="a user is made")
        yield up


@pytest.fixture(scope="module")
def session(browser: Browser, up: Up) -> Any:
    """The cookies of somebody who has logged in."""
    context = browser.new_context()
    page = context.new_page()
    log_in(page, up)
    kept = context.storage_state()
    context.close()
    return kept


def log_in(page: Page, up: Up) -> None:
    """Log in as a person does."""
    [password] = re.findall(r"Login: admin / (\S+)", up.text)
    page.goto(up.http_url)
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#state")).to_have_text(re.compile("^Live"))


@contextlib.contextmanager
def watching(browser: Browser, **options: Any) -> Iterator[Page]:
    """Give a page that must have had no error, and broken no rule of its policy, at the end."""
    context = browser.new_context(**options)
    page = context.new_page()
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not EXPECTED.search(message.text):
            errors.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
    finally:
        context.close()
    assert errors == []


@pytest.fixture
def page(browser: Browser, up: Up, session: Any) -> Iterator[Page]:
    """A page that is live."""
    with watching(browser, storage_state=session) as page:
        page.goto(up.http_url)
        expect(page.locator("#state")).to_have_text(re.compile("^Live"))
        yield page


def away(route: Route) -> None:
    """Answer as evp does without a store."""
    route.fulfill(status=503, json={"code": "store_unavailable", "detail": "planted"})


def send(up: Up, *events: dict[str, Any]) -> None:
    """Send events."""
    headers = {"content-type": "application/json", "x-api-key": up.api_key}
    body = json.dumps(events).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{up.http_url}/events/batch", body, headers), timeout=20
    ).close()


def in_all(accepted: Locator) -> int:
    """Return how many events a tile says are accepted in all."""
    return int(re.sub(r"\D", "", accepted.inner_text()))


def problems(page: Page) -> list[str]:
    """Return what axe-core finds."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]


def test_log_in_by_keyboard_and_out(browser: Browser, up: Up) -> None:
    """A wrong password is told, the right one leads in, all of it by keys; log out ends it."""
    with watching(browser) as page:
        page.goto(up.http_url)
        expect(page.get_by_label("User name")).to_be_focused()
        assert problems(page) == []
        page.keyboard.type("admin")
        page.keyboard.press("Tab")
        page.keyboard.type("wrong and long enough")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").first).to_have_text("User name or password is wrong.")
        expect(page.get_by_label("Password")).to_be_focused()
        log_in(page, up)
        # As it is after a quarter of an hour: the session is renewed, once the store is there.
        page.context.clear_cookies(name="evp_access")
        page.route("**/auth/refresh", away, times=1)
        page.reload()
        expect(page.locator("#state")).to_have_attribute("data-state", "unrenewed")
        expect(page.locator("#state")).to_have_text(re.compile("^Live"))
        expect(page.locator("#workers tr")).to_have_count(1)
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to content")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Log out")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_label("User name")).to_be_focused()
        # What the next person may not read is not there either.
        assert page.locator("#board tr td, #board dd").count() == 0
        page.reload()
        expect(page.get_by_label("User name")).to_be_focused()


def test_log_out_that_fails_is_told(browser: Browser, up: Up) -> None:
    """Nobody is told to be logged out who is not."""
    with watching(browser) as page:
        log_in(page, up)
        page.route("**/auth/logout", lambda route: route.fulfill(status=503), times=1)
        page.get_by_role("button", name="Log out").click()
        expect(page.locator("#login-why")).to_contain_text("The session goes on")
        page.reload()
        expect(page.locator("#state")).to_have_text(re.compile("^Live"))


def test_events_are_seen_within_two_seconds(page: Page, up: Up) -> None:
    """What was sent is in the headline at once, stored and balanced shortly after."""
    tile = page.locator("#tiles > div").filter(has=page.get_by_text("Accepted", exact=True))
    accepted = tile.locator(".note")

    def seen_after_s(turn: int) -> float:
        before = in_all(accepted)
        send(up, *({"type": "page_view", "id": f"seen-{turn}-{n}"} for n in range(100)))
        started_at_s = time.monotonic()
        expect(accepted).to_have_text(f"{before + 100:,} in all")
        return time.monotonic() - started_at_s

    # Busy cores hold one of them up, not each.
    assert any(seen_after_s(turn) < 2 for turn in range(3))
    expect(page.locator("#balance")).to_have_attribute("data-level", "good")
    expect(page.locator("#balance-sum")).to_contain_text(f"{in_all(accepted):,} accepted = ")
    expect(page.locator("#chart-rates path.line").first).to_have_attribute("d", re.compile("^M"))
    expect(page.locator("#workers tr")).to_have_count(1)


def test_partition_that_is_away_is_told(page: Page, up: Up) -> None:
    """Of several partitions one that is away is a notice, by its number and the reason as text."""
    snapshot = page.request.get(f"{up.http_url}/live").json()
    snapshot["stats"]["partitions"] = [
        {"partition": number, "away": HOSTILE if number == 1 else None} for number in range(3)
    ]
    piece = f"event: snapshot\ndata: {json.dumps(snapshot)}\n\n"
    stream = {"content_type": "text/event-stream", "body": piece}
    page.route("**/live", lambda route: route.fulfill(**stream))
    page.reload()
    notices = page.locator("#notices")
    expect(notices).to_contain_text(
        f"Partition 1 of the log is away; servers use the others. {HOSTILE}"
    )
    expect(page.locator("#log-facts")).to_contain_text("1 away")


def test_dead_letter_is_shown_as_text_and_replayed(page: Page, up: Up) -> None:
    """Whatever an event holds is text on the page; after a question it is delivered once more."""
    refuse = {"$jsonSchema": {"required": ["subject"]}}
    with up.store() as db:
        db.command({"collMod": "events", "validator": refuse})
    send(up, {"type": HOSTILE, "id": "dead", "data": {"note": HOSTILE}})
    show = page.get_by_role("button", name="Show letters: document_validation")
    show.click()
    expect(page.locator("#dead-letters td").first).to_have_text(HOSTILE)
    page.get_by_role("button", name=re.compile("Look at letter")).click()
    letter = page.locator("#letter")
    expect(letter.locator("pre")).to_contain_text(json.dumps(HOSTILE))
    assert problems(page) == []
    page.keyboard.press("Escape")
    expect(letter).to_be_hidden()
    with up.store() as db:
        db.command({"collMod": "events", "validator": {}})
    page.get_by_role("button", name="Replay letters: document_validation").click()
    dialog = page.locator("#replay")
    expect(dialog).to_contain_text("1 to deliver once more")
    with up.store() as db:
        assert db.events.find_one({"id": "dead"}) is None
    dialog.get_by_role("button", name="Replay 1").click()
    expect(dialog).to_contain_text("1 delivered, none refused.")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#dead-none")).to_have_text("There are none.")
    with up.store() as db:
        assert db.events.find_one({"id": "dead"})["type"] == HOSTILE
    assert page.title() == "evp"


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 360)])
def test_for_everyone(browser: Browser, up: Up, session: Any, theme: Any, width: int) -> None:
    """In either theme axe-core finds nothing, on a desktop and on a phone, and nothing is cut."""
    size: Any = {"width": width, "height": 740}
    options = {"storage_state": session, "color_scheme": theme, "viewport": size}
    with watching(browser, **options) as page:
        page.goto(up.http_url)
        expect(page.locator("#state")).to_have_text(re.compile("^Live"))
        expect(page.locator("#past-tiles")).to_contain_text("Stored")
        assert problems(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        chart = page.get_by_role("img", name=re.compile("^Throughput"))
        chart.focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#chart-rates .readout")).to_have_text(re.compile("accepted [0-9]"))


def test_engine_and_server_go_and_come_back(page: Page, up: Up) -> None:
    """A log that is away is said, and a server that is; the page heals by itself."""
    log = up.children["log"]
    os.kill(log, signal.SIGSTOP)
    try:
        expect(page.locator("#notices")).to_contain_text("The log is away")
    finally:
        os.kill(log, signal.SIGCONT)
    expect(page.locator("#notices")).to_be_empty()
    server = up.kill_child("serve-1")
    expect(page.locator("#state")).to_have_attribute("data-state", "away")
    expect(page.locator("#state")).to_have_text(re.compile(r"No answer, trying again since \d+ s"))
    up.wait_restarted("serve-1", server)
    expect(page.locator("#state")).to_have_text(re.compile("^Live"))


def test_open_page_does_not_hold_up_the_end(page: Page, up: Up) -> None:
    """`evp up` ends as quickly as ever while somebody watches; who watches is told."""
    assert up.stop().seconds < WATCHED_STOP_S_MAX
    expect(page.locator("#state")).to_have_attribute("data-state", "away")
