"""A drill without engines: whose processes it hurts, what it says of a fault, what it shows."""

from __future__ import annotations

import contextlib
import os
import re
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
from evp.cli.drilling import exit_code_of
from evp.clock import now
from evp.drill import wake
from evp.drill.faults import Fault
from evp.drill.load import Outcome, Request
from evp.drill.plan import Plan
from evp.drill.processes import Processes
from evp.drill.report import Report, Turn, Verdict
from evp.drill.sums import Span, count_outcomes, p99_ms
from evp.drill.target import find, require
from evp.errors import EngineFailed, UsageError
from evp.settings import PRODUCTION, Settings
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
        async with processes.paused("work-1", 60.0):
            until_now(lambda: sleeper.status() == psutil.STATUS_STOPPED, what="it stands still")
            raise EngineFailed("it went wrong")

    with pytest.raises(EngineFailed, match="it went wrong"):
        await pause()
    until_now(lambda: sleeper.status() != psutil.STATUS_STOPPED, what="it goes on")


def test_paused_processes_outlive_the_drill(sleeper: psutil.Popen) -> None:
    """Where whoever paused a process is gone, by kill -9 say, a helper wakes it."""
    with waking_after("60", sleeper) as waker:
        assert waker.stdin is not None
        sleeper.send_signal(signal.SIGSTOP)
        until_now(lambda: sleeper.status() == psutil.STATUS_STOPPED, what="it stands still")
        waker.stdin.close()
        assert waker.wait() == 0
    until_now(lambda: sleeper.status() != psutil.STATUS_STOPPED, what="it goes on")


def test_paused_processes_outlive_a_drill_that_stands_still(sleeper: psutil.Popen) -> None:
    """Where whoever paused a process is there and does nothing, as after Ctrl-Z, time decides."""
    sleeper.send_signal(signal.SIGSTOP)
    until_now(lambda: sleeper.status() == psutil.STATUS_STOPPED, what="it stands still")
    with waking_after("0.1", sleeper) as waker:
        assert waker.wait(30) == 0
        until_now(lambda: sleeper.status() != psutil.STATUS_STOPPED, what="it goes on")


@contextlib.contextmanager
def waking_after(seconds: str, sleeper: psutil.Popen) -> Iterator[subprocess.Popen[bytes]]:
    """Give a helper that is ready to wake a process."""
    command = [sys.executable, "-m", wake.__name__, seconds, f"{sleeper.pid}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waker:
        assert waker.stdout is not None
        assert waker.stdout.readline() == b"ready\n"
        yield waker


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
    running.write(tmp_path, msgspec.structs.replace(facts, stopping=True))
    with pytest.raises(EngineFailed, match="is being stopped"):
        processes.require()
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
        at_s=123.4,
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
        ({"away_s": None, "failure": "answers did not stay 202"}, Verdict.NOT_BACK),
        ({"lost": None}, Verdict.UNCHECKED),
        ({"away_s": None}, Verdict.UNCHECKED),
        ({"lost": 1, "failure": "not back within 60 s"}, Verdict.LOST),
    ],
)
def test_verdict_of_a_fault(changes: dict[str, Any], verdict: Verdict) -> None:
    """Each way to go wrong has a verdict, and none of them is exit 0."""
    report = made(turn(**changes))
    if changes:
        report.lost, report.doubled = report.turns[0].lost, report.turns[0].doubled
        report.refused_stored = report.turns[0].refused_stored
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
    assert p99_ms([*met, *others], span) == pytest.approx(11_000.0, rel=1e-3)
    hundred = [request(100.0, 0.1 * one) for one in range(1, 101)]
    assert p99_ms(hundred, span) == pytest.approx(9_900.0, rel=1e-3)


def plan(**changes: Any) -> Plan:
    """Return the plan of a drill with nothing asked for."""
    usual = Plan(list(Fault), times=1, duration_s=20.0, eps=500)
    return msgspec.structs.replace(usual, **changes)


def test_plan_tells_how_long_it_takes() -> None:
    """Each fault has its time, and a paused worker as long as its entries are its own."""
    assert plan().seconds_min(60_000) == 5 * 20 + 63
    assert plan(times=3, faults=[Fault.STOP_STORE]).seconds_min(60_000) == 60
    assert plan().hold_s(Fault.STOP_STORE, 60_000) == 10


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"times": 17}, "more than 100 faults"),
        ({"times": 16, "duration_s": 600.0, "eps": 50_000}, "10,000,000 at most: give a lower"),
        ({"times": 16, "duration_s": 600.0, "eps": 50}, "16.0 hours at least"),
    ],
)
def test_plan_that_is_too_much(changes: dict[str, Any], why: str) -> None:
    """What no drill can remember is refused beforehand."""
    with pytest.raises(UsageError, match=why):
        plan(**changes).require_bounded(60_000)
    plan(times=16).require_bounded(60_000)


def test_production_is_never_drilled(settings: Settings, tmp_path: Path) -> None:
    """Nor by one who insists, and nobody is told how it could be done."""
    live = msgspec.structs.replace(settings, env=PRODUCTION, data_dir=tmp_path)
    with pytest.raises(UsageError, match="EVP_ENV is production") as told:
        find(live, "http://127.0.0.1:1", yes_really=True)
    assert "--" not in str(told.value)


def test_a_file_that_was_left_is_no_evp_up(settings: Settings, tmp_path: Path) -> None:
    """One that was killed leaves its file, and its pid may be somebody else's by now."""
    up_json(tmp_path, log=os.getppid(), store=os.getppid())
    its = msgspec.structs.replace(
        settings, data_dir=tmp_path, redis_url="", mongo_url="", mongo_db="", port=1
    )
    with pytest.raises(UsageError, match="the log and store of the `evp up` in"):
        find(its, "http://127.0.0.1:1", yes_really=False)


def test_nobody_is_led_to_drop_a_group(settings: Settings, tmp_path: Path) -> None:
    """Where no `evp up` is known, what could be hurt all the same is not suggested."""
    elsewhere = msgspec.structs.replace(settings, data_dir=tmp_path)
    target = find(elsewhere, "http://127.0.0.1:1", yes_really=True)
    with pytest.raises(UsageError, match="can't do kill-worker") as told:
        require(target, list(Fault))
    assert Fault.DROP_GROUP not in str(told.value)
    require(target, [Fault.DROP_GROUP])


def test_report_fits_a_terminal() -> None:
    """In 80 columns each fault is one line with its figures and its verdict, in 60 with fewer."""
    turns = [turn(fault) for fault in Fault]
    report = made(*turns)
    requests = [
        Request(number, 0, number % len(turns), 0.0, Outcome.ACCEPTED) for number in range(90_000)
    ]
    count_outcomes(report, requests, 10)
    shown = text(render(report), 80)
    narrow = text(render(report), 60)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    for fault in Fault:
        [line] = [one for one in lines if one.startswith(fault)]
        assert line.split()[1:] == [
            *("123", "12.3", "23.4", "150,000", "0", "0", "0", "0", "12,345", "clean")
        ]
        assert re.search(rf"^{fault} +12.3 +23.4 +150,000 .*0 +0 +clean *$", narrow, re.MULTILINE)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "…" not in narrow
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
    assert "interrupted: nothing is paused any more, and nothing was looked up" in shown
    assert "unchecked" in shown
    assert exit_code_of(report) == 130


def test_interrupted_when_a_loss_is_known() -> None:
    """What was found by then is told, and is exit 1."""
    report = made(turn(lost=1))
    report.lost, report.verification, report.interrupted = 1, None, True
    count_outcomes(report, [], 10)
    assert "and not all was verified" in " ".join(text(render(report), 80).split())
    assert exit_code_of(report) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_one_worker_is_told_of(workers: int) -> None:
    """With one worker alone, a pause of it shows no take-over, and the report says so."""
    report = msgspec.structs.replace(made(turn(Fault.PAUSE_WORKER)), workers=workers)
    assert ("--work-processes 2" in text(render(report), 80)) is (workers == 1)


def test_a_reason_is_told_once() -> None:
    """The `evp up` that is gone ended the fault and the look-up alike."""
    report = made(turn(drained_s=None, failure="no evp up runs"))
    report.error, report.verification = "no evp up runs", None
    count_outcomes(report, [], 10)
    assert text(render(report), 80).count("no evp up runs") == 1
