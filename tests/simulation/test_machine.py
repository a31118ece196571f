"""A deployment as a state machine: Hypothesis says what befalls it, and shrinks what breaks it."""

from __future__ import annotations

import contextlib
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.simulation import knobs
from tests.simulation.events import BAD, GOOD
from tests.simulation.faults import Chances
from tests.simulation.simulation import Simulation


class Deployment(RuleBasedStateMachine):
    """Two servers, two workers, an engine of each kind; every rule is something that happens."""

    def __init__(self) -> None:
        super().__init__()
        self._simulation: Simulation | None = None
        self._opened = contextlib.ExitStack()

    @property
    def simulation(self) -> Simulation:
        """The world that lives now."""
        assert self._simulation is not None
        return self._simulation

    @initialize(seed=st.integers(0, 2**32), fault=st.sampled_from((0.0, 0.02, 0.08)))
    def begin(self, seed: int, fault: float) -> None:
        """A deployment starts."""
        chances = Chances(log_fault=fault, store_fault=fault)
        simulation = Simulation(seed, Random(seed), chances, [GOOD, GOOD, BAD], forgets=True)
        self._opened.enter_context(simulation)
        self._simulation = simulation
        world = simulation.world
        for start in (
            world.start_server,
            world.start_worker,
            world.start_server,
            world.start_worker,
        ):
            simulation.act(start)
        simulation.pass_time(0.1)

    @rule(wait_s=st.sampled_from((0.01, 0.1, 1.0, 4.0)))
    def time_passes(self, wait_s: float) -> None:
        """Everybody goes on for a while."""
        self.simulation.pass_time(wait_s)

    @rule(requests=st.integers(1, 4))
    def clients_send(self, requests: int) -> None:
        """Requests come in."""
        for _ in range(requests):
            self.simulation.act(self.simulation.world.submit)

    @rule()
    def a_process_is_killed(self) -> None:
        """A process is killed, and another one started."""
        self.simulation.act(self.simulation.world.kill_one)

    @rule()
    def a_process_stands_still(self) -> None:
        """A process is paused; another one may take its place."""
        self.simulation.act(self.simulation.world.pause_one)

    @rule()
    def the_log_fails_over(self) -> None:
        """A replica takes over that lacks the last writes."""
        self.simulation.act(self.simulation.world.fail_over)

    @rule()
    def the_log_is_flushed(self) -> None:
        """The log loses its memory."""
        self.simulation.act(self.simulation.world.flush)

    @rule()
    def the_group_is_destroyed(self) -> None:
        """Somebody removes the group of the workers."""
        world = self.simulation.world
        self.simulation.act(lambda: world.destroy_group(knobs.GROUP.encode()))

    @rule()
    def a_late_call_arrives(self) -> None:
        """A call that was taken for lost is carried out."""
        self.simulation.act(self.simulation.world.arrive)

    @rule()
    def the_store_is_mended(self) -> None:
        """The store takes bad events from now on."""
        self.simulation.act(self.simulation.world.mend)

    @rule()
    def an_event_is_erased(self) -> None:
        """Somebody has an event erased."""
        self.simulation.act(self.simulation.world.erase)

    @rule()
    def somebody_verifies(self) -> None:
        """`evp verify` runs beside all of it."""
        simulation = self.simulation
        simulation.act(lambda: simulation.world.background(simulation.verify_meanwhile()))

    @invariant()
    def no_promise_is_broken(self) -> None:
        """What must hold at each moment does."""
        if self._simulation is not None:
            assert self._simulation.world.book.violations == []

    def teardown(self) -> None:
        """Everything comes to rest, and is checked."""
        if self._simulation is None:
            return
        with self._opened:
            self.simulation.run(self.simulation.finish())
        assert self._simulation.world.book.violations == []


Deployment.TestCase.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)
TestDeployment = Deployment.TestCase
