"""What was found, put into the words of the report."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from evp.clock import from_ms
from evp.frame import entry_ms
from evp.identity import ID_BYTES, canonical
from evp.limits import VERIFY_FINDING_IDS_MAX
from evp.verify.documents import Stranger
from evp.verify.holes import Part
from evp.verify.judge import Fault
from evp.verify.report import MEANING, Finding

_KEY_BYTES = 12


def of_fault(fault: Fault) -> Finding:
    """Return a frame of which something is wrong as a finding."""
    frame = fault.frame
    accepted_at = from_ms(entry_ms(frame.entry_id))
    return Finding(
        kind=fault.kind,
        key=_key(fault.kind, frame.frame_id, *fault.event_ids),
        meaning=MEANING[fault.kind],
        srv=frame.srv.hex() or None,
        first_seq=frame.seq or None,
        last_seq=frame.seq or None,
        events=len(fault.event_ids) or frame.count,
        frame_id=str(frame.frame_id),
        partition=frame.partition,
        entry_id=frame.entry_id,
        event_ids=_texts(fault.event_ids),
        after=accepted_at,
        before=accepted_at,
    )


def of_part(part: Part) -> Finding:
    """Return missing frames as a finding."""
    return Finding(
        kind=part.kind,
        key=_key(part.kind, part.srv, part.first, part.last, part.letter_id),
        meaning=MEANING[part.kind],
        srv=part.srv.hex(),
        first_seq=part.first,
        last_seq=part.last,
        frames=part.last - part.first + 1,
        events=part.events,
        events_together=part.events_together,
        partition=part.partition,
        entry_id=part.entry_id,
        after=None if part.after_ms is None else from_ms(part.after_ms),
        before=None if part.before_ms is None else from_ms(part.before_ms),
        dead_letter=part.letter_id,
    )


def of_stranger(stranger: Stranger) -> Finding:
    """Return documents that no frame lists as a finding."""
    return Finding(
        kind=stranger.kind,
        key=_key(stranger.kind, stranger.frame_id, *sorted(map(_said, stranger.ids))),
        meaning=MEANING[stranger.kind],
        events=len(stranger.ids),
        frame_id=None if stranger.frame_id is None else str(stranger.frame_id),
        event_ids=_texts(stranger.ids),
    )


def _key(*parts: Any) -> str:
    """Return what stands for a finding, and only for this one."""
    digest = blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        said = _said(part).encode()
        digest.update(b"%d:%b" % (len(said), said))
    return digest.hexdigest()


def _said(part: Any) -> str:
    return part.hex() if isinstance(part, bytes) else str(part)


def _texts(ids: Iterable[Any]) -> list[str]:
    """Return the first ids as people write them."""
    texts: list[str] = []
    for id_ in ids:
        if len(texts) == VERIFY_FINDING_IDS_MAX:
            break
        is_ours = isinstance(id_, bytes) and len(id_) == ID_BYTES
        texts.append(canonical(id_) if is_ours else str(id_))
    return texts
