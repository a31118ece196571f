"""What failures have in common: their texts without what differs from event to event."""

from __future__ import annotations

import re
from hashlib import blake2b

_DIGEST_BYTES = 4
#: Other texts are compared up to here: what was cut off says nothing.
_CHARS_MAX = 160

#: A validator's report, and where it begins to tell of the event. Before that it is the rule.
_REPORT = "{'operatorName'"
_SEEN = "'consideredValue"

_VARYING = (
    (re.compile(r"\{.*\}"), "{…}"),
    (re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`"), "'…'"),
    (re.compile(r"\b(?=[\w-]*\d)[0-9a-fA-F]{8,}(-[0-9a-fA-F]{4,})*\b"), "<id>"),
    (re.compile(r"\d+([.,:-]\d+)*"), "<n>"),
)


def pattern_of(detail: str) -> str:
    """Return a failure's text with ids, numbers and quoted values replaced."""
    if _REPORT in detail:
        rule, seen, _ = detail.partition(_SEEN)
        return f"{rule}…" if seen else rule
    for varying, stand_in in _VARYING:
        detail = varying.sub(stand_in, detail)
    return detail[:_CHARS_MAX]


def fingerprint(reason: str, error: str, detail: str) -> str:
    """Return what dead letters share that died alike: 8 hexadecimal digits."""
    said = "\0".join((reason, error, pattern_of(detail)))
    return blake2b(said.encode(errors="replace"), digest_size=_DIGEST_BYTES).hexdigest()
