"""A call to the store with a time of its own, and its errors as evp's."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import pymongo
from pymongo.errors import BulkWriteError, PyMongoError

from evp.errors import StoreUnavailable
from evp.storage.failures import ABOUT_A_DOCUMENT, unavailable

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
