"""`evp drill` as a person runs it: what it refuses to hurt, every fault, Ctrl-C in the middle."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from evp.drill.faults import Fault
from evp.drill.limits import DRILL_WAKE_MARGIN_S
from tests.e2e.commands import Background, background, evp
from tests.support.up import Up, running_up
from tests.support.wait import until_now

#: Entries of a worker that is paused are taken over after seconds, and not after a minute.
BRISK = {"EVP_CLAIM_IDLE_MS": "3500", "EVP_WRITE_TIMEOUT_MS": "1000"}
DRILL_S_MAX = 280.0
pytestmark = pytest.mark.timeout(DRILL_S_MAX + 20)


def test_unknown_fault(clean: dict[str, str], tmp_path: Path) -> None:
    """The message lists those that there are; exit 2."""
    done = evp("drill", "--fault", "pull-plug", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert all(fault in done.err for fault in Fault)


def test_nothing_runs_here(clean: dict[str, str], tmp_path: Path) -> None:
    """Without an `evp up` nothing is touched, and it says what to do; exit 2."""
    done = evp("drill", environ=clean, cwd=tmp_path)
    assert done.code == 2
    assert "no `evp up` runs in" in done.one_line
    assert "--yes-really" in done.one_line


def test_engines_of_somebody_else(up: Up) -> None:
    """A store that `evp up` was only told of is not broken; nor stopped by one who insists."""
    done = evp("drill", "--fault", "drop-group", environ=up.environ, cwd=up.folder)
    assert done.code == 2
    assert "does not run its store itself" in done.one_line
    insisting = ("drill", "--fault", "stop-store", "--fault", "kill-serve", "--yes-really")
    done = evp(*insisting, environ=up.environ, cwd=up.folder)
    assert done.code == 2
    assert "can't do stop-store" in done.one_line
    assert "--fault restart-log" in done.one_line
    assert up.count("evp-drill") == 0


def test_settings_that_lead_elsewhere(up: Up) -> None:
    """A database that is not that of the `evp up` found here is not drilled by mistake; exit 2."""
    done = evp("drill", environ=up.environ | {"EVP_MONGO_DB": "shop"}, cwd=up.folder)
    assert done.code == 2
    assert "the settings lead to" in done.one_line
    assert "the database shop" in done.one_line


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `evp up` with engines of its own and two workers, to be hurt."""
    folder = tmp_path_factory.mktemp("own")
    with running_up(folder, "--work-processes", "2", environ=BRISK) as up:
        yield up


@pytest.mark.slow
def test_every_fault(own: Up) -> None:
    """All faults in turn, and everything that was accepted is stored once; exit 0."""
    flags = ("drill", "--duration", "2s", "--eps", "300", "--json")
    done = evp(*flags, environ=own.environ, cwd=own.folder, within_s=DRILL_S_MAX)
    assert done.code == 0, done.out
    assert done.one_line.startswith("6 faults, ")
    report = json.loads(done.out)
    assert [one["fault"] for one in report["turns"]] == list(Fault)
    assert {one["verdict"] for one in report["turns"]} == {"clean"}
    assert report["clean"]
    assert report["sent"] == report["accepted"] + report["refused"] + report["unknown"]
    assert own.count(report["source"]) == report["accepted"] + report["recovered"]
    paused = report["turns"][list(Fault).index(Fault.PAUSE_WORKER)]
    assert paused["held_s"] > 3.5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_in_the_middle(own: Up, number: int) -> None:
    """However a drill ends while the store is stopped, the store goes on; Ctrl-C tells the rest."""
    flags = ("drill", "--fault", "stop-store", "--duration", "60s")
    with background(*flags, environ=own.environ, cwd=own.folder, name=f"{number}") as drill:
        wait_status(own, stopped=True)
        stopped = drill.stop(number)
    wait_status(own, stopped=False)
    if number == signal.SIGINT:
        assert stopped.code == 130
        assert "stop-store" in drill.text
        assert "interrupted" in told(drill)
    assert own.count("nobody") == 0


@pytest.mark.slow
def test_stopped_in_the_middle(own: Up) -> None:
    """The store goes on although the drill stands still (Ctrl-Z), and the drill when it may."""
    flags = ("drill", "--fault", "stop-store", "--duration", "4s", "--json")
    with background(*flags, environ=own.environ, cwd=own.folder, name="stopped") as drill:
        wait_status(own, stopped=True)
        drill.process.send_signal(signal.SIGSTOP)
        wait_status(own, stopped=False)
        drill.process.send_signal(signal.SIGCONT)
        assert drill.wait(within_s=DRILL_S_MAX).code == 0
    assert 2 <= report_of(drill)["turns"][0]["held_s"] <= 2 + DRILL_WAKE_MARGIN_S


def wait_status(up: Up, *, stopped: bool) -> None:
    """Wait until the store is stopped, or is not."""
    store = psutil.Process(up.children["store"])
    until_now(
        lambda: (store.status() == psutil.STATUS_STOPPED) is stopped,
        what=f"the store is {'' if stopped else 'not '}stopped",
    )


def report_of(drill: Background) -> Any:
    """Return what it printed as JSON, behind the line that says what comes."""
    return json.loads(drill.text.partition("\n")[2])


def told(drill: Background) -> str:
    """Return what it printed, on one line."""
    return " ".join(drill.text.split())


@pytest.mark.slow
def test_an_event_that_is_gone_is_named(own: Up) -> None:
    """Where one accepted event is taken out of the store meanwhile, that is exit 1, and its id."""
    flags = ("drill", "--fault", "drop-group", "--duration", "4s", "--json")
    with own.store() as db:
        # The ids of each drill begin anew.
        others = db.events.distinct("source")
        query = {"type": "evp.drill", "id": "100-0", "source": {"$nin": others}}
        with background(*flags, environ=own.environ, cwd=own.folder, name="gone") as drill:
            until_now(
                lambda: db.events.delete_one(query).deleted_count > 0,
                what="an event is taken out of the store",
            )
            assert drill.wait(within_s=DRILL_S_MAX).code == 1
    report = report_of(drill)
    assert report["lost"] == 1
    assert report["lost_ids"] == ["100-0"]
    assert report["turns"][0]["verdict"] == "lost"
    assert report["verification"]["findings_by_kind"] == {"event_missing": 1}


@pytest.mark.slow
def test_evp_up_ends_meanwhile(own: Up) -> None:
    """A drill whose `evp up` is stopped lets go at once, and says so; this test comes last."""
    flags = ("drill", "--fault", "stop-store", "--duration", "600s")
    with background(*flags, environ=own.environ, cwd=own.folder, name="ends") as drill:
        wait_status(own, stopped=True)
        own.stop()
        # The store would stand still for 300 s.
        assert drill.wait(within_s=100.0).code == 1
    assert "stop-store: the `evp up` in" in told(drill)
    assert "is being stopped" in told(drill)
    assert "NOT CLEAN" in told(drill)
