"""Calls to the store with a time of their own, and their errors as evp's."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import pymongo
from pymongo.errors import BulkWriteError, PyMongoError

from evp.clock import monotonic_s
from evp.errors import StoreTooSlow, StoreUnavailable
from evp.storage.failures import ABOUT_A_DOCUMENT, told, unavailable

T = TypeVar("T")


class Bounded:
    """Awaits calls to the store, each for `timeout_ms` at most."""

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1000

    async def __call__(self, call: Awaitable[T]) -> T:
        """Await a call. Raises StoreUnavailable on everything but BulkWriteError."""
        try:
            with pymongo.timeout(self._timeout_s):
                return await call
        except BulkWriteError:
            raise
        except PyMongoError as error:
            raise unavailable(error) from error
        except ABOUT_A_DOCUMENT as error:
            raise StoreUnavailable(str(error)) from error


@contextlib.contextmanager
def limited(within_s: float) -> Iterator[None]:
    """Bound all calls within, together; the store itself gives up what takes longer.

    Raises StoreTooSlow when the time is over, and StoreUnavailable on other errors.
    """
    ends_at_s = monotonic_s() + within_s
    try:
        with told(), pymongo.timeout(within_s):
            yield
    except StoreUnavailable as error:
        if monotonic_s() < ends_at_s:
            raise
        raise StoreTooSlow(f"the store needs longer than {within_s:g} s") from error
