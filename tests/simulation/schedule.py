"""One schedule: a deployment and what befalls it, drawn from a seed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from random import Random

from tests.simulation import knobs
from tests.simulation.events import BAD, GOOD, KILLER
from tests.simulation.faults import Chances
from tests.simulation.simulation import Result, Simulation, Trace
from tests.simulation.world import READERS

_PROFILES: dict[str, tuple[float, float, float, float, float]] = {
    # by call: faults of the log, of the store, slow ones; by act: kills, losses of the log
    "calm": (0.005, 0.005, 0.03, 0.01, 0.0),
    "store": (0.01, 0.06, 0.03, 0.02, 0.01),
    "log": (0.05, 0.01, 0.03, 0.02, 0.05),
    "kills": (0.01, 0.01, 0.03, 0.15, 0.01),
    "failovers": (0.02, 0.01, 0.15, 0.05, 0.12),
    "all": (0.04, 0.04, 0.06, 0.08, 0.06),
}


def run(seed: int, trace: Trace | None = None) -> Result:
    """Run the schedule of a seed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _run(seed, trace)
    finally:
        if was_enabled:
            gc.enable()


def _run(seed: int, trace: Trace | None) -> Result:
    chance = Random(seed)
    log_fault, store_fault, slow, kill, lose = _PROFILES[chance.choice(list(_PROFILES))]
    kinds = [GOOD] * 8 + [BAD] * chance.choice((0, 0, 1, 2)) + [KILLER] * (chance.random() < 0.2)
    chances = Chances(log_fault=log_fault, store_fault=store_fault, slow=slow)
    with Simulation(seed, chance, chances, kinds, forgets=lose > 0, trace=trace) as simulation:
        simulation.run(_Storm(simulation, kill, lose).live())
        return simulation.result()


class _Storm:
    """What befalls one deployment; `kill` and `lose` say how often."""

    def __init__(self, simulation: Simulation, kill: float, lose: float) -> None:
        self._simulation = simulation
        self._world = simulation.world
        self._chance = simulation.chance
        self._kill = kill
        self._lose = lose

    async def live(self) -> None:
        """Start, let things happen, finish."""
        world, chance = self._world, self._chance
        for start, likely in (
            (world.start_server, 1.0),
            (world.start_server, 0.5),
            (world.start_worker, 1.0),
            (world.start_worker, 0.7),
            (world.start_reader, 0.2),
        ):
            if chance.random() < likely:
                start()
        acts = self._acts()
        weights = [weight for weight, _ in acts]
        for _ in range(chance.choice((20, 30, 30, 60))):
            await asyncio.sleep(chance.expovariate(1 / 0.06))
            chance.choices(acts, weights)[0][1]()
        await self._simulation.finish()

    def _acts(self) -> list[tuple[float, Callable[[], object]]]:
        """Return what may happen next, and how likely it is."""
        world, chance = self._world, self._chance
        plain = 0.05 if chance.random() < 0.3 else 0.0
        return [
            (1.0, world.submit),
            (plain, world.write_plain),
            (self._kill, world.kill_one),
            (self._kill, world.pause_one),
            (self._lose, world.fail_over),
            (self._lose / 6, world.flush),
            (self._lose / 4, lambda: world.destroy_group(knobs.GROUP.encode())),
            (self._lose / 8, lambda: world.destroy_group(READERS)),
            (0.1, world.arrive),
            (0.02, lambda: world.leap(chance.choice((2.0, 12.0)) * chance.random())),
            (0.04, world.erase),
            (0.01, world.mend),
            (0.01, lambda: world.background(self._simulation.verify_meanwhile())),
        ]
