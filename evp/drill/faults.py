"""The faults of a drill: their names, and whom each of them hits."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """What is done on purpose."""

    KILL_WORKER = "kill-worker"
    KILL_SERVE = "kill-serve"
    RESTART_LOG = "restart-log"
    STOP_STORE = "stop-store"
    PAUSE_WORKER = "pause-worker"
    DROP_GROUP = "drop-group"


VICTIM: dict[Fault, str] = {
    Fault.KILL_WORKER: "work",
    Fault.KILL_SERVE: "serve",
    Fault.RESTART_LOG: "log",
    Fault.STOP_STORE: "store",
    Fault.PAUSE_WORKER: "work",
}
"""Which child of an `evp up` a fault hits; one that is missing here hits no process."""

KILLS = frozenset((Fault.KILL_WORKER, Fault.KILL_SERVE, Fault.RESTART_LOG))
"""These end a process as kill -9 does, and the `evp up` has to start it again."""
