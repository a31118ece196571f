"""Queries, updates and projections as MongoDB understands them: as many of them as evp uses.

`test_store.py` holds them against a real store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Document = dict[str, Any]

_ABSENT = object()


class Unsupported(NotImplementedError):
    """Raised for what evp has not used so far."""


def matches(document: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Return whether a document is one that a query asks for."""
    for name, wanted in query.items():
        value = document.get(name, _ABSENT)
        if name == "$or":
            holds = any(matches(document, one) for one in wanted)
        elif is_operators(wanted):
            holds = all(_COMPARE[how](value, given) for how, given in wanted.items())
        else:
            holds = _equal(value, wanted)
        if not holds:
            return False
    return True


def is_operators(wanted: Any) -> bool:
    """Return whether a value of a query is made of operators, `{"$gt": 1}`."""
    return isinstance(wanted, dict) and bool(wanted) and next(iter(wanted)).startswith("$")


def _equal(value: Any, wanted: Any) -> bool:
    # A query for null finds what is absent as well.
    return (wanted is None and value is _ABSENT) or bool(value == wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison that holds only between values of one kind."""

    def holds(value: Any, given: Any) -> bool:
        if value is _ABSENT or value is None:
            return False
        return isinstance(value, type(given)) and compare(value, given)

    return holds


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equal,
    "$gt": _ordered(lambda value, given: bool(value > given)),
    "$gte": _ordered(lambda value, given: bool(value >= given)),
    "$lt": _ordered(lambda value, given: bool(value < given)),
    "$lte": _ordered(lambda value, given: bool(value <= given)),
    "$in": lambda value, given: any(_equal(value, one) for one in given),
    "$exists": lambda value, given: (value is not _ABSENT) == given,
}


def updated(document: Document, change: Mapping[str, Mapping[str, Any]]) -> None:
    """Change a document in place by update operators; $setOnInsert is for `inserted`."""
    for how, fields in change.items():
        for name, value in fields.items():
            _UPDATE[how](document, name, value)


def inserted(query: Mapping[str, Any], change: Mapping[str, Mapping[str, Any]]) -> Document:
    """Return the document that an upsert makes where none matched."""
    document = {
        name: value
        for name, value in query.items()
        if not name.startswith("$") and not is_operators(value)
    }
    updated(document, change)
    document.update(change.get("$setOnInsert", {}))
    return document


def _set(document: Document, name: str, value: Any) -> None:
    document[name] = value


def _unset(document: Document, name: str, _value: Any) -> None:
    document.pop(name, None)


def _inc(document: Document, name: str, value: int) -> None:
    document[name] = document.get(name, 0) + value


def _min(document: Document, name: str, value: Any) -> None:
    document[name] = min(document.get(name, value), value)


def _max(document: Document, name: str, value: Any) -> None:
    document[name] = max(document.get(name, value), value)


def _push(document: Document, name: str, value: Mapping[str, Any]) -> None:
    """Append a list of values, and keep the last ones."""
    last = -value["$slice"]
    document[name] = [*document.get(name, []), *value["$each"]][-last:]


def _add_to_set(document: Document, name: str, value: Any) -> None:
    members = document.setdefault(name, [])
    if value not in members:
        members.append(value)


def _pull(document: Document, name: str, value: Any) -> None:
    if name in document:
        document[name] = [one for one in document[name] if one != value]


_UPDATE: dict[str, Callable[[Document, str, Any], None]] = {
    "$set": _set,
    "$unset": _unset,
    "$inc": _inc,
    "$min": _min,
    "$max": _max,
    "$push": _push,
    "$addToSet": _add_to_set,
    "$pull": _pull,
    "$setOnInsert": lambda _document, _name, _value: None,
}


def projected(document: Document, fields: Mapping[str, int] | Sequence[str] | None) -> Document:
    """Return a document with the fields that were asked for; `_id` unless it is refused."""
    if fields is None:
        return document
    if not isinstance(fields, Mapping):
        fields = dict.fromkeys(fields, 1)
    wanted = {name for name, is_wanted in fields.items() if is_wanted}
    refused = fields.keys() - wanted
    if not wanted:
        return {name: value for name, value in document.items() if name not in refused}
    wanted |= {"_id"} - refused
    return {name: value for name, value in document.items() if name in wanted}


def order_of(document: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Return what documents are sorted by: those without the field come first."""
    value = document.get(name)
    return value is not None, value
