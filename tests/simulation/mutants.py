"""Rules of evp taken away, one at a time: a simulation that can tell finds each of them.

| mutant | the rule that is missing |
|---|---|
| ack-before-insert | an entry is acked only when its events are stored |
| ack-by-id | an entry is acked only over the connection that read it |
| number-again | an append of unknown outcome ends its epoch, so no number is used twice |
| trim-by-the-log-alone | the store's list of groups holds what a lost one has yet to read |
| duplicate-is-stored | what has the id of another event is dead, not stored |
| no-marks | whoever changes a bucket that is summed up already marks it |
| final-at-once | an outcome that was made without the events is not final |
| records-without-max | what is recorded of an epoch only grows |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from pymongo import UpdateOne

import evp.batch.outcome
import evp.storage.ledger
import evp.storage.settle
import evp.storage.sweep
import evp.storage.writer
from evp.stream.consumer import Consumer, Delivery
from evp.stream.producer import Producer
from evp.worker.carrier import Carrier
from evp.worker.registered import RegisteredGroups

Change = tuple[Any, str, Any]
"""Where, which name, and what it stands for instead."""


def _ack_before_insert() -> list[Change]:
    carry = Carrier._carry

    async def ack_first(self: Carrier, batch: list[Delivery], stop: asyncio.Event) -> bool:
        await self._consumer.ack(batch)
        return await carry(self, batch, stop)

    return [(Carrier, "_carry", ack_first)]


def _ack_by_id() -> list[Change]:
    async def ack(self: Consumer, deliveries: list[Delivery]) -> None:
        if deliveries:
            async with self._connected() as link:
                ids = [one.entry_id for one in deliveries]
                await link.call("XACK", self._keys.stream, self.group, *ids)

    return [(Consumer, "ack", ack)]


def _number_again() -> list[Change]:
    def go_on(_self: Producer, *, unknown: int) -> None:
        pass

    return [(Producer, "_close_epoch", go_on)]


def _trim_by_the_log_alone() -> list[Change]:
    async def nobody(_self: RegisteredGroups, _partition: int) -> set[str]:
        return set()

    return [(RegisteredGroups, "names", nobody)]


def _duplicate_is_stored() -> list[Change]:
    return [(evp.batch.outcome, "same_event", lambda _stored, _other: True)]


def _no_marks() -> list[Change]:
    async def no_mark(_db: Any, _starts: Any) -> None:
        pass

    modules = (evp.storage.writer, evp.storage.settle, evp.storage.sweep)
    return [(module, "mark", no_mark) for module in modules]


def _final_at_once() -> list[Change]:
    document_of = evp.storage.settle.document_of

    def never_provisional(outcome: Any, worker: str = "") -> Any:
        document = document_of(outcome, worker)
        document.pop("provisional", None)
        return document

    return [
        (evp.storage.settle, "document_of", never_provisional),
        (evp.storage.sweep, "document_of", never_provisional),
    ]


def _records_without_max() -> list[Change]:
    def said_last(query: Any, change: dict[str, Any], **options: Any) -> UpdateOne:
        change = {"$set" if how == "$max" else how: what for how, what in change.items()}
        return UpdateOne(query, change, **options)

    return [(evp.storage.ledger, "UpdateOne", said_last)]


MUTANTS: dict[str, Callable[[], list[Change]]] = {
    "ack-before-insert": _ack_before_insert,
    "ack-by-id": _ack_by_id,
    "number-again": _number_again,
    "trim-by-the-log-alone": _trim_by_the_log_alone,
    "duplicate-is-stored": _duplicate_is_stored,
    "no-marks": _no_marks,
    "final-at-once": _final_at_once,
    "records-without-max": _records_without_max,
}


@contextlib.contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Have evp be without a rule for a while; with None it is as it is."""
    changes = [] if name is None else MUTANTS[name]()
    before = [(where, what, getattr(where, what)) for where, what, _ in changes]
    try:
        for where, what, instead in changes:
            setattr(where, what, instead)
        yield
    finally:
        for where, what, was in before:
            setattr(where, what, was)
