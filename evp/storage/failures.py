"""What an error of the store means: try again, or this one document never fits.

Anything unknown is taken as passing: a batch that waits can be looked at, one
that was given up can't. Only codes that speak of a document's own content are
permanent. Decided by class and code, never by text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from bson.errors import BSONError
from msgspec import Struct
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError

from evp.errors import StoreUnavailable, redact_url

DUPLICATE_KEY = 11000
UNIQUE_CONFLICT = "unique_conflict"

#: Codes by which the server refuses a document for what it holds.
_PERMANENT = {
    2: "bad_value",
    9: "failed_to_parse",
    14: "type_mismatch",
    22: "invalid_bson",
    52: "dollar_prefixed_field",
    57: "dotted_field",
    121: "document_validation",
    10334: "document_too_large",
    17280: "key_too_long",
    17420: "document_too_large",
}

#: Errors of the client that speak of a document, raised for the call as a whole.
ABOUT_A_DOCUMENT = (DocumentTooLarge, BSONError, OverflowError)


class Failure(Struct, frozen=True):
    """Why the store did not insert a document.

    `reason` is empty where its `_id` is taken: whether that is the same event
    is for `batch.outcome` to say.
    """

    reason: str
    detail: str


def failures_of(error: BulkWriteError) -> dict[int, Failure]:
    """Return the failures of an unordered insert by position.

    Raises StoreUnavailable if anything about it may pass: then nothing may be
    taken as written.
    """
    details = error.details
    if details.get("writeConcernErrors"):
        raise unavailable(error)
    failures: dict[int, Failure] = {}
    for row in details.get("writeErrors", []):
        failures[row["index"]] = _failure(row, error)
    return failures


def _failure(row: Mapping[str, Any], error: BulkWriteError) -> Failure:
    code = row.get("code")
    if code == DUPLICATE_KEY:
        pattern = dict(row.get("keyPattern") or {"_id": 1})
        if list(pattern) == ["_id"]:
            return Failure("", "")
        return Failure(UNIQUE_CONFLICT, f"a unique index on {', '.join(pattern)} has this value")
    if code in _PERMANENT:
        return Failure(_PERMANENT[code], f"the store refused the document with code {code}")
    raise unavailable(error) from error


def permanent(error: Exception) -> Failure | None:
    """Return the failure if an error of a whole call speaks of some document in it."""
    if isinstance(error, ABOUT_A_DOCUMENT):
        return Failure("unstorable_document", f"{type(error).__name__}: {str(error)[:200]}")
    if isinstance(error, OperationFailure) and error.code in _PERMANENT:
        return Failure(_PERMANENT[error.code], f"refused with code {error.code}")
    return None


def unavailable(error: PyMongoError) -> StoreUnavailable:
    """Return an error of the store as evp's own, without secrets."""
    if isinstance(error, BulkWriteError):
        details = error.details
        rows = details.get("writeConcernErrors") or details.get("writeErrors") or [{}]
        text = f"code {rows[0].get('code')}: {rows[0].get('errmsg', '')}"
    else:
        text = str(error) or type(error).__name__
    return StoreUnavailable(f"the store can't be used now: {redact_url(text)[:300]}")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise StoreUnavailable for whatever the store's client raises within."""
    try:
        yield
    except PyMongoError as error:
        raise unavailable(error) from error
