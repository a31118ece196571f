"""`evp work`: from the log into the store, each event once, and a good end in any weather."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from evp.engines.engine import free_port
from evp.settings import Settings
from tests.e2e.commands import background, evp
from tests.e2e.log import groups_in_log, names_in_log
from tests.e2e.store import ids, once
from tests.support.streams import append_events
from tests.support.wait import until_now

GROUP = "evp-workers-group"
STOP_S_MAX = 5.0


def fill(settings: Settings, count: int, *, first: int = 0, each: int = 20) -> None:
    """Put events e<first>… into the log."""
    asyncio.run(append_events(settings, count, first=first, each=each))


def sums(db: Any) -> dict[str, int]:
    """Return all outcomes, added up."""
    outcomes = list(db.outcomes.find())
    return {
        "frames": len(outcomes),
        "stored": sum(outcome["stored"] for outcome in outcomes),
        "duplicate": sum(outcome["duplicate"] for outcome in outcomes),
        "dead": sum(len(outcome["dead"]) for outcome in outcomes),
    }


@pytest.mark.slow
def test_burst(shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path) -> None:
    """With --burst it drains the stream and ends with 0; run again it ends at once."""
    fill(settings, 1_000)
    for _ in range(2):
        assert evp("work", "--burst", environ=shared, cwd=tmp_path).code == 0
        assert ids(stored) == once(1_000)
        assert sums(stored) == {"frames": 50, "stored": 1_000, "duplicate": 0, "dead": 0}
        assert groups_in_log(shared) == {GROUP: (0, 0)}


@pytest.mark.slow
def test_three_processes(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """Three share a stream: each event is stored once, and the outcomes add up to all of them."""
    fill(settings, 3_000, each=50)
    fill(settings, 500, first=2_500, each=50)
    command = ("work", "--processes", "3", "--batch-size", "200", "--burst")
    assert evp(*command, environ=shared, cwd=tmp_path).code == 0
    assert ids(stored) == once(3_000)
    assert sums(stored) == {"frames": 70, "stored": 3_000, "duplicate": 500, "dead": 0}
    assert groups_in_log(shared) == {GROUP: (0, 0)}
    assert names_in_log(shared, GROUP) <= {"worker-1", "worker-2", "worker-3"}


@pytest.mark.slow
def test_killed_process_is_replaced(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """One of two that is killed is started again, and what it had in hand is stored once."""
    fill(settings, 1_000, each=10)
    command = ("work", "--processes", "2", "--batch-size", "50")
    with background(*command, environ=shared, cwd=tmp_path) as working:
        until_now(lambda: bool(stored.events.find_one()), what="it works")
        victim = psutil.Process(working.process.pid).children()[0]
        victim.send_signal(signal.SIGKILL)
        until_now(lambda: groups_in_log(shared) == {GROUP: (0, 0)}, what="all is settled")
        working.wait_says("child started again")
        stopped = working.stop()
    assert stopped.code == 0
    assert ids(stored) == once(1_000)


@pytest.mark.slow
def test_other_group_and_name(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """Another group is refused; asked for, it reads all again and stores nothing twice."""
    fill(settings, 200)
    evp("work", "--burst", environ=shared, cwd=tmp_path)
    command = ("work", "--group", "others", "--name", "second", "--burst")
    refused = evp(*command, environ=shared, cwd=tmp_path)
    assert refused.code == 2
    assert "--take-over" in refused.one_line
    done = evp(*command, "--take-over", environ=shared, cwd=tmp_path)
    assert done.code == 0
    assert '"consumer":"second-1"' in done.err
    assert ids(stored) == once(200)
    assert groups_in_log(shared) == {GROUP: (0, 0), "others": (0, 0)}
    assert names_in_log(shared, "others") == set()


@pytest.mark.slow
def test_two_processes_are_taken_over(
    shared: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    """They end with 2 and say why; one that is started again does not take the group back."""
    command = ("work", "--processes", "2", "--take-over")
    with background(*command, environ=shared, cwd=tmp_path) as working:
        until_now(lambda: working.text.count('"event":"working"') == 2, what="both work")
        psutil.Process(working.process.pid).children()[0].send_signal(signal.SIGKILL)
        taking = ("work", "--group", "others", "--take-over", "--burst")
        assert evp(*taking, environ=shared, cwd=tmp_path).code == 0
        code = working.process.wait(STOP_S_MAX + 10)
    assert code == 2
    assert "group 'others' of stream" in working.text
    assert "may not go on: see why above" in working.text
    refused = evp("work", "--burst", environ=shared, cwd=tmp_path)
    assert (refused.code, "group 'others' of stream" in refused.err) == (2, True)


@pytest.mark.slow
def test_told_to_stop_in_the_middle(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """It ends with 0 within 5 s, nothing stays pending that was not given back, none is lost."""
    fill(settings, 2_000, each=10)
    with background("work", "--batch-size", "50", environ=shared, cwd=tmp_path) as working:
        until_now(lambda: bool(stored.events.find_one()), what="it works")
        stopped = working.stop(signal.SIGTERM)
    assert stopped.code == 0
    assert stopped.seconds < STOP_S_MAX
    assert "Traceback" not in working.text
    assert evp("work", "--burst", environ=shared, cwd=tmp_path).code == 0
    assert ids(stored) == once(2_000)
    assert sums(stored)["stored"] == 2_000


@pytest.mark.parametrize(("key", "processes"), [("EVP_MONGO_URL", "1"), ("EVP_REDIS_URL", "2")])
def test_engine_that_is_away_from_the_start(
    shared: dict[str, str], tmp_path: Path, key: str, processes: str
) -> None:
    """It waits for log and store, and ends with 0 within 5 s when told to, even while it dials."""
    shared["EVP_LOG_LEVEL"] = "debug"
    scheme = "mongodb" if "MONGO" in key else "redis"
    shared[key] = f"{scheme}://127.0.0.1:{free_port()}"
    command = ("work", "--processes", processes)
    with background(*command, environ=shared, cwd=tmp_path) as working:
        working.wait_says("Server selection started" if "MONGO" in key else "can't reach the log")
        stopped = working.stop()
    assert stopped.code == 0
    assert stopped.seconds < STOP_S_MAX
    assert "Traceback" not in working.text


def test_second_signal_ends_it_at_once(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """A worker that waits for the store does not finish its time when it is urged."""
    fill(settings, 100)
    shared["EVP_LOG_LEVEL"] = "debug"
    shared["EVP_SHUTDOWN_TIMEOUT_S"] = "30"
    shared["EVP_MONGO_URL"] = f"mongodb://127.0.0.1:{free_port()}"
    with background("work", environ=shared, cwd=tmp_path) as working:
        working.wait_says("Server selection started")
        working.process.send_signal(signal.SIGINT)
        assert working.stop(signal.SIGTERM).seconds < 15


def test_wrong_flags(clean: dict[str, str], tmp_path: Path) -> None:
    """Flags that make no sense are told together, with what was wanted; exit 2."""
    done = evp("work", "--group", "a b", "--batch-size", "0", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert done.err.splitlines() == [
        "evp: wrong settings:",
        "  EVP_CONSUMER_GROUP (flag) = 'a b': wanted a name without spaces or braces",
        "  EVP_WORKER_BATCH_SIZE (flag) = '0': wanted 1 to 100000",
    ]
