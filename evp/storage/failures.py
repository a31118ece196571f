"""What an error of the store means: try again, or this one document never fits.

Anything unknown is taken as passing: a batch that waits can be looked at, one
that was given up can't. Only codes that speak of a document's own content are
permanent. Decided by class and code, never by text; codes are those of MongoDB's
`error_codes.yml`, and those without a name there are of index keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from msgspec import Struct
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError

from evp.batch.raw import depth_of
from evp.errors import StoreUnavailable, redact_url
from evp.limits import DETAIL_CHARS_MAX

DUPLICATE_KEY = 11000
UNIQUE_CONFLICT = "unique_conflict"
_INVALID_BSON = "invalid_bson"
_TOO_LARGE = "document_too_large"

#: Its connections fail by these, too, if a call is cancelled or the peer leaves at a bad moment:
#: faults of the client, which has no class of its own for them.
_OF_ITS_CONNECTIONS = ("Lock is not acquired", "empty buffer) in get_buffer()")

#: Codes by which the server refuses some document, also where it refuses a call as a whole.
_OF_A_CALL = {
    15: "too_deep",  # Overflow
    22: _INVALID_BSON,  # InvalidBSON
    378: _INVALID_BSON,  # NonConformantBSON
    10334: _TOO_LARGE,  # BSONObjectTooLarge
}

#: Codes that mean a document only where the server names the document: of a whole call they
#: can mean its options as well, a write concern that the server does not know for example.
_DOUBTFUL = {
    2: "bad_value",  # BadValue
    9: "bad_value",  # FailedToParse
    14: "bad_value",  # TypeMismatch
}

#: Keys for an index of the operator's can't be made of the document.
_OF_AN_INDEX = (
    *(171, 201, 510),  # CannotIndexParallelArrays, CannotBuildIndexKeys, GeoKeyExtractionFailed
    *(13026, 13027, 16572, 16754, 16755, 16756),  # no place on a map
    *(16746, 16766),  # a number as a field's name; an array to be hashed
    *(17261, 17262),  # no language
)

#: Codes by which the server refuses the one document that it names.
_OF_A_DOCUMENT = {
    **_OF_A_CALL,
    **_DOUBTFUL,
    **dict.fromkeys(_OF_AN_INDEX, "index_keys"),
    52: "invalid_field",  # DollarPrefixedFieldName
    53: "invalid_field",  # InvalidIdField
    55: "invalid_field",  # InvalidDBRef
    56: "invalid_field",  # EmptyFieldName
    57: "invalid_field",  # DottedFieldName
    121: "document_validation",  # DocumentValidationFailure
}

#: Codes of a server that is there: Unauthorized, CommandNotFound, NotImplemented and the like.
_REFUSED = (13, 59, 72, 115, 238, 8000)

#: Errors of the client that speak of a document, raised for the call as a whole.
ABOUT_A_DOCUMENT = (DocumentTooLarge, BSONError, OverflowError)


class Failure(Struct, frozen=True):
    """Why the store did not insert a document.

    `reason` is empty where its `_id` is taken: whether that is the same event
    is for `batch.outcome` to say. `error` is the code or class that said so.
    """

    reason: str
    detail: str
    error: str = ""


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
        detail = f"a unique index on {', '.join(pattern)} has this value"
        return Failure(UNIQUE_CONFLICT, detail, f"code {code}")
    if code in _OF_A_DOCUMENT:
        return Failure(_OF_A_DOCUMENT[code], _said(row), f"code {code}")
    raise unavailable(error) from error


def permanent(error: BaseException | None, documents: Sequence[RawBSONDocument]) -> Failure | None:
    """Return the failure if an error of a whole call speaks of some of its documents.

    Where that is in doubt, one of them must be unreadable to evp as well.
    """
    name = type(error).__name__
    if isinstance(error, OperationFailure):
        name = f"code {error.code}"
        if error.code in _OF_A_CALL:
            return Failure(_OF_A_CALL[error.code], _said(error.details or {}), name)
        doubtful = error.code in _DOUBTFUL
    elif isinstance(error, DocumentTooLarge):
        return Failure(_TOO_LARGE, _clean(str(error)), name)
    else:
        doubtful = isinstance(error, ABOUT_A_DOCUMENT)
    if doubtful and any(depth_of(document) is None for document in documents):
        return Failure(_INVALID_BSON, _clean(str(error)), name)
    return None


def unavailable(error: PyMongoError) -> StoreUnavailable:
    """Return an error of the store as evp's own, without secrets."""
    if isinstance(error, BulkWriteError):
        details = error.details
        rows = details.get("writeConcernErrors") or details.get("writeErrors") or [{}]
        text = f"code {rows[0].get('code')}: {rows[0].get('errmsg', '')}"
    else:
        # What else the client knows about the servers is no news to whoever reads this.
        text = str(error).partition(", Topology Description: ")[0] or type(error).__name__
    return StoreUnavailable(f"the store can't be used now: {_clean(text)}")


def was_refused(error: StoreUnavailable) -> bool:
    """Return True if the store answered, and only did not do what it was asked for."""
    return isinstance(error.__cause__, OperationFailure) and error.__cause__.code in _REFUSED


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise StoreUnavailable for whatever the store's client raises within."""
    try:
        yield
    except PyMongoError as error:
        raise unavailable(error) from error
    except RuntimeError as error:
        if not str(error).endswith(_OF_ITS_CONNECTIONS):
            raise
        raise StoreUnavailable(f"the store can't be used now: {error}") from error


def _said(row: Mapping[str, Any]) -> str:
    """Return what the server says about what it refused, and by which rule."""
    text = str(row.get("errmsg") or "the store gave no reason")
    rules = (row.get("errInfo") or {}).get("details")
    return _clean(f"{text}: {rules}" if rules else text)


def _clean(text: str) -> str:
    return redact_url(text)[:DETAIL_CHARS_MAX]
