"""`--sample`: a fair draw of frames from a run of unknown length."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from bson import ObjectId


class Sample:
    """Up to `size` of all frames that were offered; each has the same chance."""

    def __init__(self, size: int) -> None:
        self.drawn: list[ObjectId] = []
        self._size = size
        self._offered = 0

    def offer(self, frame_ids: Iterable[ObjectId]) -> None:
        """Draw from these, and from all that were offered before."""
        for frame_id in frame_ids:
            self._offered += 1
            if len(self.drawn) < self._size:
                self.drawn.append(frame_id)
            elif (place := secrets.randbelow(self._offered)) < self._size:
                self.drawn[place] = frame_id
