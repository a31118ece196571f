"""GET /openapi.json, and /docs: Swagger UI from its package, so without another host.

The page has no script of its own in it, so that `script-src 'self'` can be the rule.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from evp.errors import Refusal
from evp.server.openapi import TITLE, document
from evp.server.parts import AnyRequest

_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
}
_START = b"""\
window.onload = () => SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
});
"""
_PAGE = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
#: Swagger UI sets styles of elements, and has its pictures in its style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SAFE = {"referrer-policy": "no-referrer"}


@get("/openapi.json")
async def openapi(request: AnyRequest) -> Response[bytes]:
    """Give the OpenAPI document."""
    text = await asyncio.to_thread(_encoded, request.app.state.handlers)
    return Response(text, media_type=MediaType.JSON, headers=_SAFE)


@get("/docs", sync_to_thread=False)
def docs() -> Response[str]:
    """Give the page that shows it."""
    headers = _SAFE | {"content-security-policy": _POLICY}
    return Response(_PAGE, media_type=MediaType.HTML, headers=headers)


@get("/docs/{name:str}")
async def docs_file(name: FromPath[str]) -> Response[bytes]:
    """Give a file of the page."""
    if name == "start.js":
        content, media_type = _START, "text/javascript"
    elif name in _FILES:
        content, media_type = await asyncio.to_thread(_file, name), _FILES[name]
    else:
        raise Refusal("not_found", "there is nothing at this path")
    headers = _SAFE | {"cache-control": "public, max-age=3600"}
    return Response(content, media_type=media_type, headers=headers)


@cache
def _encoded(handlers: tuple[HTTPRouteHandler, ...]) -> bytes:
    return msgspec.json.encode(document(handlers))


@cache
def _file(name: str) -> bytes:
    """Return a file of Swagger UI; its package is not imported, it brings servers along."""
    spec = find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise Refusal("not_found", "Swagger UI is not installed")
    return (Path(spec.origin).parent / "static" / name).read_bytes()


ROUTES = (openapi, docs, docs_file)
