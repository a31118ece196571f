"""The event, in the words of CloudEvents 1.0."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from evp.limits import ATTRIBUTE_CHARS_MAX, ID_BYTES_MAX

Attribute = Annotated[str, Meta(min_length=1, max_length=ATTRIBUTE_CHARS_MAX)]
Identifier = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]
Moment = Annotated[datetime, Meta(tz=True)]


class Event(Struct, forbid_unknown_fields=True, gc=False):
    """One event as a client sends it; a member that is null counts as absent, but for `data`.

    `timestamp` is an alias of `time`. Extension attributes that are not named
    here travel beside the event (`codec.Decoded.extensions`), so that the usual
    event is decoded in one typed pass.
    """

    type: Attribute
    source: Attribute | None = None
    id: Identifier | None = None
    time: Moment | None = None
    timestamp: Moment | None = None
    subject: Attribute | None = None
    data: Any | UnsetType = UNSET
    dataschema: Attribute | None = None
    datacontenttype: Attribute | None = None
    specversion: Attribute | None = None
    traceparent: Attribute | None = None
    tracestate: Attribute | None = None


ATTRIBUTES = frozenset(field.encode_name for field in msgspec.structs.fields(Event))
"""The member names that `Event` knows."""
