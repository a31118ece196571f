"""The page's files: as they are in the package, fetched once, and with a policy that is strict."""

from __future__ import annotations

import re
from pathlib import Path

import evp
from tests.support.server import InProcess

PAGES = Path(evp.__file__).parent / "server" / "pages"
ELSEWHERE = re.compile(r"(?:src|href|url\(|import|from)\s*=?\s*[\"']?(?:https?:)?//")


async def test_each_file_is_sent_once(server: InProcess) -> None:
    """Every file of the page is there, with its type; who has it already is told so."""
    for file in sorted(PAGES.iterdir()):
        path = "/" if file.suffix == ".html" else f"/dashboard/{file.name}"
        reply = await server.get(path, headers={})
        assert (reply.status, reply.body) == (200, file.read_bytes()), path
        assert re.fullmatch(r"text/\w+; charset=utf-8", reply.headers["content-type"])
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-cache"
        tag = reply.headers["etag"]
        for has in (tag, f'"other", W/{tag}'):
            again = await server.get(path, headers={"if-none-match": has})
            assert (again.status, again.body) == (304, b""), path
        other = await server.get(path, headers={"if-none-match": '"other"'})
        assert other.status == 200
    for path in ("/dashboard/other.js", "/dashboard/..%2Flive.py", "/dashboard/"):
        assert (await server.get(path, headers={})).status == 404


async def test_policy(server: InProcess) -> None:
    """No script or style stands in the page, nothing comes from elsewhere, nobody frames it."""
    reply = await server.get("/", headers={})
    policy = dict(
        rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    page = reply.body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
    for file in PAGES.iterdir():
        text = file.read_text()
        assert not ELSEWHERE.search(text), file.name
        assert "innerHTML" not in text, file.name
