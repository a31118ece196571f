"""Every metric of evp: name, kind, what it says, which labels it has, who tells it.

docs/METRICS.md is made from this table. The label `process` (`serve-1`, `work-2`)
comes with whatever is counted by one process, `partition` (`0`, `1`) with whatever the
log tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evp.metrics.histogram import EVENTS, LONG_SECONDS, SECONDS, Histogram

COUNTER = "counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"

SERVE = "serve"
WORK = "work"
EACH = "each process"
LOG = "the log"

Value = float | Histogram | Mapping[str, float]
"""One value, or one for each value of the family's own label."""

Values = Mapping[str, Value]
"""What somebody tells, by the name of the family."""


class Family(NamedTuple):
    """One metric. `told_by` is SERVE, WORK, EACH, or LOG: a look at the log when it is asked for.

    `label` is the one label of its own, if it has any; `ends` are those of a
    histogram's buckets.
    """

    name: str
    kind: str
    told_by: str
    help: str
    label: str = ""
    ends: tuple[float, ...] = ()

    @property
    def labels(self) -> list[str]:
        """All labels: its own, and the one that says who tells it."""
        return [*filter(None, [self.label]), "partition" if self.told_by == LOG else "process"]


FAMILIES: tuple[Family, ...] = (
    Family("evp_ingest_events_total", COUNTER, SERVE,
        "Events that went into a frame, by what became of it: accepted; refused, the log did not "
        "take it; unknown, nobody can tell (ack_unknown).", "result"),
    Family("evp_ingest_requests_total", COUNTER, SERVE,
        "Requests to POST /events and /events/batch by answer: accepted, or the code of the "
        "problem.", "code"),
    Family("evp_ingest_seconds", HISTOGRAM, SERVE,
        "Time from when an event was taken until the log had it on disk. Each request counts with "
        "the longest time of its frame.", ends=SECONDS),
    Family("evp_ingest_frame_events", HISTOGRAM, SERVE,
        "Events in one append to the log.", ends=EVENTS),
    Family("evp_http_problems_total", COUNTER, SERVE,
        "Answers of any route that were problems, by code.", "code"),
    Family("evp_log_durable", GAUGE, SERVE,
        "1 while the log is reached and keeps on disk what it acknowledges, verified or declared; "
        "else 0, also where EVP_DURABILITY is memory."),
    Family("evp_ingest_ready", GAUGE, SERVE,
        "1 while events are accepted, as /api/ready tells."),
    Family("evp_ingest_backlog_full", GAUGE, SERVE,
        "1 while everything is refused with backlog_full."),
    Family("evp_events_stored_total", COUNTER, WORK,
        "Events stored, by the outcomes of frames that this process settled."),
    Family("evp_duplicates_total", COUNTER, WORK,
        "Events that were stored before."),
    Family("evp_dead_letters_total", COUNTER, WORK,
        "Events and entries that became dead letters, by reason.", "reason"),
    Family("evp_frames_seen_before_total", COUNTER, WORK,
        "Frames that were settled already when they came: redelivery."),
    Family("evp_store_batch_seconds", HISTOGRAM, WORK,
        "Time to write one batch to the store, headers and outcomes included.", ends=SECONDS),
    Family("evp_store_batch_events", HISTOGRAM, WORK,
        "Events in one batch.", ends=EVENTS),
    Family("evp_store_failures_total", COUNTER, WORK,
        "Writes of a batch that the store did not take for the moment; they are tried again."),
    Family("evp_end_to_end_seconds", HISTOGRAM, WORK,
        "Time from the append to the log until the outcome was stored, for each event stored, by "
        "the clocks of log and worker.", ends=LONG_SECONDS),
    Family("evp_entries_deleted_total", COUNTER, WORK,
        "Entries that were gone from the log before they were acked: they may be lost."),
    Family("evp_entries_newer_total", COUNTER, WORK,
        "Deliveries of entries that a newer evp wrote; they stay pending until workers are newer."),
    Family("evp_groups_lost_total", COUNTER, WORK,
        "Times the consumer group was gone and was made anew."),
    Family("evp_events_expired_total", COUNTER, WORK,
        "Events deleted because their time of retention (EVP_RETENTION_DAYS) was over."),
    Family("evp_log_up", GAUGE, LOG,
        "1 if the server that has this partition of the log answered when this was asked for; the "
        "evp_stream_ metrics of the partition are missing if it did not."),
    Family("evp_stream_lag_events", GAUGE, LOG,
        "Events that a consumer group was not given yet.", "group"),
    Family("evp_stream_pending_entries", GAUGE, LOG,
        "Entries that a group was given and has not acked.", "group"),
    Family("evp_stream_pending_events", GAUGE, LOG,
        "Events in those entries, at most.", "group"),
    Family("evp_stream_oldest_age_seconds", GAUGE, LOG,
        "Age of the oldest entry that a group has not acked, 0 if there is none.", "group"),
    Family("evp_stream_entries", GAUGE, LOG,
        "Entries in the stream, those that are done included."),
    Family("evp_stream_accepted_events_total", COUNTER, LOG,
        "Events that were ever appended to the stream, by all servers."),
    Family("evp_stream_memory_bytes", GAUGE, LOG,
        "Memory in use by the server that has this partition, by whatever is in it: all partitions "
        "on one server tell the same."),
    Family("evp_stream_memory_limit_bytes", GAUGE, LOG,
        "The mark above which evp accepts nothing more; missing where the log tells no limit."),
    Family("evp_build_info", GAUGE, EACH,
        "Always 1; the version of evp.", "version"),
    Family("process_cpu_seconds_total", COUNTER, EACH,
        "CPU time, user and system. Linux only, like all process_ metrics."),
    Family("process_resident_memory_bytes", GAUGE, EACH, "Resident memory."),
    Family("process_virtual_memory_bytes", GAUGE, EACH, "Virtual memory."),
    Family("process_start_time_seconds", GAUGE, EACH, "When it started, seconds since 1970."),
    Family("process_open_fds", GAUGE, EACH, "Open files and connections."),
    Family("process_max_fds", GAUGE, EACH, "The most there may be."),
)  # fmt: skip
"""All of them, in the order in which they are told."""

BY_NAME = {family.name: family for family in FAMILIES}
