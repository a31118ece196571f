"""The supervisor with small children: none is forgotten, whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from evp.batch.retry import Backoff
from evp.engines import stack
from evp.engines.engine import Engine
from evp.engines.locate import Binary
from evp.errors import EngineFailed
from evp.signals import end
from evp.supervise import Child, Supervisor
from tests.support.up import lives
from tests.support.wait import until

TIMEOUT_S = 5.0


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: it opens the files of its children's logs, and serves nobody meanwhile."""


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    """A supervisor; its children are stopped at the end."""
    supervisor = Supervisor()
    yield supervisor
    await supervisor.stop(TIMEOUT_S)


def child(name: str, script: str, *, stop_group: int = 0, log_path: Path | None = None) -> Child:
    """Return a child that is a shell script."""
    return Child(
        name=name,
        command=["sh", "-c", script],
        environ=dict(os.environ),
        stop_group=stop_group,
        log_path=log_path,
    )


async def test_no_child_is_started_while_the_others_are_stopped(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that died just before the end stays dead, however long the others take to end."""
    monkeypatch.setattr(Backoff, "next_s", lambda _self: 0.4)
    first, again = tmp_path / "first", tmp_path / "again"
    flaky = f"if mkdir {first}; then exit 1; fi; echo $$ > {again}; exec sleep 60"
    slow = (
        f"trap 'sleep 0.5; exit' TERM; touch {tmp_path / 'trapped'}; while :; do sleep 0.05; done"
    )
    await supervisor.start(child("flaky", flaky), child("slow", slow, stop_group=1))
    await until(lambda: first.exists() and (tmp_path / "trapped").exists(), what="both have run")
    await until(lambda: set(supervisor.pids) == {"slow"}, what="the first one has died")
    await supervisor.stop(TIMEOUT_S)
    assert not again.exists() or not psutil.pid_exists(int(again.read_text()))
    assert supervisor.pids == {}


async def test_child_that_ends_for_good(supervisor: Supervisor, tmp_path: Path) -> None:
    """A child that fails at each start ends the waiting, and its last words are told."""
    script = "echo no such disk >&2; exit 7"
    log_path = tmp_path / "logs" / "child.log"
    await supervisor.start(child("broken", script, log_path=log_path))
    await until(supervisor.failed.is_set, what="it is given up")
    with pytest.raises(EngineFailed, match=r"broken does not stay up \(exit code 7\)") as caught:
        supervisor.raise_failure()
    assert str(caught.value).endswith("no such disk")


async def test_child_whose_log_can_not_be_written(supervisor: Supervisor, tmp_path: Path) -> None:
    """A start that fails for the sake of a file is told with the file's name."""
    (tmp_path / "logs").write_text("")
    with pytest.raises(EngineFailed, match=r"quiet can't be started: .*logs"):
        await supervisor.start(child("quiet", "exit 0", log_path=tmp_path / "logs" / "child.log"))


async def test_child_that_is_killed_is_started_again(supervisor: Supervisor) -> None:
    """It gets another pid, and the end finds that one too."""
    await supervisor.start(child("sleeper", "exec sleep 60"))
    pid = supervisor.pids["sleeper"]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: supervisor.pids.get("sleeper", pid) != pid, what="another pid")
    process = psutil.Process(supervisor.pids["sleeper"])
    await supervisor.stop(TIMEOUT_S)
    assert not lives(process)


async def test_child_that_can_not_be_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    """A dead child that can't be replaced is a failure too, and not forgotten."""
    log_path = tmp_path / "logs" / "child.log"
    await supervisor.start(child("sleeper", "exec sleep 60", log_path=log_path))
    shutil.rmtree(log_path.parent)
    log_path.parent.write_text("in the way")
    os.kill(supervisor.pids["sleeper"], signal.SIGKILL)
    await until(supervisor.failed.is_set, what="it is told")
    with pytest.raises(EngineFailed, match=r"sleeper can't be started: .*logs"):
        supervisor.raise_failure()


async def test_child_that_does_not_listen_is_killed(supervisor: Supervisor, tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed when its time is over."""
    deaf = tmp_path / "deaf"
    await supervisor.start(child("deaf", f"trap '' TERM; touch {deaf}; exec sleep 60"))
    await until(deaf.exists, what="it is deaf")
    process = psutil.Process(supervisor.pids["deaf"])
    await supervisor.stop(0.3)
    assert not lives(process)


def test_data_that_others_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data directory that stays taken is given up after a while, and free once it is closed."""
    monkeypatch.setattr(stack, "_LOCK_S_MAX", 0.1)
    told = "an engine of an `evp up` that was killed uses"
    with stack.lock(tmp_path), pytest.raises(EngineFailed, match=told):
        stack.lock(tmp_path)
    stack.lock(tmp_path).close()


def test_folder_of_another_program(tmp_path: Path) -> None:
    """What one program wrote is not given to another that was found first today."""

    def engine(kind: str) -> Engine:
        return Engine(Binary(kind, [kind], "on PATH"), 1, tmp_path / "store", "mongodb://h")

    for _ in range(2):
        stack._same_as_before(engine("secantusd-py"))
    with pytest.raises(EngineFailed, match="holds the data of secantusd-py, but mongod was found"):
        stack._same_as_before(engine("mongod"))


async def test_task_that_loses_a_cancellation() -> None:
    """A task that a cancellation did not reach is cancelled again; errors are nobody's any more."""
    reached = 0

    async def deaf() -> None:
        nonlocal reached
        while reached < 3:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            reached += 1

    async def broken() -> None:
        raise EngineFailed("nobody looks at this")

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(broken())]
    await asyncio.sleep(0)
    await end(*tasks, again_s=0.01)
    assert reached == 3
    assert all(task.done() for task in tasks)
    await end()
