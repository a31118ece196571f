"""Engines for tests: started, stopped, killed, paused, started again with what they had."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from evp.engines.engine import Engine, log_engine, store_engine
from evp.engines.locate import Binary, find_log, find_store
from tests.support.containers import ContainerServer
from tests.support.ladder import (
    LOG_IMAGE,
    STORE_IMAGE,
    Address,
    Image,
    choose,
    choose_own,
    docker_answers,
)
from tests.support.wait import until_now

READY_S_MAX = 30.0
_TEST_COMMANDS = ("--setParameter", "enableTestCommands=1")


class ProcessServer:
    """An engine of a test's own, on a port and a folder that stay the same."""

    def __init__(self, engine: Engine, *extra: str, without: str | None = None) -> None:
        self.url = engine.url
        self.port = engine.port
        self._log_path = engine.folder.parent / f"{engine.folder.name}.log"
        self._child = engine.child("engine", self._log_path, os.environ)
        self._command = [one for one in (*self._child.command, *extra) if one != without]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        tie = [str(os.getpid()), str(self._child.orphan_signal)]
        tether = [sys.executable, "-m", "evp.engines.tether", *tie]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*tether, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ready = self._child.ready
        assert ready is not None
        ends_at_s = time.monotonic() + READY_S_MAX

        async def wait() -> None:
            while not await ready():
                assert self.running, self._log_path.read_text(errors="replace")
                assert time.monotonic() < ends_at_s, f"not ready; see {self._log_path}"
                await asyncio.sleep(0.02)

        with asyncio.Runner() as runner:
            runner.run(wait())

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Process id of the engine."""
        assert self._process is not None
        return self._process.pid

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it from running for a while, surely; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        process = psutil.Process(self._process.pid)
        try:
            until_now(lambda: process.status() == psutil.STATUS_STOPPED, what="it has stopped")
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)
            self._process.wait(READY_S_MAX)


Server = ProcessServer | ContainerServer
"""An engine of a test's own, to be killed, paused and started again."""


def own_log(folder: Path, *extra: str) -> Server:
    """Return a log of a test's own; `extra` are further arguments of the server."""
    rung = choose_own(LOG_IMAGE, find_log, environ=os.environ, docker_answers=docker_answers)
    if isinstance(rung, Image):
        return ContainerServer(rung, *extra)
    return ProcessServer(log_engine(rung, folder / "log"), *extra)


def program_log(folder: Path, *extra: str) -> ProcessServer:
    """Return a log that is a program in any case: its files are in `folder`."""
    return ProcessServer(log_engine(find_log(), folder), *extra)


def own_store(folder: Path, *, fails: bool = False) -> Server:
    """Return a store of a test's own; one that `fails` takes commands which make it fail."""
    rung = choose_own(STORE_IMAGE, find_store, environ=os.environ, docker_answers=docker_answers)
    if isinstance(rung, Image):
        return ContainerServer(rung, *(_TEST_COMMANDS if fails else ()))
    return ProcessServer(
        store_engine(rung, folder / "store"), *(_failing_flags(rung) if fails else ())
    )


def obedient_store(folder: Path) -> Server:
    """Return a store of a test's own that obeys fault commands, as a member of a replica set."""
    rung = choose_own(STORE_IMAGE, find_store, environ=os.environ, docker_answers=docker_answers)
    if isinstance(rung, Image):
        return ContainerServer(rung, *_TEST_COMMANDS)
    engine = store_engine(rung, folder / "store")
    return ProcessServer(engine, *_failing_flags(rung), without="--standalone")


def _failing_flags(binary: Binary) -> tuple[str, ...]:
    return _TEST_COMMANDS if binary.kind == "mongod" else ("--enable-test-commands",)


@contextlib.contextmanager
def shared_log(folder: Path) -> Iterator[str]:
    """Run the log of a whole test session; gives its address."""
    rung = choose(
        "EVP_TEST_REDIS_URL",
        LOG_IMAGE,
        find_log,
        environ=os.environ,
        docker_answers=docker_answers,
    )
    with _run(rung, folder, is_log=True) as url:
        yield url


@contextlib.contextmanager
def shared_store(folder: Path) -> Iterator[str]:
    """Run the store of a whole test session; gives its address."""
    rung = choose(
        "EVP_TEST_MONGO_URL",
        STORE_IMAGE,
        find_store,
        environ=os.environ,
        docker_answers=docker_answers,
    )
    with _run(rung, folder, is_log=False) as url:
        yield url


@contextlib.contextmanager
def _run(rung: Address | Image | Binary, folder: Path, *, is_log: bool) -> Iterator[str]:
    if isinstance(rung, Address):
        yield rung.url
        return
    server: Server
    if isinstance(rung, Image):
        server = ContainerServer(rung)
    elif is_log:
        server = ProcessServer(log_engine(rung, folder / "log"))
    else:
        server = ProcessServer(store_engine(rung, folder / "store"))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
