"""How much memory this machine gives its processes, and how they look after it."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@cache
def memory_limit_bytes() -> int:
    """Return the least of this machine's memory and the limits of this process's cgroups.

    Reads files the first time.
    """
    return min([psutil.virtual_memory().total, *cgroup_limits_bytes(_MEMBERSHIP, _CGROUPS)])


def cgroup_limits_bytes(membership: Path, cgroups: Path) -> list[int]:
    """Return the memory limits of a process's cgroup and of all above it, in either version.

    `membership` is what /proc/<pid>/cgroup tells, `cgroups` where they are mounted.
    """
    limits: list[int] = []
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path may be that of the host, and not be there.
        for folder in (inner, *inner.parents):
            text = _text(folder / name).strip()
            if text.isdigit():
                limits.append(int(text))
            if folder == root:
                break
    return limits


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


#: Objects made since the last look for cycles, and looks of each kind before one of the next.
#: Requests and events die without the collector; the default, 700, looks at those under way.
_COLLECT_AFTER = (10_000, 20, 50)


def settle_memory() -> None:
    """Say that start-up is over: the collector leaves alone what is there, and looks rarely.

    Looking through all modules again and again costs 40 ms each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
