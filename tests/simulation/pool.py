"""Schedules side by side, in processes that are replaced before they grow."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice

from tests.simulation.mutants import mutated
from tests.simulation.schedule import run
from tests.simulation.simulation import Result

_AT_ONCE = 5
#: Python's collector passes over deliveries, so whole worlds that are tied to one stay.
_PORTIONS_OF_A_PROCESS = 20


def results(seeds: Iterable[int], mutant: str | None, processes: int) -> Iterator[Result]:
    """Give the results of all schedules, in order, as they come; few are under way at a time."""
    portions = _portions(seeds)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.simulation.schedule"])
    pool = ProcessPoolExecutor(
        processes,
        context,
        initializer=_depend_on_parent,
        max_tasks_per_child=_PORTIONS_OF_A_PROCESS,
    )
    try:
        under_way: list[Future[list[Result]]] = []
        while True:
            for portion in islice(portions, 2 * processes - len(under_way)):
                under_way.append(pool.submit(_run_some, portion, mutant))  # noqa: PERF401
            if not under_way:
                return
            wait(under_way[:1], return_when=FIRST_COMPLETED)
            yield from under_way.pop(0).result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _depend_on_parent() -> None:
    """End with the parent, however it ends; leave Ctrl-C to it, which then gives no more to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def end_with_it() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _portions(seeds: Iterable[int]) -> Iterator[list[int]]:
    remaining = iter(seeds)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some


def _run_some(seeds: list[int], mutant: str | None) -> list[Result]:
    with mutated(mutant):
        return [run(seed) for seed in seeds]
