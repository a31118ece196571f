"""A parent and its children: start them, start dead ones again, stop them in order.

Children live in sessions of their own, so that Ctrl-C reaches only the parent,
and are tied to it (`evp.engines.tether`), so that none outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from evp.batch.retry import Backoff
from evp.clock import monotonic_s
from evp.errors import EXIT_USAGE, EngineFailed, EvpError, PortTaken, UsageError
from evp.limits import (
    CHILD_FAILED_STARTS_MAX,
    CHILD_READY_S_MAX,
    CHILD_STABLE_S,
    LISTEN_BACKLOG,
    LOG_TAIL_BYTES,
)
from evp.logs import get
from evp.signals import Signals, own_signals

Probe = Callable[[], Awaitable[bool]]
"""Asks whether a child is ready."""

_PROBE_S = 0.05
_log = get("evp.supervise")


class Child(Struct, kw_only=True):
    """What to run. Children of a lower `stop_group` are stopped first.

    Output goes to `log_path`, or where the parent's goes. With `done_at_exit_0`
    a child that ended well has done its work and is not started again. If the
    parent dies, the child gets `orphan_signal`.
    """

    name: str
    command: list[str]
    environ: Mapping[str, str]
    ready: Probe | None = None
    pass_fds: Sequence[int] = ()
    log_path: Path | None = None
    stop_group: int = 0
    orphan_signal: int = signal.SIGTERM
    done_at_exit_0: bool = False


class Supervisor:
    """Runs children until `stop`; `on_change` is called whenever one has another pid."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self.failed = asyncio.Event()
        self.failure: EvpError | None = None
        self._on_change = on_change
        self._children: list[Child] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[str, int]:
        """Name and pid of every child that runs."""
        return {name: p.pid for name, p in self._processes.items() if p.returncode is None}

    async def start(self, *children: Child) -> None:
        """Start children and wait until all are ready. Raises as `raise_failure`."""
        for child in children:
            self._children.append(child)
            await self._spawn(child)
            self._keepers.append(asyncio.create_task(self._keep(child), name=child.name))
        waits = [asyncio.create_task(self._wait_ready(child)) for child in children]
        failed = asyncio.create_task(self.failed.wait())
        try:
            for wait in waits:
                await asyncio.wait({wait, failed}, return_when=asyncio.FIRST_COMPLETED)
                self.raise_failure()
                await wait
        finally:
            for task in (*waits, failed):
                task.cancel()

    def raise_failure(self) -> None:
        """Raise what ended a child for good, if anything did.

        EngineFailed if it could not be kept running, UsageError if it said that it may not.
        """
        if self.failure is not None:
            raise self.failure

    async def all_done(self) -> None:
        """Wait until no child is left that is kept running."""
        await asyncio.gather(*self._keepers)

    async def stop(self, timeout_s: float) -> None:
        """Stop all children, group by group, with SIGTERM; kill what is left after `timeout_s`."""
        ends_at_s = monotonic_s() + timeout_s
        # First of all, so that none is started again meanwhile.
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        groups = sorted({child.stop_group for child in self._children})
        for group in groups:
            names = [child.name for child in self._children if child.stop_group == group]
            processes = [self._processes[name] for name in names if name in self._processes]
            # Those that come later need some time too.
            share_s = (ends_at_s - monotonic_s()) * (0.75 if group != groups[-1] else 1.0)
            await _end(processes, max(0.1, share_s))

    def kill(self) -> None:
        """Kill all children at once, while they are being stopped."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _spawn(self, child: Child) -> None:
        try:
            self._processes[child.name] = await _started(child)
            self._on_change()
        except OSError as error:
            raise EngineFailed(f"{child.name} can't be started: {error}") from error

    async def _keep(self, child: Child) -> None:
        """Start a child again whenever it dies, until it fails to start too often in a row."""
        backoff = Backoff()
        while True:
            started_at_s = monotonic_s()
            code = await self._processes[child.name].wait()
            if code == 0 and child.done_at_exit_0:
                return
            if monotonic_s() - started_at_s >= CHILD_STABLE_S:
                backoff.reset()
            _log.warning("child ended", child=child.name, exit_code=code)
            if code == EXIT_USAGE and child.log_path is None:
                self._fail(UsageError(f"{child.name} may not go on: see why above"))
                return
            if code == EXIT_USAGE or backoff.attempts + 1 >= CHILD_FAILED_STARTS_MAX:
                self._fail(EngineFailed(_obituary(child, code)))
                return
            await asyncio.sleep(backoff.next_s())
            try:
                await self._spawn(child)
            except EngineFailed as error:
                self._fail(error)
                return
            _log.warning("child started again", child=child.name, pid=self.pids.get(child.name))

    def _fail(self, failure: EvpError) -> None:
        self.failure = failure
        self.failed.set()

    async def _wait_ready(self, child: Child) -> None:
        if child.ready is None:
            return
        ends_at_s = monotonic_s() + CHILD_READY_S_MAX
        while not await child.ready():
            if monotonic_s() > ends_at_s:
                raise EngineFailed(
                    f"{child.name} was not ready within {CHILD_READY_S_MAX:g} s{_tail(child)}"
                )
            await asyncio.sleep(_PROBE_S)


async def run_children(children: Sequence[Child], timeout_s: float) -> None:
    """Run children until a signal comes; a second one kills them.

    Raises EngineFailed if one of them can't be kept running, UsageError if one may not.
    """
    supervisor = Supervisor()
    signals = own_signals()
    told = asyncio.create_task(signals.get())
    failed = asyncio.create_task(supervisor.failed.wait())
    try:
        await supervisor.start(*children)
        done = asyncio.create_task(supervisor.all_done())
        await asyncio.wait({told, failed, done}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Before another one waits for the next signal.
        told.cancel()
        await stop_or_kill(supervisor, signals, timeout_s)
        failed.cancel()
    supervisor.raise_failure()


async def stop_or_kill(supervisor: Supervisor, signals: Signals, timeout_s: float) -> None:
    """Stop all children; at a further signal kill them."""
    stopping = asyncio.create_task(supervisor.stop(timeout_s))
    again = asyncio.create_task(signals.get())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        supervisor.kill()
    again.cancel()
    await stopping


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"can't listen on {host}:{port}: {error.strerror}; choose another one with --port"
        ) from error
    listener.setblocking(False)
    return listener


async def _started(child: Child) -> asyncio.subprocess.Process:
    tie = ("-m", "evp.engines.tether", str(os.getpid()), str(child.orphan_signal))
    with contextlib.ExitStack() as stack:
        output = None
        if child.log_path is not None:
            child.log_path.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(child.log_path.open("ab"))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *tie,
            *child.command,
            env=child.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=child.pass_fds,
            start_new_session=True,
        )


async def _end(processes: Sequence[asyncio.subprocess.Process], timeout_s: float) -> None:
    for process in processes:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
    waits = [asyncio.create_task(process.wait()) for process in processes]
    if not waits:
        return
    _, late = await asyncio.wait(waits, timeout=timeout_s)
    if late:
        for process in processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.wait(late)


def _obituary(child: Child, code: int) -> str:
    return f"{child.name} does not stay up (exit code {code}){_tail(child)}"


def _tail(child: Child) -> str:
    """Return the last lines of a child's log, to be put behind an error."""
    if child.log_path is None:
        return ""
    try:
        text = child.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""
    return f"; the end of {child.log_path}:\n{text}" if text else ""
