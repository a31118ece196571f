"""Errors of the store: what passes is waited out, what can't be stored is named."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson.errors import InvalidBSON, InvalidDocument
from bson.raw_bson import RawBSONDocument
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DocumentTooLarge,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

from evp.errors import StoreUnavailable
from evp.limits import DETAIL_CHARS_MAX
from evp.storage.dead_letters import REASONS
from evp.storage.failures import failures_of, permanent, told, unavailable

READABLE = RawBSONDocument(bson.encode({"a": "hello"}))
UNREADABLE = RawBSONDocument(bytes(READABLE.raw).replace(b"hello", b"he\xffll"))


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


ABOUT_A_DOCUMENT = [2, 9, 14, 15, 22, 52, 53, 55, 56, 57, 121, 171, 378, 510, 10334, 16755, 17262]


@pytest.mark.parametrize("code", ABOUT_A_DOCUMENT)
def test_codes_about_a_document_are_permanent(code: int) -> None:
    """What speaks of the content of a document that the store names won't pass."""
    failure = failures_of(bulk({"index": 1, "code": code, "errmsg": "no"}))[1]
    assert failure.reason in REASONS
    assert (failure.detail, failure.error) == ("no", f"code {code}")


@pytest.mark.parametrize("code", [15, 22, 378, 10334])
def test_codes_about_some_document_of_a_call(code: int) -> None:
    """A whole call is refused for one document by codes that mean nothing else."""
    found = permanent(OperationFailure("no", code, {"errmsg": "why"}), [READABLE])
    assert found is not None
    assert (found.reason in REASONS, found.detail) == (True, "why")


@pytest.mark.parametrize("code", [2, 9, 14])
def test_doubtful_codes_of_a_call_need_a_proof(code: int) -> None:
    """What may as well speak of a call's options counts only where a document is unreadable."""
    error = OperationFailure("no", code)
    assert permanent(error, [READABLE, READABLE]) is None
    found = permanent(error, [READABLE, UNREADABLE])
    assert found is not None
    assert found.reason == "invalid_bson"


def test_rule_that_refused_is_told() -> None:
    """The detail of a refusal names the validator's rule, and is bounded."""
    row = {"index": 0, "code": 121, "errmsg": "failed", "errInfo": {"details": {"required": "x"}}}
    [failure] = failures_of(bulk(row)).values()
    assert "required" in failure.detail
    [failure] = failures_of(bulk(row | {"errmsg": "x" * 10_000})).values()
    assert len(failure.detail) == DETAIL_CHARS_MAX


@pytest.mark.parametrize("code", [6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 777])
def test_every_other_code_passes(code: int) -> None:
    """The NotPrimary family, and whatever is unknown, is waited out."""
    with pytest.raises(StoreUnavailable):
        failures_of(bulk({"index": 1, "code": code}))
    assert permanent(OperationFailure("no", code), [UNREADABLE]) is None


def test_a_write_concern_error_means_nothing_is_sure() -> None:
    """Documents that were inserted without their write concern may be rolled back."""
    error = bulk(
        {"index": 0, "code": 11000, "keyPattern": {"_id": 1}},
        writeConcernErrors=[{"code": 91, "errmsg": "shutting down"}],
    )
    with pytest.raises(StoreUnavailable, match="91"):
        failures_of(error)


@pytest.mark.parametrize(
    ("error", "documents", "reason"),
    [
        (DocumentTooLarge("17 MB"), [READABLE], "document_too_large"),
        (InvalidDocument("no"), [READABLE, UNREADABLE], "invalid_bson"),
        (OverflowError("int"), [UNREADABLE], "invalid_bson"),
    ],
)
def test_errors_of_the_client_about_a_document(
    error: Exception, documents: list[RawBSONDocument], reason: str
) -> None:
    """The client refuses a whole call for one document; that is permanent for the one."""
    found = permanent(error, documents)
    assert found is not None
    assert (found.reason, found.error) == (reason, type(error).__name__)


def test_garbled_reply_is_no_documents_fault() -> None:
    """A reply that can't be read says nothing about documents that can."""
    assert permanent(InvalidBSON("reply"), [READABLE]) is None


@pytest.mark.parametrize(
    "error",
    [AutoReconnect("gone"), ServerSelectionTimeoutError("none"), WaitQueueTimeoutError("full")],
)
def test_outages_pass(error: Exception) -> None:
    """Network, selection and pool time-outs are no document's fault."""
    assert permanent(error, [UNREADABLE]) is None


def test_texts_hold_no_secret() -> None:
    """The error that goes into logs has no password, and is bounded."""
    error = unavailable(AutoReconnect("mongodb://u:hunter2@h: " + "x" * 1000))
    assert "hunter2" not in str(error)
    assert len(str(error)) < DETAIL_CHARS_MAX + 100


@pytest.mark.parametrize(
    "said",
    ["Lock is not acquired", "unhandled error (or an empty buffer) in get_buffer()"],
)
def test_faults_of_the_clients_connections_pass(said: str) -> None:
    """What a client says whose call was cancelled at a bad moment is no fault of evp's."""
    with pytest.raises(StoreUnavailable, match="the store can't be used now"), told():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="another one"), told():
        raise RuntimeError("another one")
