"""A real Chromium: found on PATH, one for all tests of a module.

Tests that need it are skipped where there is none, by this module's name; with
EVP_REQUIRE_CHROMIUM=1 that is a failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium_path() -> str:
    """Return where Chromium is; skips the test, or fails it, where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = f"needs Chromium on PATH, as one of {', '.join(NAMES)}"
        if os.environ.get("EVP_REQUIRE_CHROMIUM") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Give a browser without a window; it is closed at the end."""
    path = chromium_path()
    # Its own sandbox needs rights that root in a container lacks, and root is refused without this.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()
