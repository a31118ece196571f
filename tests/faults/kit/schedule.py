"""When what is done: a plan that follows from a seed, and carrying it out."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

from pymongo.errors import PyMongoError

from evp.errors import LogUnavailable
from tests.faults.kit.system import System
from tests.faults.kit.verbs import FAULT_S_MIN, VERBS, Fault, calm

FAULTS_PER_S = 0.35
_QUIET_S = 3.0
_AGAIN_S = 0.5


def plan(seed: int, seconds: float) -> list[Fault]:
    """Return the faults of a run, by time. In a short run each verb comes at most once or twice."""
    dice = random.Random(seed)
    count = int(seconds * FAULTS_PER_S)
    verbs: list[str] = []
    while len(verbs) < count:
        verbs += dice.sample(list(VERBS), len(VERBS))
    del verbs[count:]
    made: Counter[str] = Counter()
    faults = []
    for name in verbs:
        verb = VERBS[name]
        target = verb.targets[(made[name] + seed) % len(verb.targets)]
        made[name] += 1
        for_s = dice.uniform(FAULT_S_MIN, verb.longest_s)
        at_s = dice.uniform(_QUIET_S, max(_QUIET_S, seconds - for_s))
        faults.append(Fault(name, target, round(at_s, 2), round(for_s, 2), dice.getrandbits(32)))
    return sorted(faults, key=lambda fault: fault.at_s)


async def carry_out(
    system: System, faults: list[Fault], seconds: float, say: Callable[[str], None]
) -> Counter[str]:
    """Do what is planned; return how often each verb was done. All is undone when it returns.

    What still waits for its target when time is up is left out; a fault whose
    engine is away because of another one is tried again.
    """
    done: Counter[str] = Counter()
    began_at_s = time.monotonic()

    async def do(fault: Fault) -> None:
        await asyncio.sleep(fault.at_s - (time.monotonic() - began_at_s))
        async with system.turns[fault.target]:
            while time.monotonic() - began_at_s < seconds:
                say(f"{fault.verb}: {fault.target}, {fault.for_s} s")
                try:
                    await VERBS[fault.verb].run(system, fault)
                except (LogUnavailable, PyMongoError) as error:
                    say(f"{fault.verb}: not now: {error}"[:200])
                    await asyncio.sleep(_AGAIN_S)
                else:
                    done[fault.verb] += 1
                    return

    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(do(fault), name=fault.verb)
        await asyncio.sleep(seconds)
    await asyncio.to_thread(system.heal)
    await calm(system)
    return done
