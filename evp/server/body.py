"""Bodies: read within bounds, and small JSON ones understood, or refused with the reason."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from evp.errors import Refusal
from evp.server.parts import AnyRequest
from evp.server.request import Hold, require_utf8, too_large

T = TypeVar("T")

_JSON = b"application/json"


async def read_body(request: AnyRequest, most_bytes: int, hold: Hold) -> bytes:
    """Return the body. Raises Refusal as soon as it, or all bodies together, are too large."""
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise Refusal("invalid_request", "the client left before its request was whole")
        part = message["body"]
        hold.add(len(part))
        body += part
        if len(body) > most_bytes:
            raise too_large(most_bytes)
        if not message["more_body"]:
            return bytes(body)


def content_type_of(request: AnyRequest) -> str:
    """Return what a request says its body is; nothing if it says nothing."""
    return request.headers.get("content-type", "")


def decode_json(body: bytes, content_type: str, shape: type[T]) -> T:
    """Return what a JSON body says. Raises Refusal; `path` leads to the culprit."""
    kind, *parameters = content_type.lower().encode().split(b";")
    if kind.strip() != _JSON:
        raise Refusal("unsupported_media_type", f"send content-type {_JSON.decode()}")
    require_utf8(parameters)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `")
        raise Refusal("invalid_body", what, path=path.rstrip("`") or "$") from None
    except UnicodeDecodeError:
        raise Refusal("invalid_utf8", "the body is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise Refusal("invalid_json", str(error)) from None
    except RecursionError:
        raise Refusal("invalid_json", "the body is nested too deeply") from None
