"""Errors of the store: what passes is waited out, what can't be stored is named."""

from __future__ import annotations

from typing import Any

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from evp.errors import StoreUnavailable
from evp.storage.failures import failures_of, permanent, unavailable


def bulk(*errors: dict[str, Any], **details: Any) -> BulkWriteError:
    """Return the error of an unordered insert."""
    return BulkWriteError({"writeErrors": list(errors), **details})


def test_taken_ids_are_for_the_outcome_to_judge() -> None:
    """A duplicate `_id` has no reason yet; it may be the same event."""
    found = failures_of(bulk({"index": 3, "code": 11000, "keyPattern": {"_id": 1}}))
    assert found[3].reason == ""


def test_another_unique_index_is_a_conflict() -> None:
    """A duplicate key of another index never counts as stored."""
    error = bulk({"index": 0, "code": 11000, "keyPattern": {"email": 1}})
    assert failures_of(error)[0].reason == "unique_conflict"


@pytest.mark.parametrize("code", [2, 9, 14, 22, 52, 57, 121, 10334, 17280, 17420])
def test_codes_about_a_document_are_permanent(code: int) -> None:
    """What speaks of a document's content won't pass."""
    assert failures_of(bulk({"index": 1, "code": code}))[1].reason
    assert permanent(OperationFailure("no", code)) is not None


@pytest.mark.parametrize("code", [6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 777])
def test_every_other_code_passes(code: int) -> None:
    """The NotPrimary family, and whatever is unknown, is waited out."""
    with pytest.raises(StoreUnavailable):
        failures_of(bulk({"index": 1, "code": code}))
    assert permanent(OperationFailure("no", code)) is None


def test_a_write_concern_error_means_nothing_is_sure() -> None:
    """Documents that were inserted without their write concern may be rolled back."""
    error = bulk(
        {"index": 0, "code": 11000, "keyPattern": {"_id": 1}},
        writeConcernErrors=[{"code": 91, "errmsg": "shutting down"}],
    )
    with pytest.raises(StoreUnavailable, match="91"):
        failures_of(error)


@pytest.mark.parametrize(
    "error", [DocumentTooLarge("17 MB"), InvalidDocument("no"), OverflowError("int")]
)
def test_errors_of_the_client_about_a_document(error: Exception) -> None:
    """The client refuses a whole call for one document; that is permanent for the one."""
    found = permanent(error)
    assert found is not None
    assert found.reason == "unstorable_document"


@pytest.mark.parametrize(
    "error",
    [AutoReconnect("gone"), ServerSelectionTimeoutError("none"), WaitQueueTimeoutError("full")],
)
def test_outages_pass(error: Exception) -> None:
    """Network, selection and pool time-outs are no document's fault."""
    assert permanent(error) is None


def test_texts_hold_no_secret() -> None:
    """The error that goes into logs has no password, and is bounded."""
    error = unavailable(AutoReconnect("mongodb://u:hunter2@h: " + "x" * 1000))
    assert "hunter2" not in str(error)
    assert len(str(error)) < 400
