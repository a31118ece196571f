"""What a drill is to do, and how much that is at least."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from evp.drill.faults import Fault
from evp.drill.limits import (
    DRILL_CLAIM_MARGIN_S,
    DRILL_EVENTS_MAX,
    DRILL_REQUESTS_MAX,
    DRILL_REQUESTS_PER_S,
    DRILL_TURNS_MAX,
)
from evp.errors import UsageError


class Plan(Struct, frozen=True):
    """What to do: each of these faults, in this order, so many times."""

    faults: Sequence[Fault]
    times: int
    duration_s: float
    eps: int

    @property
    def turns(self) -> int:
        """How many faults come, one after the other."""
        return len(self.faults) * self.times

    def hold_s(self, fault: Fault, claim_idle_ms: int) -> float:
        """Return how long a fault lasts until it is undone; 0 if it takes but a moment."""
        if fault is Fault.PAUSE_WORKER:
            return claim_idle_ms / 1000 + DRILL_CLAIM_MARGIN_S
        return self.duration_s / 2 if fault is Fault.STOP_STORE else 0.0

    def seconds_min(self, claim_idle_ms: int) -> float:
        """Return how long it takes at least."""
        each_s = (max(self.duration_s, self.hold_s(one, claim_idle_ms)) for one in self.faults)
        return self.times * sum(each_s)

    def require_bounded(self, claim_idle_ms: int) -> None:
        """Raise UsageError if it is more than one drill can remember."""
        if self.turns > DRILL_TURNS_MAX:
            raise UsageError(f"that is more than {DRILL_TURNS_MAX} faults: give fewer --times")
        seconds = self.seconds_min(claim_idle_ms)
        if self.eps * seconds > DRILL_EVENTS_MAX:
            raise UsageError(
                f"that is {self.eps * seconds:,.0f} events at least, and a drill looks up "
                f"{DRILL_EVENTS_MAX:,} at most: give a lower --eps, --duration or --times"
            )
        if min(self.eps, DRILL_REQUESTS_PER_S) * seconds > DRILL_REQUESTS_MAX:
            raise UsageError(
                f"that takes {seconds / 3600:,.1f} hours at least, and a drill remembers "
                f"{DRILL_REQUESTS_MAX:,} requests at most: give a lower --duration or --times"
            )
