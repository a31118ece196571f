"""The parts of `evp work`: several processes, and the port on which they tell their metrics."""

from __future__ import annotations

import socket
import sys

from evp import supervise
from evp.cli.context import child_environ, run
from evp.metrics.board import Board
from evp.settings import Settings


def metrics_listener(settings: Settings, fd: int | None, *, alone: bool) -> socket.socket | None:
    """Return where a process tells metrics: an inherited socket, or METRICS_PORT if it is alone.

    Raises PortTaken.
    """
    if fd is not None:
        return socket.socket(fileno=fd)
    if alone and settings.metrics_port is not None:
        return supervise.bind(settings.host, settings.metrics_port)
    return None


def run_workers(settings: Settings, processes: int, in_flight: int, *, burst: bool) -> None:
    """Run several workers until a signal comes, or until all are done.

    Raises PortTaken, EngineFailed and UsageError.
    """
    board, fds = Board(), list[int]()
    command = [sys.executable, "-m", "evp", "work", "--in-flight", str(in_flight)]
    command += ["--burst"] if burst else []
    if settings.metrics_port is not None:
        listener = supervise.bind(settings.host, settings.metrics_port)
        command += ["--metrics-fd", str(listener.fileno())]
        fds.append(listener.fileno())
    children = [
        supervise.Child(
            name=name,
            command=[*command, "--board", board.place(name)],
            environ=child_environ(settings),
            pass_fds=(board.fd, *fds),
            done_at_exit_0=burst,
        )
        for name in (f"work-{number}" for number in range(1, processes + 1))
    ]
    run(supervise.run_children(children, settings.shutdown_timeout_s + 1))
