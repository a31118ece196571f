"""CloudEvents 1.0 in binary mode: attributes in `ce-` headers, the body is the data.

The structured and the batched mode are JSON with a content type of their own;
`evp.codec` reads them. An event in any mode has what CloudEvents requires:
`specversion`, `id`, `source` and `type`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from msgspec import UNSET, UnsetType

from evp import diagnosis
from evp.codec import Decoded
from evp.errors import Refusal
from evp.limits import EVENT_BYTES_MAX

#: One of these makes a request one in binary mode, unless its content type names another mode.
REQUIRED_HEADERS = frozenset((b"ce-specversion", b"ce-id", b"ce-source", b"ce-type"))

_PREFIX = b"ce-"
_CONTENT_TYPE = "datacontenttype"
_NO_ATTRIBUTES = frozenset(("data", "data_base64", _CONTENT_TYPE))
_ESCAPED = re.compile(rb"\\(.)")
_JSON = re.compile(r"(application|text)/json|[^/\s]+/[^/\s]+\+json")


def decode_binary(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Decoded:
    """Return the event of a request in binary mode; names of headers are in lower case.

    JSON becomes `data` as it would in an event's own JSON; anything else is kept
    as bytes, and an empty body is no data. Raises Refusal.
    """
    members: dict[str, Any] = {}
    for header, value in headers:
        if header == b"content-type":
            name, text = _CONTENT_TYPE, value.decode("latin-1")
        elif header.startswith(_PREFIX):
            name = header[len(_PREFIX) :].decode("latin-1")
            text = _text_of(name, value)
        else:
            continue
        if name in members:
            raise Refusal("invalid_attribute", f"the attribute {name} is there twice", path="$")
        members[name] = text
    data = _data_of(members.get(_CONTENT_TYPE, ""), body)
    event, extra = diagnosis.read_event(members, None)
    diagnosis.check_required(event, None)
    if len(body) > EVENT_BYTES_MAX:
        detail = f"the data has {len(body)} bytes; {EVENT_BYTES_MAX} are allowed"
        raise Refusal("event_too_large", detail)
    event.data = data
    return Decoded([event], {0: extra} if extra else {})


def _text_of(name: str, value: bytes) -> str:
    """Return a header's value as CloudEvents' HTTP binding has it decoded, section 3.1.3.2."""
    if name in _NO_ATTRIBUTES:
        detail = f"ce-{name} is no header; data is the body, and content-type tells its type"
        raise Refusal("invalid_attribute", detail, path="$")
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = _ESCAPED.sub(rb"\1", value[1:-1])
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise Refusal("invalid_attribute", "a ce- header is not UTF-8", path="$") from None


def _data_of(content_type: str, body: bytes) -> Any | UnsetType:
    """Return the data in a body of that type."""
    if not body:
        return UNSET
    kind = content_type.partition(";")[0].strip().lower()
    return diagnosis.parse(body, None) if _JSON.fullmatch(kind) else body
