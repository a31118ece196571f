"""All checks, in one table: what each asks, and what mends what it finds.

A check is named by its function. It raises NotChecked, or what an engine that refuses
makes `stream` and `storage` raise, if it can't be made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from evp.doctor import log_settings, log_state, machine, store, stream, work
from evp.doctor.deployment import Deployment
from evp.doctor.findings import Finding
from evp.doctor.log_settings import Fix, set_to

Look = Callable[[Deployment], Awaitable[list[Finding]]]

LOG = "log"
STORE = "store"

ONCE = "once"
EACH_SERVER = "each server of the log"
EACH_PARTITION = "each partition of the log"


class Check(NamedTuple):
    """One check: the function, the engines it asks, and what mends its `fixable` findings.

    `made` tells how often: ONCE, for EACH_SERVER or EACH_PARTITION of the log.
    """

    look: Look
    asks: tuple[str, ...] = (LOG,)
    fix: Fix | None = None
    made: str = ONCE

    @property
    def name(self) -> str:
        """What it is called, in reports and in tests."""
        return self.look.__name__


_BOTH = (LOG, STORE)
_STORE = (STORE,)

CHECKS: tuple[Check, ...] = (
    Check(log_state.log_is_replica, made=EACH_SERVER),
    Check(log_state.too_old, made=EACH_SERVER),
    Check(log_settings.durability_waived, ()),
    Check(log_settings.aof_off, fix=log_settings.turn_aof_on, made=EACH_SERVER),
    Check(log_settings.aof_starting, made=EACH_SERVER),
    Check(log_settings.aof_not_synced, fix=set_to("appendfsync", "always"), made=EACH_SERVER),
    Check(
        log_settings.aof_sync_pauses,
        fix=set_to("no-appendfsync-on-rewrite", "no"),
        made=EACH_SERVER,
    ),
    Check(
        log_settings.cluster_stops,
        fix=set_to("cluster-require-full-coverage", "no"),
        made=EACH_SERVER,
    ),
    Check(log_settings.evicts, fix=set_to("maxmemory-policy", "noeviction"), made=EACH_SERVER),
    Check(log_settings.no_memory_limit, made=EACH_SERVER),
    Check(log_settings.idle_connections_cut, made=EACH_SERVER),
    Check(log_settings.no_keepalive, made=EACH_SERVER),
    Check(log_settings.aof_rewritten_often, made=EACH_SERVER),
    Check(log_state.aof_write_failed, made=EACH_SERVER),
    Check(log_state.aof_rewrite_failed, made=EACH_SERVER),
    Check(log_state.aof_grown, made=EACH_SERVER),
    Check(log_state.memory_filling, made=EACH_SERVER),
    Check(log_state.connections_filling, made=EACH_SERVER),
    Check(stream.wrong_type, made=EACH_PARTITION),
    Check(stream.newer_frames, made=EACH_PARTITION),
    Check(stream.partitions_lowered, _BOTH),
    Check(stream.group_missing, _BOTH, made=EACH_PARTITION),
    Check(stream.group_pins, made=EACH_PARTITION),
    Check(stream.ghost_consumers, fix=stream.lay_ghosts, made=EACH_PARTITION),
    Check(stream.not_trimmed, _BOTH, fix=stream.trim_now, made=EACH_PARTITION),
    Check(work.other_writer, _STORE),
    Check(work.nobody_works, made=EACH_PARTITION),
    Check(work.silent_worker, _BOTH, made=EACH_PARTITION),
    Check(work.ledger_behind, _BOTH, fix=work.carry_ledger, made=EACH_PARTITION),
    Check(work.dead_letters, _STORE),
    Check(work.entries_deleted, _STORE),
    Check(store.collections_missing, _STORE, fix=store.make_missing),
    Check(store.indexes_missing, _STORE, fix=store.make_missing),
    Check(store.index_different, _STORE),
    Check(store.wrongly_sharded, _STORE),
    Check(store.weak_address, ()),
    Check(store.store_forgets, _STORE),
    Check(store.store_alone, _STORE),
    Check(machine.log_clock, made=EACH_SERVER),
    Check(machine.store_clock, _STORE),
    Check(machine.few_files, ()),
)
