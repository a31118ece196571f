"""Where an engine is away: how to get one is said with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from evp.errors import LogUnavailable, StoreUnavailable


@contextlib.contextmanager
def hint_if_away() -> Iterator[None]:
    """Raise LogUnavailable and StoreUnavailable of what is within, with what to do about it."""
    try:
        yield
    except LogUnavailable as error:
        raise LogUnavailable(_hinted(error, "EVP_REDIS_URL")) from error
    except StoreUnavailable as error:
        raise StoreUnavailable(_hinted(error, "EVP_MONGO_URL")) from error


def _hinted(error: Exception, setting: str) -> str:
    return f"{str(error).rstrip('.')}; `evp up` starts one, {setting} names another one"
