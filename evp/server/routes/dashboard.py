"""GET /: the dashboard. Its files are those of `evp/server/pages`, as they are.

Nothing is loaded from elsewhere and no script stands in the page, so the policy can forbid both.
"""

from __future__ import annotations

import asyncio
from functools import cache
from hashlib import sha256
from pathlib import Path

from litestar import Response, get
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_304_NOT_MODIFIED
from msgspec import Struct

from evp.errors import Refusal
from evp.server.parts import AnyRequest

_FOLDER = Path(__file__).parent.parent / "pages"
_MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    # Asked for each time, and sent only where it has changed: files of two versions don't mix.
    "cache-control": "no-cache",
}


class File(Struct, frozen=True):
    """A file of the page, and the tag that tells whether a browser has it."""

    content: bytes
    media_type: str
    tag: str


@get("/")
async def dashboard(request: AnyRequest) -> Response[bytes]:
    """Give the page."""
    return _answer(request, await _file("index.html"))


@get("/dashboard/{name:str}")
async def dashboard_file(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """Give a file of the page."""
    return _answer(request, await _file(name))


def _answer(request: AnyRequest, file: File) -> Response[bytes]:
    has = request.headers.get("if-none-match", "")
    is_there = file.tag in (tag.strip().removeprefix("W/") for tag in has.split(","))
    return Response(
        b"" if is_there else file.content,
        media_type=file.media_type,
        status_code=HTTP_304_NOT_MODIFIED if is_there else HTTP_200_OK,
        headers=_HEADERS | {"etag": file.tag},
    )


async def _file(name: str) -> File:
    """Return a file. Raises Refusal `not_found` unless the page has it."""
    found = (await asyncio.to_thread(_files)).get(name)
    if found is None:
        raise Refusal("not_found", "there is nothing at this path")
    return found


@cache
def _files() -> dict[str, File]:
    """Return all files of the page by name: what is asked for is never a path."""
    return {path.name: _read(path) for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}


def _read(path: Path) -> File:
    content = path.read_bytes()
    tag = f'"{sha256(content).hexdigest()[:32]}"'
    return File(content, _MEDIA_TYPES[path.suffix], tag)


ROUTES = (dashboard, dashboard_file)
