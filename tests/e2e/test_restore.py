"""Backup and restore as docs/OPERATIONS.md has it: one side or both, and what verify says then."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Finished, evp
from tests.support.backup import back_up_log
from tests.support.make import event, ndjson
from tests.support.up import Up
from tests.support.wait import until_now

EVENTS = 300
BEFORE, AFTER, LATE = "before", "after", "late"
"""Sources of events: stored before the backup, after it, and never (the log had them alone)."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def send(up: Up, source: str) -> None:
    """Send events: the same ones each time."""
    events = ndjson(*(event(number, source=source) for number in range(EVENTS)))
    done = evp("send", "-", environ=up.environ, cwd=up.folder, stdin=events)
    assert done.code == 0, done.err


def verify(up: Up, *flags: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and report of `evp verify`."""
    done: Finished = evp("verify", *flags, "--json", environ=up.environ, cwd=up.folder)
    report: dict[str, Any] = json.loads(done.out)
    return done.code, report


def stored(up: Up) -> dict[str, int]:
    """Return how many events of each source are stored; none may be there twice."""
    found: Counter[str] = Counter()
    for source in (BEFORE, AFTER, LATE):
        counts = up.stored(source)
        assert set(counts.values()) <= {1}
        found[source] = len(counts)
    return dict(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` of an evp that has stopped, and `backup`: its log, and then its store.

    Its last events were accepted, and no worker has seen them.
    """
    folder = tmp_path_factory.mktemp("site")
    up = Up(folder)
    try:
        up.run()
        send(up, BEFORE)
        up.wait_stored(BEFORE, EVENTS)
        back_up_log(up.facts.redis_url, up.data_dir / "log", folder / "backup" / "log")
        assert up.stop().code == 0
        shutil.copytree(up.data_dir / "store", folder / "backup" / "store")
        up.run()
        send(up, AFTER)
        up.wait_stored(AFTER, EVENTS)
        os.kill(up.children["work-1"], signal.SIGSTOP)
        send(up, LATE)
        until_now(lambda: recorded(up) >= EVENTS * 2, what="it is recorded how far the server got")
        up.stop()
    finally:
        up.clean_up()
    return folder


def recorded(up: Up) -> int:
    """Return how many events the newest server has accepted, as the store knows it."""
    with up.store() as db:
        [newest] = db.servers.find().sort("first_at", -1).limit(1)
        return int(newest["events"])


@pytest.fixture
def up(site: Path, tmp_path: Path) -> Iterator[Up]:
    """That evp, in a folder of the test's own, about to be started again."""
    shutil.copytree(site / "data", tmp_path / "data")
    up = Up(tmp_path)
    yield up
    up.clean_up()


def put_back(site: Path, up: Up, engine: str) -> None:
    """Lose what an engine has, and put the backup in its place."""
    shutil.rmtree(up.data_dir / engine)
    shutil.copytree(site / "backup" / engine, up.data_dir / engine)


def test_store_is_put_back(site: Path, up: Up) -> None:
    """What it lacks is named; the log still has it, so a repair writes it again, all of it once."""
    put_back(site, up, "store")
    up.run()
    until_now(up.drained, what="what waited is stored")
    code, report = verify(up)
    assert (code, set(report["findings_by_kind"])) == (1, {"acked_not_stored"})
    assert sum(one["events"] for one in report["findings"]) == EVENTS
    assert stored(up) == {BEFORE: EVENTS, AFTER: 0, LATE: EVENTS}
    verify(up, "--repair")
    up.wait_stored(AFTER, EVENTS)
    assert verify(up, "--all")[0] == 0
    assert stored(up) == {BEFORE: EVENTS, AFTER: EVENTS, LATE: EVENTS}


def test_log_is_put_back(site: Path, up: Up) -> None:
    """What only the lost one had is named as a hole; sent again it is stored, and nothing twice."""
    put_back(site, up, "log")
    up.run()
    until_now(up.drained, what="what the old log had is settled")
    code, report = verify(up)
    assert (code, set(report["findings_by_kind"])) == (1, {"hole"})
    assert sum(one["events"] for one in report["findings"]) == EVENTS
    assert stored(up) == {BEFORE: EVENTS, AFTER: EVENTS, LATE: 0}
    for source in (AFTER, LATE):
        send(up, source)
    up.wait_stored(LATE, EVENTS)
    assert stored(up) == {BEFORE: EVENTS, AFTER: EVENTS, LATE: EVENTS}
    # That it was lost once stays known, until somebody takes note of it.
    assert verify(up)[1]["findings"] == report["findings"]
    assert verify(up, "--acknowledge", "restored from a backup, sent again")[0] == 0


def test_both_are_put_back(site: Path, up: Up) -> None:
    """All is as at the backup, and clean; what came later is unknown until it is sent again."""
    put_back(site, up, "log")
    put_back(site, up, "store")
    up.run()
    until_now(up.drained, what="what the old log had is settled")
    assert verify(up, "--all")[0] == 0
    assert stored(up) == {BEFORE: EVENTS, AFTER: 0, LATE: 0}
    for source in (BEFORE, AFTER, LATE):
        send(up, source)
    up.wait_stored(LATE, EVENTS)
    assert verify(up, "--all")[0] == 0
    assert stored(up) == {BEFORE: EVENTS, AFTER: EVENTS, LATE: EVENTS}
