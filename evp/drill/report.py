"""What a drill did and found, as structs that are printed as they are (`evp drill --json`)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field

from evp.drill.faults import Fault
from evp.errors import EXIT_FINDING, EXIT_OK, EXIT_UNAVAILABLE
from evp.verify.report import Report as Verification


class Verdict(StrEnum):
    """What is to be said of one fault, the worst first; what was refused may not be kept."""

    LOST = "lost"
    DOUBLED = "doubled"
    REFUSED_STORED = "kept"
    NOT_BACK = "not back"
    UNCHECKED = "unchecked"
    CLEAN = "clean"


class Turn(Struct, kw_only=True):
    """One fault, from the moment it comes until the next one's turn.

    `victim` is the process it hit, or the group; `at_s` counts from the drill's begin, and
    `held_s` is how long a pause lasted. `away_s` is from the fault until answers are 202
    again and stay so, 0 if there was no other answer; `drained_s` from the fault until
    all is settled that was accepted before it was over; null if that took too long, as
    `failure` then says. `accept_ms_p99` is of requests that were under way or due between
    these two and were accepted, counted from when they were due, with all that they were sent
    again; those that gave up are not in it. The rest counts events of requests that ended in
    this turn, as they did; `lost` and the next two are null before they were looked up.
    """

    fault: Fault
    round: int
    victim: str = ""
    at_s: float = 0.0
    held_s: float = 0.0
    away_s: float | None = None
    drained_s: float | None = None
    accept_ms_p99: float | None = None
    failure: str = ""
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    lost: int | None = None
    doubled: int | None = None
    refused_stored: int | None = None
    verdict: Verdict = Verdict.UNCHECKED

    def judge(self) -> None:
        """Set the verdict."""
        if self.lost:
            self.verdict = Verdict.LOST
        elif self.doubled:
            self.verdict = Verdict.DOUBLED
        elif self.refused_stored:
            self.verdict = Verdict.REFUSED_STORED
        elif self.failure:
            self.verdict = Verdict.NOT_BACK
        elif None not in {self.lost, self.away_s, self.drained_s}:
            self.verdict = Verdict.CLEAN


class Report(Struct, kw_only=True):
    """The answer. Counts are events.

    `workers` are processes, null where no `evp up` is known to run them. `recovered` are
    those of unknown outcome that are stored, which is right. `verification`
    is that of `evp verify`, of all that was accepted since the drill began, by whomever;
    null if it was not reached: `interrupted`, or `error` says why.
    """

    run: str
    source: str
    url: str
    eps: int
    batch: int
    duration_s: float
    times: int
    workers: int | None = None
    began_at: datetime
    took_s: float = 0.0
    clean: bool = False
    interrupted: bool = False
    error: str = ""
    turns: list[Turn] = field(default_factory=list)
    sent: int = 0
    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    recovered: int | None = None
    lost: int | None = None
    doubled: int | None = None
    refused_stored: int | None = None
    unexpected: int | None = None
    lost_ids: list[str] = field(default_factory=list)
    doubled_ids: list[str] = field(default_factory=list)
    refused_stored_ids: list[str] = field(default_factory=list)
    verification: Verification | None = None

    @property
    def paused_alone(self) -> bool:
        """Whether a worker was paused that was the only one, so that nobody could take over."""
        return self.workers == 1 and any(one.fault is Fault.PAUSE_WORKER for one in self.turns)

    @property
    def exit_code(self) -> int:
        """1 if anything is wrong or did not come back, 3 if not all could be looked at, 0 clean."""
        wrong = (self.lost, self.doubled, self.refused_stored, self.unexpected)
        verified = self.verification
        if any(wrong) or any(one.failure for one in self.turns):
            return EXIT_FINDING
        if verified is not None and verified.exit_code:
            return verified.exit_code
        unchecked = any(one.verdict is Verdict.UNCHECKED for one in self.turns)
        return EXIT_UNAVAILABLE if self.error or unchecked or verified is None else EXIT_OK
