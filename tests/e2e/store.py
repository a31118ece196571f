"""What is in the store, read without any code of evp."""

from __future__ import annotations

from collections import Counter
from typing import Any


def once(count: int) -> Counter[str]:
    """Return what the store must hold of so many events."""
    return Counter(f"e{number}" for number in range(count))


def ids(db: Any) -> Counter[str]:
    """Return in how many documents each `id` stands."""
    return Counter(document["id"] for document in db.events.find())
