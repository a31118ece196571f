"""Routes of dead letters: look at them, and deliver them once more."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get, post
from litestar.params import FromPath, QueryParameter
from litestar.status_codes import HTTP_200_OK

from evp.dlq.actions import Listing
from evp.dlq.top import By, Top
from evp.errors import Refusal
from evp.logs import get as log_of
from evp.scopes import ADMIN
from evp.server.access import require, require_read
from evp.server.body import content_type_of, decode_json, read_body
from evp.server.letters import LetterShown, Replay, ReplayAsked
from evp.server.limits import LETTERS_PAGE_MAX, LETTERS_PAGE_USUAL, REPLAY_BODY_BYTES_MAX
from evp.server.parts import AnyRequest, parts_of
from evp.server.queries import check_names, invalid
from evp.server.request import Hold
from evp.storage.dead_letters import REASONS
from evp.storage.dlq import Filters

_PATH = "/dead-letters"
_FILTERS = ("reason", "error", "type", "source")
_Reason = Annotated[str | None, QueryParameter(description="those with this reason")]
_Error = Annotated[
    str | None, QueryParameter(description="those that died alike: the key of a group by error")
]
_Type = Annotated[
    str | None, QueryParameter(name="type", description="of events of exactly this type")
]
_Source = Annotated[str | None, QueryParameter(description="of exactly this source")]
_log = log_of("evp.server")


@get(_PATH, before_request=require_read)
async def dead_letters(
    request: AnyRequest,
    reason: _Reason = None,
    error: _Error = None,
    type_: _Type = None,
    source: _Source = None,
    limit: Annotated[
        int, QueryParameter(ge=0, le=LETTERS_PAGE_MAX, description="how many are shown, the newest")
    ] = LETTERS_PAGE_USUAL,
) -> Listing:
    """Count dead letters by reason, and show the newest."""
    check_names(request, (*_FILTERS, "limit"))
    filters = _filters(reason, error, type_, source)
    return await parts_of(request).letters.listing(filters, limit)


@get(f"{_PATH}/top", before_request=require_read)
async def dead_letter_groups(
    request: AnyRequest,
    by: Annotated[
        Literal["error", "reason", "type", "source"],
        QueryParameter(description="by what; an error is what was said, without what varies"),
    ] = "error",
    reason: _Reason = None,
    error: _Error = None,
    type_: _Type = None,
    source: _Source = None,
) -> Top:
    """Group dead letters by what they have in common."""
    check_names(request, (*_FILTERS, "by"))
    filters = _filters(reason, error, type_, source)
    return await parts_of(request).letters.top(filters, By(by))


@get(f"{_PATH}/{{letter_id:str}}", before_request=require_read)
async def dead_letter(request: AnyRequest, letter_id: FromPath[str]) -> LetterShown:
    """Show one dead letter with what it holds."""
    check_names(request, ())
    return await parts_of(request).letters.show(letter_id)


@post(f"{_PATH}/replay", status_code=HTTP_200_OK)
async def replay(request: AnyRequest) -> Replay:
    """Count the dead letters that are asked for, or deliver them once more."""
    caller = await require(request, ADMIN)
    check_names(request, ())
    parts = parts_of(request)
    with Hold(parts.bodies) as hold:
        body = await read_body(request, REPLAY_BODY_BYTES_MAX, hold)
    asked = decode_json(body, content_type_of(request), ReplayAsked)
    if asked.reason is not None and asked.reason not in REASONS:
        raise Refusal("invalid_body", "reason is none of those that there are", path="$.reason")
    done = await parts.letters.replay(asked)
    if not asked.dry_run:
        account = done.account
        _log.info("replay", by=caller.name, done=account.done, refused=account.refused_count)
    return done


def _filters(
    reason: str | None, error: str | None, type_: str | None, source: str | None
) -> Filters:
    """Return what is asked for. Raises Refusal `invalid_query`."""
    if reason is not None and reason not in REASONS:
        raise invalid("reason is none of those that there are")
    return Filters(reason=reason, error=error, type=type_, source=source)


ROUTES = (dead_letters, dead_letter_groups, dead_letter, replay)
