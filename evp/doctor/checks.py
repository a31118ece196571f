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


class Check(NamedTuple):
    """One check: the function, the engines it asks, and what mends its `fixable` findings."""

    look: Look
    asks: tuple[str, ...] = (LOG,)
    fix: Fix | None = None

    @property
    def name(self) -> str:
        """What it is called, in reports and in tests."""
        return self.look.__name__


_BOTH = (LOG, STORE)
_STORE = (STORE,)

CHECKS: tuple[Check, ...] = (
    Check(log_state.log_is_replica),
    Check(log_state.too_old),
    Check(log_settings.durability_waived, ()),
    Check(log_settings.aof_off, fix=log_settings.turn_aof_on),
    Check(log_settings.aof_starting),
    Check(log_settings.aof_not_synced, fix=set_to("appendfsync", "always")),
    Check(log_settings.aof_sync_pauses, fix=set_to("no-appendfsync-on-rewrite", "no")),
    Check(log_settings.evicts, fix=set_to("maxmemory-policy", "noeviction")),
    Check(log_settings.no_memory_limit),
    Check(log_settings.idle_connections_cut),
    Check(log_settings.no_keepalive),
    Check(log_settings.aof_rewritten_often),
    Check(log_state.aof_write_failed),
    Check(log_state.aof_rewrite_failed),
    Check(log_state.aof_grown),
    Check(log_state.memory_filling),
    Check(log_state.connections_filling),
    Check(stream.wrong_type),
    Check(stream.newer_frames),
    Check(stream.group_missing, _BOTH),
    Check(stream.group_pins),
    Check(stream.ghost_consumers, fix=stream.lay_ghosts),
    Check(stream.not_trimmed, _BOTH, fix=stream.trim_now),
    Check(work.other_writer, _STORE),
    Check(work.nobody_works),
    Check(work.silent_worker, _BOTH),
    Check(work.ledger_behind, _BOTH, fix=work.carry_ledger),
    Check(work.dead_letters, _STORE),
    Check(work.entries_deleted, _STORE),
    Check(store.collections_missing, _STORE, fix=store.make_missing),
    Check(store.indexes_missing, _STORE, fix=store.make_missing),
    Check(store.index_different, _STORE),
    Check(store.wrongly_sharded, _STORE),
    Check(store.weak_address, ()),
    Check(store.store_forgets, _STORE),
    Check(store.store_alone, _STORE),
    Check(machine.log_clock),
    Check(machine.store_clock, _STORE),
    Check(machine.few_files, ()),
)
