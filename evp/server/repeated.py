"""Heads of requests that repeat: what a client sends again byte for byte is not parsed again.

A client that keeps its connection sends the same head with each event, but for the
length of the body. Once such a head has been parsed and found plain, the next request
is compared with it, at a third of the cost. It is taken only if what came is exactly
one whole request with this head, so nothing can hide in it; anything else goes to the
parser, which stands between two requests and has missed nothing. The key in it is not
looked up again: its grant says whether it still lives.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from evp.codec import Media
from evp.server.keys import Grant
from evp.server.limits import REPEATED_HEAD_BYTES_MAX

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})[ \t]*(?=\r\n)", re.IGNORECASE)


class RepeatedHead(NamedTuple):
    """A head that was plain, up to the length of its body and from there on."""

    before: bytes
    after: bytes
    path: bytes
    media: Media
    grant: Grant

    def body_of(self, data: bytes) -> bytes | None:
        """Return the body if `data` is one request with this head, and nothing else."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + 9)
        if end < 0 or not data.startswith(after, end):
            return None
        length, body = data[start:end], data[end + len(after) :]
        return body if length.isdigit() and int(length) == len(body) else None


def head_of(data: bytes, path: bytes, media: Media, grant: Grant) -> RepeatedHead | None:
    """Return the head of the one request that `data` is, which was plain; None if it is more."""
    end = data.find(_END, 0, REPEATED_HEAD_BYTES_MAX)
    if end < 0:
        return None
    head = data[: end + len(_END)]
    lengths = list(_LENGTH.finditer(head))
    if len(lengths) != 1 or int(lengths[0][1]) != len(data) - len(head):
        return None
    start, stop = lengths[0].span(1)
    after = head[stop:]
    # With blanks behind the number, another length could not be told from them.
    if not after.startswith(b"\r"):
        return None
    return RepeatedHead(head[:start], after, path, media, grant)
