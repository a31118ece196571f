"""A drill without engines: whose processes it hurts, what it says of a fault, what it shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from evp import running
from evp.clock import now
from evp.drill import wake
from evp.drill.faults import Fault
from evp.drill.load import Outcome, Request
from evp.drill.processes import Processes
from evp.drill.report import Report, Turn, Verdict
from evp.drill.sums import Span, count_outcomes, p99_ms
from evp.errors import EngineFailed
from evp.verify.report import Report as Verification
from evp.verify.report import Scope
from evp.views.drill import render
from tests.support.wait import until_now
from tests.unit.test_views import text


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: it looks at a small file and at processes now and then, and serves nobody."""


@pytest.fixture
def sleeper() -> Iterator[psutil.Popen]:
    """A process of the test's own that does nothing."""
    with psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def up_json(folder: Path, **children: int) -> None:
    """Say that this process is an `evp up` with these children."""
    facts = running.Running(
        http_url="http://127.0.0.1:1",
        redis_url="",
        mongo_url="",
        mongo_db="",
        api_key="",
        pid=os.getpid(),
        boot=running.boot_id(),
        children={name.replace("_", "-"): pid for name, pid in children.items()},
    )
    running.write(folder, facts)


async def test_a_child_is_paused_and_goes_on(tmp_path: Path, sleeper: psutil.Popen) -> None:
    """It stands still inside the block alone, also where that ends by an error."""
    up_json(tmp_path, work_1=sleeper.pid)
    processes = Processes(tmp_path)
    assert processes.names("work") == ["work-1"]

    async def pause() -> None:
        async with processes.paused("work-1"):
            until_now(lambda: sleeper.status() == psutil.STATUS_STOPPED, what="it stands still")
            raise EngineFailed("it went wrong")

    with pytest.raises(EngineFailed, match="it went wrong"):
        await pause()
    until_now(lambda: sleeper.status() != psutil.STATUS_STOPPED, what="it goes on")


def test_paused_processes_outlive_the_drill(sleeper: psutil.Popen) -> None:
    """Where whoever paused a process is gone, by kill -9 say, a helper wakes it."""
    command = [sys.executable, "-m", wake.__name__, f"{sleeper.pid}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waker:
        assert waker.stdout is not None
        assert waker.stdin is not None
        assert waker.stdout.readline() == b"ready\n"
        sleeper.send_signal(signal.SIGSTOP)
        until_now(lambda: sleeper.status() == psutil.STATUS_STOPPED, what="it stands still")
        waker.stdin.close()
        assert waker.wait() == 0
    until_now(lambda: sleeper.status() != psutil.STATUS_STOPPED, what="it goes on")


def test_somebody_elses_process_is_never_hurt(tmp_path: Path, sleeper: psutil.Popen) -> None:
    """A pid that is no child of this `evp up`, though its file names it, is left alone."""
    up_json(tmp_path, work_1=os.getppid(), work_2=sleeper.pid)
    processes = Processes(tmp_path)
    assert processes.find("work-1") is None
    with pytest.raises(EngineFailed, match="work-1 does not run"):
        processes.kill("work-1")
    assert not processes.is_steady("work-2")
    assert processes.kill("work-2").pid == sleeper.pid
    until_now(lambda: processes.find("work-2") is None, what="it has ended")


def test_another_evp_up_is_another_one(tmp_path: Path) -> None:
    """Where the `evp up` ended meanwhile, nothing more is done to the one that runs now."""
    up_json(tmp_path)
    processes = Processes(tmp_path)
    facts = msgspec.json.decode((tmp_path / running.FILE_NAME).read_bytes(), type=running.Running)
    running.write(tmp_path, msgspec.structs.replace(facts, pid=os.getppid()))
    with pytest.raises(EngineFailed, match="another one runs now"):
        processes.find("work-1")
    (tmp_path / running.FILE_NAME).unlink()
    with pytest.raises(EngineFailed, match="no `evp up` runs"):
        processes.find("work-1")


def made(*turns: Turn) -> Report:
    """Return a report of a drill that went well, with these turns."""
    report = Report(
        run="1a2b3c4d",
        source="evp-drill-1a2b3c4d",
        url="http://127.0.0.1:3001",
        eps=500,
        batch=10,
        duration_s=20.0,
        times=1,
        began_at=now(),
        turns=list(turns),
        recovered=120,
        lost=0,
        doubled=0,
        refused_stored=0,
        unexpected=0,
    )
    report.verification = Verification(
        stream="evp:events", database="evp", scope=Scope(), began_at=now(), clean=True
    )
    return report


def turn(fault: Fault = Fault.RESTART_LOG, **changes: Any) -> Turn:
    """Return a turn in which nothing was wrong."""
    clean = Turn(
        fault=fault,
        round=1,
        at_s=1234.5,
        away_s=12.3,
        drained_s=23.4,
        accept_ms_p99=12_345.0,
        lost=0,
        doubled=0,
        refused_stored=0,
    )
    return msgspec.structs.replace(clean, **changes)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, Verdict.CLEAN),
        ({"lost": 1}, Verdict.LOST),
        ({"doubled": 2}, Verdict.DOUBLED),
        ({"refused_stored": 3}, Verdict.REFUSED_STORED),
        ({"drained_s": None, "failure": "not back within 60 s"}, Verdict.NOT_BACK),
        ({"lost": None}, Verdict.UNCHECKED),
        ({"lost": 1, "failure": "not back within 60 s"}, Verdict.LOST),
    ],
)
def test_verdict_of_a_fault(changes: dict[str, Any], verdict: Verdict) -> None:
    """Each way to go wrong has a verdict, and none of them is exit 0."""
    report = made(turn(**changes))
    if changes:
        report.lost, report.doubled = report.turns[0].lost, report.turns[0].doubled
        report.refused_stored = report.turns[0].refused_stored
    if verdict is Verdict.UNCHECKED:
        report.verification = None
    count_outcomes(report, [], 10)
    assert report.turns[0].verdict is verdict
    assert report.clean == (verdict is Verdict.CLEAN)
    assert report.exit_code == {Verdict.CLEAN: 0, Verdict.UNCHECKED: 3}.get(verdict, 1)


def test_what_verify_finds_counts() -> None:
    """A finding of `evp verify` is exit 1, though every event of the drill is there."""
    report = made(turn())
    assert report.verification is not None
    report.verification.findings_total = 1
    assert report.exit_code == 1


def test_outcomes_are_counted_by_turn() -> None:
    """Each event counts once, for the fault in whose turn its request ended."""
    report = made(turn(), turn())
    outcomes = [(0, Outcome.ACCEPTED), (0, Outcome.UNKNOWN), (1, Outcome.REFUSED)]
    requests = [
        Request(number, 0, at, 0.0, outcome) for number, (at, outcome) in enumerate(outcomes)
    ]
    count_outcomes(report, requests, 10)
    count_outcomes(report, requests, 10)
    assert (report.sent, report.accepted, report.unknown, report.refused) == (30, 10, 10, 10)
    assert [(one.accepted, one.unknown, one.refused) for one in report.turns] == [
        (10, 10, 0),
        (0, 0, 10),
    ]


def test_p99_is_of_what_met_the_fault() -> None:
    """Requests that were answered before it or due after it are left out."""

    def request(due_at_s: float, took_s: float | None) -> Request:
        return Request(0, 0, 0, due_at_s, Outcome.ACCEPTED, took_s)

    span = Span(100.0, 110.0)
    met = [request(90.0, 11.0), request(101.0, 2.0), request(109.0, 9.0)]
    others = [request(90.0, 9.0), request(111.0, 50.0), request(105.0, None)]
    assert p99_ms(others, span) is None
    assert p99_ms([*met, *others], span) == 11_000.0


def test_report_fits_a_terminal() -> None:
    """In 80 columns each fault is one line, with its figures and its verdict."""
    turns = [turn(fault) for fault in Fault]
    report = made(*turns)
    requests = [
        Request(number, 0, number % len(turns), 0.0, Outcome.ACCEPTED) for number in range(90_000)
    ]
    count_outcomes(report, requests, 10)
    shown = text(render(report), 80)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for fault in Fault:
        [line] = [one for one in lines if one.startswith(fault)]
        assert line.split()[1:] == [
            *("1,234", "12.3", "23.4", "150,000", "0", "0", "0", "12,345", "clean")
        ]
    assert "clean: all that was accepted is stored, once" in shown
    assert "evp-drill-1a2b3c4d" in shown


def test_what_is_wrong_is_named() -> None:
    """Lost and doubled events by id, a fault that was not overcome with its reason, unspoiled."""
    report = made(turn(lost=1, doubled=1), turn(drained_s=None, failure="not back: \x1b[31mred"))
    report.lost = report.doubled = 1
    report.lost_ids, report.doubled_ids = ["7-3"], ["8-0"]
    report.unexpected = 4
    count_outcomes(report, [], 10)
    shown = " ".join(text(render(report), 80).split())
    for part in ("lost: 7-3", "stored twice: 8-0", "not back", "4 events", "NOT CLEAN"):
        assert part in shown
    assert "\x1b" not in shown
    assert r"restart-log: not back: \x1b[31mred" in shown


def test_interrupted_report() -> None:
    """What was not looked up is told as that, and not as 0."""
    report = made(turn(lost=None, doubled=None, drained_s=None, away_s=None, accept_ms_p99=None))
    report.lost = report.doubled = report.recovered = report.refused_stored = None
    report.verification, report.interrupted = None, True
    count_outcomes(report, [], 10)
    shown = text(render(report), 80)
    assert "interrupted: nothing is paused any more" in shown
    assert "unchecked" in shown
