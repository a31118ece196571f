"""An event loop whose clock is a number and whose turns are drawn from a seed.

Nothing here waits: when nothing can run, the clock jumps to the next timer. There is
no selector, so there are no sockets, and no threads: what asks for one is told so.
What runs next is drawn among the processes that could go on; within a process callbacks
keep their order, as asyncio promises. A process that is paused stands still in the middle
of whatever it does, and goes on there.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from random import Random
from typing import Any, NoReturn

_NO_SOCKETS = "a simulated process has no sockets, signals and threads of its own"


class Process:
    """What is known of a simulated process: whether it lives, and what it was about to do."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.alive = True
        self.paused = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.parked: list[asyncio.Handle] = []


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""Whose turn it is; None while the world itself acts."""


class Stuck(RuntimeError):
    """Raised when nothing can ever go on, or a schedule takes more turns than it may."""


def _refuse(*_args: Any, **_options: Any) -> NoReturn:
    raise RuntimeError(_NO_SOCKETS)


_no_sockets: Any = _refuse


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks in an order drawn from `chance`; `turns_max` bounds them all together."""

    # asyncio's own, which it does not name to others.
    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self, chance: Random, turns_max: int) -> None:
        super().__init__()
        self.now_s = 0.0
        self.turns = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self._turns_max = turns_max
        self._chance = chance
        self.set_task_factory(_own_task)

    def time(self) -> float:
        """Return the virtual time in seconds since the simulation began."""
        return self.now_s

    def call_at(  # type: ignore[override]  # typeshed: by the callback's arguments
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a moment; of two for one moment the first that was asked for comes first."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    async def wait(self, wait_s: float) -> None:
        """Wait as asyncio.sleep does, which asks the system more than it must."""
        done: asyncio.Future[None] = asyncio.Future(loop=self)
        timer = self.call_at(self.now_s + wait_s, _set, done)
        try:
            await done
        finally:
            timer.cancel()

    def resume(self, process: Process) -> None:
        """Let a paused process go on."""
        process.paused = False
        self._ready.extend(process.parked)
        process.parked.clear()

    def _run_once(self) -> None:
        """Take one turn of the loop: whatever is due now, or the next timer."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise Stuck("everything waits, and for nothing")
            self.now_s = max(self.now_s, timers[0][0])
        while timers and timers[0][0] <= self.now_s:
            ready.append(heapq.heappop(timers)[2])
        while ready and not self._stopping:
            handle = self._next()
            if handle is not None:
                handle._run()
                self.turns += 1
        if self.turns > self._turns_max:
            self._turns_max *= 2  # What ends the simulation needs turns as well.
            raise Stuck(f"not at an end after {self.turns} turns, {self.now_s:.1f} s")

    def _next(self) -> asyncio.Handle | None:
        """Take the next callback of a process that is drawn; None if there was nothing to do."""
        ready = self._ready
        if len(ready) == 1:
            handle = ready.popleft()
        else:
            whose, place = _whose(ready[int(self._chance.random() * len(ready))]), 0
            while _whose(ready[place]) is not whose:
                place += 1
            handle = ready[place]
            del ready[place]
        if handle.cancelled():
            return None
        process = _whose(handle)
        if process is not None and process.paused:
            process.parked.append(handle)
            return None
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is found when its time comes, or before."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run it at once: a simulated process has one thread."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for it
            done.set_exception(error)
        return done

    def _write_to_self(self) -> None:
        """Wake the selector, which there is not."""

    create_connection = create_server = create_datagram_endpoint = _no_sockets
    getaddrinfo = getnameinfo = connect_accepted_socket = _no_sockets
    add_reader = add_writer = add_signal_handler = remove_signal_handler = _no_sockets
    subprocess_exec = subprocess_shell = connect_read_pipe = connect_write_pipe = _no_sockets


def _set(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _whose(handle: asyncio.Handle) -> Process | None:
    process: Process | None = handle._context.get(PROCESS)  # type: ignore[attr-defined]
    return process


def _own_task(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task that belongs to the process that asks for it, and ends with it."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    process = PROCESS.get()
    if process is not None:
        process.tasks.append(task)
    return task
