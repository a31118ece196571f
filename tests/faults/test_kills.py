"""kill -9 in the middle of a stream: what was accepted is stored, each event once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.feed import Pace, feeding
from tests.support.up import running_up

EVENTS = 20_000
SOURCE = "kill"

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("victim", ["work-1", "store", "log", "serve-1"])
def test_killed_in_the_middle(tmp_path: Path, victim: str) -> None:
    """Each of 20,000 events is stored once, whoever is killed and started again meanwhile."""
    with (
        running_up(tmp_path) as up,
        feeding(up.http_url, up.api_key, SOURCE, Pace(EVENTS)) as feed,
    ):
        for share in (0.25, 0.5, 0.75):
            feed.wait_accepted(int(EVENTS * share), within_s=60)
            pid = up.kill_child(victim)
            up.wait_restarted(victim, pid)
        feed.wait_accepted(EVENTS, within_s=90)
        accepted = feed.finish()
        up.wait_stored(SOURCE, len(accepted), within_s=90)
        assert len(accepted) == EVENTS
        assert up.stored(SOURCE) == accepted
        with up.store() as db:
            assert db.dead_letters.count_documents({}) == 0
