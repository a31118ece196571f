"""A hundred looks at a healthy system that is hard at work: not one false finding."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.e2e import commands
from tests.e2e.feed import Pace, feeding
from tests.support.up import Up, running_up
from tests.support.wait import until_now

RUNS = 100
#: After so many looks one of the processes is killed.
KILL_EVERY = 10
SOURCE = "healthy"
SCOPES: tuple[list[str], ...] = ([], ["--all"], ["--since", "2m"], ["--sample", "50"])

pytestmark = pytest.mark.timeout(1800)


def verified(up: Up, *flags: str) -> dict[str, object]:
    """Return what `evp verify` says."""
    done = commands.evp("verify", "--json", *flags, environ=up.environ, cwd=up.folder, within_s=120)
    assert done.code == 0, done.out + done.err
    report: dict[str, object] = json.loads(done.out)
    assert (report["clean"], report["findings"]) == (True, [])
    return report


def test_a_hundred_looks(tmp_path: Path) -> None:
    """Events flow, workers and servers are killed and come back, and every look is clean."""
    flags = ("--serve-processes", "2", "--work-processes", "2")
    pace = Pace(events_max=10_000_000, batch_events=2, pause_s=0.05)
    with (
        running_up(tmp_path, *flags) as up,
        feeding(up.http_url, up.api_key, SOURCE, pace) as feed,
    ):
        feed.wait_accepted(500, within_s=60)
        for number in range(RUNS):
            verified(up, *SCOPES[number % len(SCOPES)])
            if number % KILL_EVERY == KILL_EVERY - 1:
                victim = ("work-1", "serve-1", "work-2", "serve-2")[number // KILL_EVERY % 4]
                up.wait_restarted(victim, up.kill_child(victim))
            feed.wait_more(1)
        accepted = feed.finish()
        until_now(up.drained, what="all is stored", within_s=120)
        counts = verified(up, "--all")["counts"]
        assert isinstance(counts, dict)
        # A request whose answer was lost with its server was stored, and then came again.
        assert counts["stored"] == len(accepted)
        assert counts["in_log_events"] == 0
        assert up.stop(signal.SIGINT).code == 0
