"""What the OpenAPI document says of a running server holds, whatever is sent."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, openapi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from evp.server.operations import OPERATIONS
from tests.e2e.commands import evp
from tests.e2e.conftest import on_store
from tests.support.up import Up, running_up

#: `make api-cases` raises it; what is found by then is soon found here as well.
EXAMPLES = int(os.environ.get("EVP_API_EXAMPLES", "15"))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, store_url: str) -> Iterator[Up]:
    """An `evp up` of its own: so many logins keep others out for a minute."""
    with running_up(tmp_path_factory.mktemp("api"), environ=on_store(store_url, "api")) as up:
        yield up


@pytest.fixture(scope="module")
def api(up: Up) -> Any:
    """The document of the running server, as schemathesis reads it."""
    found = openapi.from_url(f"{up.http_url}/openapi.json")
    found.config.update(base_url=up.http_url)
    return found


LATER = [positive_data_acceptance, negative_data_rejection]
TAKE_PARAMETERS = ("GET /events", "GET /analytics/metrics")


def ways() -> list[Any]:
    """Return each route with what is sent: as the document allows, and, where it can be, not."""
    return [
        pytest.param(route, mode, id=f"{route} {mode.value}")
        for route, operation in OPERATIONS.items()
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE
        or operation.body
        or "{" in route
        or route in TAKE_PARAMETERS
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("route", "mode"), ways())
def test_server_and_document_agree(route: str, mode: GenerationMode, api: Any, up: Up) -> None:
    """No 5xx, no undocumented status or media type, no body that its schema forbids."""
    method, path = route.split(" ")
    operation = api[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def holds(case: Any) -> None:
        # What a schema can't say, as that a time lies ahead, is refused by a documented 422.
        answer = case.call_and_validate(headers={"x-api-key": up.api_key}, excluded_checks=LATER)
        # In a query all is text, and a batch may ask to be taken but for its bad events.
        takes_what_is_good = case.query and case.query.get("on_error") == "skip"
        too_large = answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if method == "POST" and not too_large and not takes_what_is_good:
            case.validate_response(answer, checks=[negative_data_rejection])

    holds()


def test_page_loads_nothing_from_elsewhere(up: Up) -> None:
    """Page, scripts and styles come from this server, and its policy forbids all else."""
    with urllib.request.urlopen(f"{up.http_url}/docs") as reply:
        page, policy = reply.read().decode(), reply.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "//" not in page
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        with urllib.request.urlopen(f"{up.http_url}/docs/{name}") as reply:
            assert reply.status == 200
            assert reply.read()


def test_command_prints_the_same_document(up: Up, clean: dict[str, str], tmp_path: Path) -> None:
    """`evp openapi` needs no server, and says what the server says."""
    printed = json.loads(evp("openapi", environ=clean, cwd=tmp_path).out)
    with urllib.request.urlopen(f"{up.http_url}/openapi.json") as reply:
        assert printed == json.load(reply)
