"""Small JSON bodies: read within bounds, and understood, or refused with the reason."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from evp.errors import Refusal
from evp.server.parts import AnyRequest, parts_of

T = TypeVar("T")

_JSON = "application/json"
_CHARSETS = {"", "charset=utf-8", 'charset="utf-8"'}


async def read_body(request: AnyRequest, bytes_max: int) -> bytes:
    """Return the body. Raises Refusal as soon as it, or all bodies together, are too large."""
    bodies = parts_of(request).bodies
    body = bytearray()
    try:
        while True:
            message = await request.receive()
            if message["type"] != "http.request":
                raise Refusal("invalid_request", "the client left before its request was whole")
            bodies.hold(len(message["body"]))
            body += message["body"]
            if len(body) > bytes_max:
                raise Refusal("body_too_large", f"a body may have {bytes_max} bytes here")
            if not message["more_body"]:
                return bytes(body)
    finally:
        bodies.release(len(body))


def content_type_of(request: AnyRequest) -> str:
    """Return what a request says its body is; nothing if it says nothing."""
    return request.headers.get("content-type", "")


def decode_json(body: bytes, content_type: str, shape: type[T]) -> T:
    """Return what a JSON body says. Raises Refusal; `path` leads to the culprit."""
    kind, _, parameters = content_type.lower().partition(";")
    if kind.strip() != _JSON or parameters.strip() not in _CHARSETS:
        raise Refusal("unsupported_media_type", f"send content-type {_JSON}")
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
