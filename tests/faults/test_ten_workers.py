"""Ten workers of one group: every event once, the outcomes add up, memory stays flat."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.e2e.feed import Pace, feeding
from tests.support.up import Up, running_up

WORKERS = 10
FIRST = 20_000
EVENTS = 100_000
GROWTH_BYTES_MAX = 2 * 1024 * 1024
SOURCE = "ten"

pytestmark = pytest.mark.timeout(300)


def rss_bytes(up: Up) -> dict[str, int]:
    """Return the resident memory of each worker."""
    return {
        name: psutil.Process(pid).memory_info().rss
        for name, pid in up.children.items()
        if name.startswith("work-")
    }


def test_ten_workers_of_one_group(tmp_path: Path) -> None:
    """100,000 events are stored once; each worker grows by less than 2 MiB after 20,000."""
    with (
        running_up(tmp_path, "--work-processes", str(WORKERS)) as up,
        feeding(up.http_url, up.api_key, SOURCE, Pace(EVENTS, batch_events=100)) as feed,
    ):
        feed.wait_accepted(FIRST, within_s=60)
        up.wait_stored(SOURCE, FIRST, within_s=60)
        before, pids = rss_bytes(up), up.children
        feed.wait_accepted(EVENTS, within_s=90)
        accepted = feed.finish()
        up.wait_stored(SOURCE, EVENTS, within_s=180)
        after = rss_bytes(up)
        assert up.children == pids
        assert up.stored(SOURCE) == accepted
        with up.store() as db:
            outcomes = list(db.outcomes.find())
            shares = {one["_id"]: one["totals"]["stored"] for one in db.workers.find()}
        assert sum(one["stored"] for one in outcomes) == EVENTS
        assert sum(one["duplicate"] + len(one["dead"]) for one in outcomes) == 0
        assert len(shares) == WORKERS
        assert "pool" not in up.text
        growth = {name: after[name] - before[name] for name in before}
        assert max(growth.values()) < GROWTH_BYTES_MAX, growth
