"""Whether the log would still have what it acknowledged after the power failed.

`examine` reads the settings that decide it. With `appendonly yes` and
`appendfsync always` a reply to XADD already means that the disk has it.
Otherwise, or where replicas must have it too, WAITAOF goes with each append and
its two counts are checked: a time-out is no error, only a smaller count.

Where replicas must have it, WAIT goes before WAITAOF. A replica that is asked for what
its disk has while it reads the append answers before it has synced it, and is not asked
again; its next word comes with its heartbeat, up to a second later. Asked by WAIT first,
it is done with that when WAITAOF asks: 5 ms instead of 1,000.

Valkey (to 9.1, at least) and Redis before 8.0 answer WAITAOF before the disk has it where
they sync once a second. `require_waiting` refuses them, and such a log must have
`appendfsync always`. All of them take a sync that failed for one that was done; so how the
last one went is asked after WAITAOF, in the same go.

Whether a server can do what evp needs is asked of the server. A version can be a reason to
refuse it, and none to trust it: Valkey 9.1 says it is Redis 7.2.4.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from evp.clock import monotonic_s
from evp.errors import LogNotDurable
from evp.limits import DURABLE_WAIT_MS_MAX, WAITAOF_S_MIN, WAITAOF_TRIES
from evp.stream.client import Argument, Link, LogForbids, LogFull, LogRefused, pairs
from evp.stream.keys import Keys
from evp.stream.memory import info_fields
from evp.stream.scripts import PROBE

FSYNC = "fsync"
DECLARED = "declared"
MEMORY = "memory"

_WATCHED = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")


class Durability(Struct, frozen=True):
    """What an append is worth. `label` goes into every 202.

    With `wait`, each append is followed by `questions` on the same connection. With `by_word`
    it is WAITAOF alone that tells what the log's own disk has (`require_waiting`).
    """

    label: str
    wait: bool = False
    replicas: int = 0
    by_word: bool = False

    @property
    def questions(self) -> list[tuple[Argument, ...]]:
        """What is asked after an append, in one go with it; the answers are for `confirm`.

        Altogether the log takes DURABLE_WAIT_MS_MAX at most for it.
        """
        if not self.replicas:
            asked: list[tuple[Argument, ...]] = [("WAITAOF", 1, 0, DURABLE_WAIT_MS_MAX)]
        else:
            half_ms = max(1, DURABLE_WAIT_MS_MAX // 2)
            asked = [("WAIT", self.replicas, half_ms), ("WAITAOF", 1, self.replicas, half_ms)]
        return [*asked, _HOW_IT_WENT] if self.by_word else asked

    def confirm(self, told: list[Any]) -> None:
        """Check the answers to `questions`. Raises LogNotDurable if one is not enough."""
        *_, (local, replicas) = told[:-1] if self.by_word else told
        # What a sync that failed was for WAITAOF counts as synced.
        if self.by_word and info_fields(told[-1]).get(_WRITE_STATUS, "ok") != "ok":
            raise LogNotDurable("the log can't sync its file: look at its own log and its disk")
        _require(local, replicas, self.replicas)


async def examine(link: Link, policy: str, replicas: int) -> Durability:
    """Return what an append over `link` is worth under DURABILITY=`policy`.

    Raises LogNotDurable, which names the wrong setting and its mend, and
    LogUnavailable.
    """
    await _refuse_replica(link)
    if policy == MEMORY:
        return Durability(MEMORY)
    if policy == DECLARED:
        return Durability(DECLARED, wait=replicas > 0, replicas=replicas)
    settings = await _settings(link)
    _refuse(settings)
    always = settings.get("appendfsync") == "always"
    wait = not always or replicas > 0
    found = Durability(FSYNC, wait=wait, replicas=replicas, by_word=not always)
    # Asked once even where a reply means the disk: a log whose file has just been turned on
    # loses all until the file holds what there was before.
    try:
        told = await link.calls(found.questions, wait_s=DURABLE_WAIT_MS_MAX / 1000)
    except LogForbids as error:
        raise LogNotDurable(
            f"evp may not ask what the log's file holds ({error}); {_ALLOW}"
        ) from error
    except LogRefused as error:
        raise LogNotDurable(f"WAITAOF does not work here ({error}); {_MEND}") from error
    found.confirm(told)
    return found


async def require_commands(link: Link, keys: Keys) -> None:
    """Refuse a server that is too old. Raises LogNotDurable and LogUnavailable.

    It must know WAITAOF, and its XAUTOCLAIM must tell which pending entries were
    deleted: otherwise a loss would go unseen. What is tried is written, so that a
    WAITAOF afterwards has something to wait for.
    """
    try:
        rows = await link.call("COMMAND", "INFO", *_REQUIRED)
    except LogRefused:
        pass  # Hidden: what is missing is refused when it is used.
    else:
        missing = [name for name, row in zip(_REQUIRED, rows, strict=True) if not row]
        if missing:
            raise LogNotDurable(f"the log does not know {' and '.join(missing)}: {_NEWER}")
    try:
        elements = await link.script(PROBE, (keys.probe,), ())
    except LogFull:
        return  # It was asked before it was full.
    if elements != _XAUTOCLAIM_ELEMENTS:
        raise LogNotDurable(f"the log's XAUTOCLAIM does not tell what was deleted: {_NEWER}")


async def require_waiting(link: Link, keys: Keys) -> None:
    """Refuse a server whose WAITAOF answers before its disk has what was written.

    It is known by its version, or found out: what is written just after a sync must be
    confirmed by the next one and no sooner, again and again, since beside other writers a
    server that does not wait can be slow by chance. Takes four seconds where all is well,
    and WAITAOF_TRIES + 1 times DURABLE_WAIT_MS_MAX at the worst. Raises LogNotDurable,
    LogFull if nothing can be written to try it with, and LogUnavailable.
    """
    if await _is_older_than_8(link):
        raise LogNotDurable(_ANSWERS_EARLY)
    await _until_synced(link, keys)
    for _ in range(WAITAOF_TRIES):
        began_at_s = monotonic_s()
        await _until_synced(link, keys)
        if monotonic_s() - began_at_s < WAITAOF_S_MIN:
            raise LogNotDurable(_ANSWERS_EARLY)


async def _is_older_than_8(link: Link) -> bool:
    """Return whether a server says that it is Redis before 8, as each Valkey does."""
    try:
        version = info_fields(await link.call("INFO", "server")).get("redis_version", "")
    except LogRefused:
        return False  # Hidden: it is tried.
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) < _WAITS_SINCE


async def _until_synced(link: Link, keys: Keys) -> None:
    """Write something, and wait until WAITAOF says that the disk has it."""
    wait_aof = ("WAITAOF", 1, 0, DURABLE_WAIT_MS_MAX)
    wait_s = DURABLE_WAIT_MS_MAX / 1000
    *_, (local, _) = await link.script_then(PROBE, (keys.probe,), (), wait_aof, wait_s=wait_s)
    _require(local, 0, 0)


def _require(local: int, replicas: int, replicas_wanted: int) -> None:
    if local < 1 or replicas < replicas_wanted:
        raise LogNotDurable(
            f"within {DURABLE_WAIT_MS_MAX} ms the disks of {local} of 1 log and {replicas} "
            f"of {replicas_wanted} replicas had it"
        )


async def _refuse_replica(link: Link) -> None:
    """Close the link and raise LogNotDurable if the server follows another one.

    What it takes is dropped some day.
    """
    try:
        role, *rest = await link.call("ROLE")
    except LogRefused:
        return  # Hidden. A replica that follows the rules refuses every append anyway.
    if role == b"slave":
        primary = f"{rest[0].decode()}:{rest[1]}"
        # Whoever dials anew may be led to the primary; this one will not become it.
        await link.close()
        raise LogNotDurable(f"the log is a replica of {primary}: set REDIS_URL to the primary")


_HOW_IT_WENT = ("INFO", "persistence")
_WRITE_STATUS = "aof_last_write_status"
_WAITS_SINCE = 8
_REQUIRED = ("WAITAOF", "XAUTOCLAIM")
_XAUTOCLAIM_ELEMENTS = 3
_NEWER = "use Redis 7.2 or Valkey 8, or newer"
_ALLOW = "allow its user +waitaof and +wait, or vouch for the log with DURABILITY=declared"
_ANSWERS_EARLY = (
    "the log's WAITAOF answers before its disk can have been synced, as that of Valkey and of "
    "Redis before 8.0 does where they sync once a second: set appendfsync always (if it is, let "
    "evp's user read it, +config|get), or vouch for it with DURABILITY=declared"
)
_MEND = "set appendonly yes and appendfsync always, or vouch for it with DURABILITY=declared"


async def _settings(link: Link) -> dict[str, str]:
    """Return the settings that decide, from CONFIG GET or, where that is hidden, from INFO."""
    try:
        flat = await link.call("CONFIG", "GET", *_WATCHED)
        return {name.decode(): value.decode() for name, value in pairs(flat)}
    except LogRefused:
        memory = info_fields(await link.call("INFO", "memory"))
        persistence = info_fields(await link.call("INFO", "persistence"))
    settings = {"appendonly": "yes" if persistence.get("aof_enabled") == "1" else "no"}
    if "maxmemory_policy" in memory:
        settings["maxmemory-policy"] = memory["maxmemory_policy"]
    return settings


def _refuse(settings: dict[str, str]) -> None:
    """Raise LogNotDurable for the first setting under which an accepted event can be lost."""
    if settings.get("appendonly") != "yes":
        raise LogNotDurable(f"the log keeps nothing on disk (appendonly is not yes): {_MEND}")
    if settings.get("appendfsync") == "no":
        raise LogNotDurable("the log leaves it to the system when to sync: set appendfsync always")
    if settings.get("no-appendfsync-on-rewrite", "no") != "no":
        raise LogNotDurable(
            "the log stops syncing while it rewrites its file: set no-appendfsync-on-rewrite no"
        )
    policy = settings.get("maxmemory-policy")
    if policy != "noeviction":
        raise LogNotDurable(
            f"the log may evict the stream when memory is full (maxmemory-policy {policy}): "
            "set maxmemory-policy noeviction"
        )
