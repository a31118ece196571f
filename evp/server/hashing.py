"""Passwords beside the loop: one at a time, and after everything else that has work to do."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from evp.passwords import hash_password, verify_password

_NICENESS = 15


class Hashing:
    """One thread that hashes. The hash itself runs in further ones, which are as humble."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "passwords", initializer=_stand_back)

    async def verify(self, kept: str | None, password: str) -> bool:
        """Return whether a password is the one of which this was kept; None fits none."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, verify_password, kept, password)

    async def hash(self, password: str) -> str:
        """Return what is kept of a password."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, hash_password, password
        )

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _stand_back() -> None:
    """Let the loop go first. Only Linux has a niceness for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(now, _NICENESS))
