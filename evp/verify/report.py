"""What a verification found, as structs that are printed as they are (`evp verify --json`)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field

from evp.errors import EXIT_FINDING, EXIT_OK, EXIT_UNAVAILABLE
from evp.limits import VERIFY_FINDINGS_MAX
from evp.storage.acknowledged import Acknowledgement


class Kind(StrEnum):
    """What kind of difference was found."""

    HOLE = "hole"
    DAMAGED = "damaged"
    ENTRY_LOST = "entry_lost"
    ACKED_NOT_STORED = "acked_not_stored"
    EVENT_MISSING = "event_missing"
    LETTER_MISSING = "letter_missing"
    COUNTS_WRONG = "counts_wrong"
    FRAME_UNKNOWN = "frame_unknown"
    EVENT_UNLISTED = "event_unlisted"


MEANING: dict[Kind, str] = {
    Kind.HOLE: (
        "frames that were acknowledged are neither in the log nor in the store: their events are "
        "lost. The log lost its tail (failover, flush, a disk that lied, an older copy put back), "
        "entries were deleted before any worker read them, or an older store was put back and the "
        "log had trimmed them. Whoever sent events in this time can send them again: what is "
        "stored is recognised. Then evp verify --acknowledge REASON takes note of it"
    ),
    Kind.DAMAGED: (
        "an entry was damaged between server and worker; what is left of it is a dead letter. "
        "Whoever sent events in this time can send them again"
    ),
    Kind.ENTRY_LOST: (
        "a worker began to write this frame, and before it was done the log lost the entry: these "
        "events are neither stored nor dead letters. Whoever sent them can send them again; then "
        "evp verify --acknowledge REASON takes note of it"
    ),
    Kind.ACKED_NOT_STORED: (
        "the group that writes has done with these frames, and the store does not have them: it "
        "was put back to an older state, or the group was set forward (XGROUP SETID). The log has "
        "them still, and forgets them soon: evp verify --repair has the workers write them again"
    ),
    Kind.EVENT_MISSING: (
        "the frame is settled, so these events were stored, and are not there any more: they were "
        "deleted, or the store was put back to an older state. Restore them, or send them again"
    ),
    Kind.LETTER_MISSING: (
        "these events are counted as dead, and their dead letters are gone: they were deleted by "
        "other means than evp's"
    ),
    Kind.COUNTS_WRONG: (
        "stored, duplicate and dead of this outcome don't add up to the events of its frame: the "
        "outcome was changed by other means than evp's"
    ),
    Kind.FRAME_UNKNOWN: (
        "documents in `events` of a frame that evp has no header of: another program wrote them, "
        "or the header was deleted"
    ),
    Kind.EVENT_UNLISTED: (
        "documents in `events` say they are of a frame that does not list them: another program "
        "wrote them"
    ),
}


class Finding(Struct, kw_only=True):
    """One difference. `events` is how many it concerns, null if that can't be told.

    Then `events_together` is how many all such findings of its epoch concern, if that can.
    `key` stands for exactly this difference: what it is about, all events of it. Of one
    that somebody has taken note of, `acknowledged` says why and when.
    `partition` is the number of the stream it was found in, null of a stray document.
    `event_ids` names the first of them. `after` and `before` bound the time at
    which they were accepted, null where nothing is known.
    """

    kind: Kind
    key: str
    meaning: str
    srv: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    frames: int = 1
    events: int | None = None
    events_together: int | None = None
    frame_id: str | None = None
    partition: int | None = None
    entry_id: str | None = None
    event_ids: list[str] = field(default_factory=list)
    after: datetime | None = None
    before: datetime | None = None
    dead_letter: str | None = None
    acknowledged: Acknowledgement | None = None


class Counts(Struct):
    """What was looked at. Frames and events of the log are those that are not settled yet.

    `frames` to `dead` are sums over the frames in the store that were read;
    `external` ones, plain entries of other programs, are among them. `lost_events` are those of
    findings that nothing here can mend, acknowledged or not. Of some it can't be told how many
    events they concern: then there are more than these (`lost_events_at_least`).
    """

    epochs: int = 0
    recorded_frames: int = 0
    recorded_events: int = 0
    frames: int = 0
    events: int = 0
    stored: int = 0
    duplicate: int = 0
    dead: int = 0
    in_log_frames: int = 0
    in_log_events: int = 0
    lost_events: int = 0
    lost_events_at_least: bool = False
    external_events: int = 0
    expired_frames: int = 0
    ids_checked: int = 0
    documents_scanned: int = 0
    repaired_frames: int = 0
    redelivered_frames: int = 0


class Scope(Struct, frozen=True):
    """What to look at: frames accepted `since` then; every document; ids of a `sample` only.

    With `repair`, frames that no worker will settle any more are settled by what
    the store has of them, and frames that are acked and not stored delivered again.
    With `acknowledge`, a reason, what is found is taken note of.
    """

    since: datetime | None = None
    every_document: bool = False
    sample: int | None = None
    repair: bool = False
    acknowledge: str | None = None


class Report(Struct, kw_only=True):
    """The answer. `stream` is the first of `partitions` streams.

    `undecided_frames` are those of which only the log, which is away, can tell, and
    those that somebody changed each time they were looked at. `acknowledge_error` says
    why what was to be acknowledged is not.
    """

    clean: bool = False
    stream: str
    partitions: int = 1
    database: str
    scope: Scope
    began_at: datetime
    took_s: float = 0.0
    counts: Counts = field(default_factory=Counts)
    log_error: str | None = None
    acknowledge_error: str | None = None
    undecided_frames: int = 0
    findings_total: int = 0
    findings_by_kind: dict[Kind, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    acknowledged_total: int = 0
    acknowledged: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Take a finding; from a number on they are only counted.

        What is acknowledged is listed apart, and no reason for another exit code.
        """
        is_known = finding.acknowledged is not None
        self.count(finding.kind, 1, acknowledged=is_known)
        named = self.acknowledged if is_known else self.findings
        if len(named) < VERIFY_FINDINGS_MAX:
            named.append(finding)

    def count(self, kind: Kind, count: int, *, acknowledged: bool) -> None:
        """Count findings without naming them."""
        if acknowledged:
            self.acknowledged_total += count
            return
        self.findings_total += count
        self.findings_by_kind[kind] = self.findings_by_kind.get(kind, 0) + count

    @property
    def exit_code(self) -> int:
        """0 clean, 1 a finding, 3 not all could be looked at or acknowledged."""
        if self.findings_total:
            return EXIT_FINDING
        is_partial = self.log_error or self.acknowledge_error or self.undecided_frames
        return EXIT_UNAVAILABLE if is_partial else EXIT_OK
