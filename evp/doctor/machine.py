"""Checks of this machine: its clock against the others', and the files a process may open."""

from __future__ import annotations

import resource

from evp.clock import now_ms
from evp.doctor.deployment import Deployment
from evp.doctor.findings import ERROR, NOTE, WARNING, Finding
from evp.doctor.limits import SKEW_MS_MAX
from evp.errors import NotChecked
from evp.limits import CLOCK_SKEW_MS_MAX
from evp.server.limits import CONNECTIONS_MAX, CONNECTIONS_REFUSED_MAX, FILES_KEPT
from evp.settings import PRODUCTION
from evp.storage.inspection import hello
from evp.stream.headers import clock_ms


async def log_clock(at: Deployment) -> list[Finding]:
    """Look whether this machine and the log's disagree about the time."""
    before_ms = now_ms()
    theirs_ms = await clock_ms(at.link)
    return _skew("log", theirs_ms, before_ms, now_ms())


async def store_clock(at: Deployment) -> list[Finding]:
    """Look whether this machine and the store's disagree about the time."""
    await hello(at.db)  # It may have to be dialled first.
    before_ms = now_ms()
    theirs_ms, _ = await hello(at.db)
    if theirs_ms is None:
        raise NotChecked("the store does not tell its time")
    return _skew("store", theirs_ms, before_ms, now_ms())


def _skew(who: str, theirs_ms: int, before_ms: int, after_ms: int) -> list[Finding]:
    """Judge a clock that was read at some moment between two readings of this machine's."""
    ahead_ms, behind_ms = theirs_ms - after_ms, before_ms - theirs_ms
    apart_ms = max(ahead_ms, behind_ms)
    if apart_ms <= SKEW_MS_MAX:
        return []
    which = "ahead of" if ahead_ms > 0 else "behind"
    is_far = apart_ms > CLOCK_SKEW_MS_MAX
    return [
        Finding(
            severity=ERROR if is_far else WARNING,
            what=f"the clock of the {who}'s machine is {apart_ms / 1000:,.1f} s {which} this "
            "machine's",
            meaning="Events get wrong times, workers look silent, and evp verify --since can miss "
            f"a loss if clocks are more than {CLOCK_SKEW_MS_MAX // 60_000} minutes apart.",
            mend="Keep all machines in time (chrony, systemd-timesyncd).",
            command="timedatectl status",
        )
    ]


async def few_files(at: Deployment) -> list[Finding]:
    """Look whether a process started from here may open fewer files than a server can use."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = FILES_KEPT + CONNECTIONS_REFUSED_MAX
    wanted = CONNECTIONS_MAX + kept
    if files == resource.RLIM_INFINITY or files >= wanted:
        return []
    return [
        Finding(
            severity=WARNING if at.settings.env == PRODUCTION else NOTE,
            what=f"a process started from here may open {files:,} files",
            meaning=f"A server then holds {max(1, files - kept):,} connections instead of "
            f"{CONNECTIONS_MAX:,}, and tells further clients 503 server_busy.",
            mend="Raise the limit where servers are started (LimitNOFILE= of systemd, --ulimit of "
            "Docker).",
            command=f"ulimit -n {wanted}",
        )
    ]
