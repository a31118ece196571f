"""The system under test on one machine whose power can be cut, again and again.

Log, store, server and worker are killed at one moment; then the disks of log and store
are put to what they had been asked to keep. Clients are elsewhere, and go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from evp.engines.engine import log_engine, store_engine
from evp.engines.locate import find_log, find_store
from tests.faults.kit.system import EvpProcess, System, environ_of
from tests.faults.power.disk import Cut, Disk
from tests.support.proxy import Network
from tests.support.servers import ProcessServer


class Machine(System):
    """A system whose engines have disks of their own; evp's processes keep nothing."""

    def __init__(
        self,
        folder: Path,
        log: ProcessServer,
        store: ProcessServer,
        disks: dict[str, Disk],
        environ: dict[str, str],
    ) -> None:
        super().__init__(folder, log, store, Network({}), environ)
        self.disks = disks
        self._engines = (log, store)

    def cut_power(self, dice: random.Random | None = None) -> dict[str, Cut]:
        """Cut it; return what each disk lost. `dice` as for `Disk.cut`."""
        processes: list[ProcessServer | EvpProcess] = [*self._engines]
        processes += self.named("server") + self.named("worker")
        pids = [one.pid for one in processes if one.running]
        # All stop at one moment, as far as that can be had, and then never go on.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                os.killpg(pid, number)
        for victim in self.victims.values():
            victim.kill()
        return {name: disk.cut(dice) for name, disk in self.disks.items()}

    def power_up(self) -> int:
        """Start all again, engines first. Returns how many starts were in vain.

        A log that finds half a transaction at the end of a file that is not its last one cuts
        it off and ends, Redis 8 in two steps; whoever supervises it starts it again.
        """
        in_vain = 0
        for victim in self.victims.values():
            for last in (False, False, True):
                try:
                    victim.start()
                    break
                except AssertionError:
                    if last:
                        raise
                    in_vain += 1
        return in_vain


@contextlib.asynccontextmanager
async def running_machine(
    folder: Path, *log_arguments: str, servers: int = 1, workers: int = 1, **settings: str
) -> AsyncIterator[Machine]:
    """Run a system in a folder; nothing is left at the end. Raises CantCompile."""
    machine = await asyncio.to_thread(_built, folder, log_arguments, settings)
    try:
        await asyncio.to_thread(machine.log.start)
        await asyncio.to_thread(machine.store.start)
        await asyncio.to_thread(machine.add_all, servers, workers)
        yield machine
    finally:
        await asyncio.to_thread(machine.end)


def _built(folder: Path, log_arguments: Sequence[str], settings: Mapping[str, str]) -> Machine:
    disks = {name: Disk(folder / name) for name in ("log", "store")}
    log = ProcessServer(log_engine(disks["log"].under(find_log()), folder / "log"), *log_arguments)
    store = ProcessServer(store_engine(disks["store"].under(find_store()), folder / "store"))
    return Machine(folder, log, store, disks, environ_of(log.url, store.url, folder, **settings))
