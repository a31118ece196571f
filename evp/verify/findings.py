"""What was found, put into the words of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from evp.clock import from_ms
from evp.frame import entry_ms
from evp.identity import ID_BYTES, canonical
from evp.limits import VERIFY_FINDING_IDS_MAX
from evp.storage.evidence import UnreadableEntry
from evp.verify.documents import Stranger
from evp.verify.epochs import Hole
from evp.verify.judge import Fault
from evp.verify.report import MEANING, Finding, Kind


def of_fault(fault: Fault) -> Finding:
    """Return a frame of which something is wrong as a finding."""
    frame = fault.frame
    ids = frame.event_ids
    accepted_at = from_ms(entry_ms(frame.entry_id))
    return Finding(
        kind=fault.kind,
        meaning=MEANING[fault.kind],
        srv=frame.srv.hex() or None,
        first_seq=frame.seq or None,
        last_seq=frame.seq or None,
        events=len(fault.indexes) or frame.count,
        frame_id=str(frame.frame_id),
        entry_id=frame.entry_id,
        event_ids=_texts(ids[index] for index in fault.indexes),
        after=accepted_at,
        before=accepted_at,
    )


def of_hole(hole: Hole, unreadable: Sequence[UnreadableEntry]) -> Finding:
    """Return missing frames as a finding; one whose entry is a dead letter was damaged."""
    gap = hole.gap
    letter = next((one for one in unreadable if _is_in(hole, one)), None)
    kind = Kind.HOLE if letter is None else Kind.DAMAGED
    return Finding(
        kind=kind,
        meaning=MEANING[kind],
        srv=hole.srv.hex(),
        first_seq=gap.first,
        last_seq=gap.last,
        frames=hole.frames,
        events=hole.events,
        entry_id=None if letter is None else letter.entry_id,
        after=None if gap.after_ms is None else from_ms(gap.after_ms),
        before=None if gap.before_ms is None else from_ms(gap.before_ms),
        dead_letter=None if letter is None else letter.letter_id,
    )


def of_stranger(stranger: Stranger) -> Finding:
    """Return documents that no frame lists as a finding."""
    return Finding(
        kind=stranger.kind,
        meaning=MEANING[stranger.kind],
        events=len(stranger.ids),
        frame_id=None if stranger.frame_id is None else str(stranger.frame_id),
        event_ids=_texts(stranger.ids),
    )


def _is_in(hole: Hole, letter: UnreadableEntry) -> bool:
    """Return True if a hole holds the frame that an unreadable entry says it is.

    What is damaged may be these two fields as well; then the hole stays one.
    """
    return letter.srv == hole.srv and hole.gap.first <= letter.seq <= hole.gap.last


def _texts(ids: Iterable[Any]) -> list[str]:
    """Return the first ids as people write them."""
    texts: list[str] = []
    for id_ in ids:
        if len(texts) == VERIFY_FINDING_IDS_MAX:
            break
        is_ours = isinstance(id_, bytes) and len(id_) == ID_BYTES
        texts.append(canonical(id_) if is_ours else str(id_))
    return texts
