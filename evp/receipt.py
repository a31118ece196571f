"""Receipts: where in the log a request stands.

A receipt is `<partition>.<entry id>.<index>`: the entry that holds the request, in which
of the log's streams, and which event of its frame is the request's first one. It holds
nothing secret; one that was changed leads to other events.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from evp.limits import PARTITIONS_MAX

_RECEIPT = re.compile(r"([0-9]{1,3})\.([0-9]{1,20})-([0-9]{1,20})\.([0-9]{1,6})")
#: What either part of an entry id can hold.
_PART_MAX = 2**64 - 1


class Receipt(NamedTuple):
    """Where a request stands in the log: its entry, its first event in there, its partition."""

    entry_id: str
    first: int
    partition: int = 0


def receipt_of(text: str) -> Receipt | None:
    """Return the receipt that a text is; None if it is none."""
    found = _RECEIPT.fullmatch(text)
    if found is None:
        return None
    partition, ms, number, first = map(int, found.groups())
    if partition >= PARTITIONS_MAX or max(ms, number) > _PART_MAX:
        return None
    # As the log writes it: without leading zeros.
    return Receipt(f"{ms}-{number}", first, partition)
