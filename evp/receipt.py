"""Receipts: where in the log a request stands.

A receipt is `<partition>.<entry id>.<index>`: the entry that holds the request, and
which event of its frame is the request's first one. It holds nothing secret; one that
was changed leads to other events.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_RECEIPT = re.compile(r"0\.([0-9]{1,20})-([0-9]{1,20})\.([0-9]{1,6})")
#: What either part of an entry id can hold.
_PART_MAX = 2**64 - 1


class Receipt(NamedTuple):
    """Where a request stands in the log: its entry, and its first event in there."""

    entry_id: str
    first: int


def receipt_of(text: str) -> Receipt | None:
    """Return the receipt that a text is; None if it is none."""
    found = _RECEIPT.fullmatch(text)
    if found is None or max(int(found[1]), int(found[2])) > _PART_MAX:
        return None
    # As the log writes it: without leading zeros.
    return Receipt(f"{int(found[1])}-{int(found[2])}", int(found[3]))
