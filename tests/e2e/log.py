"""What is in the log, read without any code of evp."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import bson
from redis import Redis


def events_in_log(environ: Mapping[str, str]) -> Counter[str]:
    """Return how often each `id` of an event stands in the stream."""
    with Redis.from_url(environ["EVP_REDIS_URL"]) as log:
        entries: Any = log.xrange(environ["EVP_STREAM"])
    found: Counter[str] = Counter()
    for _entry_id, fields in entries:
        for carrier in bson.decode_all(fields[b"docs"]):
            found.update(document["id"] for document in carrier["d"])
    return found


def groups_in_log(environ: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return each group's pending and unread entries."""
    with Redis.from_url(environ["EVP_REDIS_URL"]) as log:
        groups: Any = log.xinfo_groups(environ["EVP_STREAM"])
    return {group["name"].decode(): (group["pending"], group["lag"]) for group in groups}


def names_in_log(environ: Mapping[str, str], group: str) -> set[str]:
    """Return the names of a group's consumers."""
    with Redis.from_url(environ["EVP_REDIS_URL"]) as log:
        consumers: Any = log.xinfo_consumers(environ["EVP_STREAM"], group)
    return {consumer["name"].decode() for consumer in consumers}
