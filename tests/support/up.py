"""A real `evp up` in a process of its own: started, asked, hurt, stopped, always cleaned up.

with running_up(tmp_path) as up:
    up.http_url, up.api_key, up.children, up.count()
    up.kill_child("work-1")
    assert up.stop().code == 0
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
from pymongo import MongoClient
from redis import Redis

from evp.running import FILE_NAME, Running
from evp.settings import PREFIX, ROWS
from tests.support.wait import until_now

EVP = (sys.executable, "-m", "evp")
UP_S_MAX = 30.0
STOP_S_MAX = 8.0
_KILLED_S_MAX = 5.0


class Stopped(NamedTuple):
    """How a process ended, and how long that took."""

    code: int
    seconds: float


class Up:
    """One `evp up` with its own data directory and port; `run` again after it was stopped."""

    def __init__(self, folder: Path, *flags: str, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.output = folder / "up.out"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [*EVP, "up", "--data-dir", str(self.data_dir), "--port", "0", *flags]
        self._environ = clean_environ(**(environ or {}))
        self._seen: dict[int, psutil.Process] = {}

    def run(self, *flags: str, environ: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it tells that events are accepted."""
        self.spawn(*flags, environ=environ)
        self.wait_up()

    def wait_up(self) -> None:
        """Wait until it tells that events are accepted."""
        until_now(self._is_up, what=f"evp up is up: {self.text}", within_s=UP_S_MAX)

    def spawn(
        self,
        *flags: str,
        environ: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> None:
        """Start it and don't wait; what it prints goes to `stdout` where that is given."""
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*self._command, *flags],
                cwd=self.folder,
                env=self._environ | dict(environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it has printed so far, logs included."""
        return self.output.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        assert self.process is not None
        return self.process.pid

    @property
    def facts(self) -> Running:
        """What `up.json` tells now."""
        text = (self.data_dir / FILE_NAME).read_bytes()
        return msgspec.json.decode(text, type=Running)

    @property
    def http_url(self) -> str:
        """Address of the server."""
        return self.facts.http_url

    @property
    def api_key(self) -> str:
        """A key to send with."""
        return self.facts.api_key

    @property
    def children(self) -> dict[str, int]:
        """Name and pid of every child: log, store, serve-1, work-1 and so on."""
        return self.facts.children

    @property
    def environ(self) -> dict[str, str]:
        """Environment in which every other command finds this `evp up` through its `up.json`."""
        return clean_environ(EVP_DATA_DIR=str(self.data_dir))

    def look(self) -> None:
        """Remember its children, to know afterwards whether all have ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                self._seen.setdefault(process.pid, process)

    def kill_child(self, name: str) -> int:
        """End a child as `kill -9` does; return the pid it had."""
        pid = self.children[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, name: str, old_pid: int) -> int:
        """Wait until a child has another pid; return it."""
        until_now(
            lambda: self.children.get(name, old_pid) != old_pid,
            what=f"{name} is started again: {self.text}",
        )
        return self.children[name]

    @contextlib.contextmanager
    def store(self) -> Iterator[Any]:
        """Give the database, through a client of the test's own."""
        facts = self.facts
        client: MongoClient[dict[str, Any]] = MongoClient(
            facts.mongo_url, serverSelectionTimeoutMS=int(UP_S_MAX * 1000), tz_aware=True
        )
        with client:
            yield client[facts.mongo_db]

    def drained(self) -> bool:
        """Return True if the workers have nothing left to do."""
        with Redis.from_url(self.facts.redis_url) as log:
            groups: Any = log.xinfo_groups(self._environ.get("EVP_STREAM", "evp:events"))
        return not any(group["pending"] or group["lag"] for group in groups)

    def count(self, source: str | None = None) -> int:
        """Return how many events are stored, of one source or of all."""
        with self.store() as db:
            return int(db.events.count_documents({} if source is None else {"source": source}))

    def stored(self, source: str) -> Counter[str]:
        """Return in how many documents each `id` of a source stands."""
        with self.store() as db:
            return Counter(document["id"] for document in db.events.find({"source": source}))

    def wait_stored(self, source: str, count: int, within_s: float = UP_S_MAX) -> None:
        """Wait until the log is drained, and so many events of a source are stored."""
        until_now(
            # To count is dear, to ask the log is not.
            lambda: self.drained() and self.count(source) >= count,
            what=f"{count} events of {source} are stored",
            within_s=within_s,
        )

    def left_over(self) -> list[int]:
        """Return the pids of its children, as far as it was looked for them, that still run."""
        return [pid for pid, process in self._seen.items() if lives(process)]

    def wait_gone(self, within_s: float = STOP_S_MAX) -> None:
        """Wait until no child is left."""
        until_now(lambda: not self.left_over(), what="no child is left", within_s=within_s)

    def wait_ended(self, within_s: float = UP_S_MAX) -> Stopped:
        """Wait until it has ended by itself."""
        assert self.process is not None
        started_at_s = time.monotonic()
        code = self.process.wait(within_s)
        return Stopped(code, time.monotonic() - started_at_s)

    def stop(self, number: int = signal.SIGINT) -> Stopped:
        """Ask it to end, as Ctrl-C does, and wait; tells the exit code and how long it took."""
        assert self.process is not None
        self.look()
        self.process.send_signal(number)
        return self.wait_ended()

    def clean_up(self) -> None:
        """End whatever still runs of it, by pid."""
        if self.process is None:
            return
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with contextlib.suppress(AssertionError):
            self.wait_gone(_KILLED_S_MAX)
        for pid in self.left_over():
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen[pid].kill()

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"evp up ended: {self.text}"
        try:
            # One that was killed has left its file behind.
            is_up = self.facts.pid == self.process.pid
        except FileNotFoundError:
            is_up = False
        self.look()
        return is_up


@contextlib.contextmanager
def running_up(folder: Path, *flags: str, environ: Mapping[str, str] | None = None) -> Iterator[Up]:
    """Run `evp up` in a folder of its own; whatever a test did to it, nothing is left."""
    up = Up(folder, *flags, environ=environ)
    try:
        up.run()
        yield up
    finally:
        up.clean_up()


def clean_environ(**changes: str) -> dict[str, str]:
    """Return this process's environment without any setting of evp, and with `changes`."""
    settings = {key for row in ROWS for key in (row.key, *row.also)} | {"PYTHONUNBUFFERED"}
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in settings and not key.startswith(PREFIX)
    }
    return kept | changes


def lives(process: psutil.Process) -> bool:
    """Return True if this very process runs; a zombie has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
