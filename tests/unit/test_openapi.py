"""The OpenAPI document says what the server has, no more and no less."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from jsonschema_rs import Draft202012Validator

from evp.errors import STATUS_BY_CODE
from evp.events import Event
from evp.server.app import ROUTES
from evp.server.openapi import TITLE, document
from evp.server.operations import OPERATIONS

PAGES = {"GET /", "GET /dashboard/{name}", "GET /docs", "GET /docs/{name}"}
"""For browsers: they have no place in the document of the API."""

DOCUMENT = document(ROUTES)

_PARAMETER = re.compile(r"{(\w+):\w+}")


def of_the_app() -> set[str]:
    """Return the methods and paths that the app answers to."""
    return {
        method + " " + _PARAMETER.sub(r"{\1}", path)
        for handler in ROUTES
        for path in handler.paths
        for method in handler.http_methods
        if method not in {"OPTIONS", "HEAD"}
    }


def test_every_route_is_described() -> None:
    """Each method of each path is in the document, and nothing else is."""
    assert set(OPERATIONS) == of_the_app() - PAGES


def test_document_is_openapi() -> None:
    """Version, title and the two ways to say who asks are there."""
    found = DOCUMENT
    assert found["openapi"].startswith("3.1")
    assert found["info"]["title"] == TITLE == "Event Processing API"
    assert found["components"]["securitySchemes"]["apiKey"]["name"] == "x-api-key"
    assert found["components"]["securitySchemes"]["bearer"]["bearerFormat"] == "JWT"


def test_every_reference_leads_somewhere() -> None:
    """No schema refers to one that is not there."""
    text = msgspec.json.encode(DOCUMENT).decode()
    names = DOCUMENT["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) <= set(names)


def test_every_code_is_an_answer_of_some_route() -> None:
    """Whatever the server can refuse with, the document has it."""
    told = {code for operation in OPERATIONS.values() for code in operation.refusals}
    assert set(STATUS_BY_CODE) - told <= {"not_found", "method_not_allowed"}


def bodies() -> list[Any]:
    """Return every example with its schema."""
    found = []
    for route, operation in OPERATIONS.items():
        method, path = route.split(" ")
        told = DOCUMENT["paths"][path][method.lower()]
        contents = [told.get("requestBody", {}).get("content", {})]
        contents += [one.get("content", {}) for one in told["responses"].values()]
        for content in contents:
            for one in content.values():
                examples = [one["example"]] if "example" in one else []
                examples += [named["value"] for named in one.get("examples", {}).values()]
                found += [
                    pytest.param(one["schema"], example, id=f"{route} {place}")
                    for place, example in enumerate(examples)
                ]
        assert operation.answers
    return found


@pytest.mark.parametrize(("schema", "example"), bodies())
def test_every_example_fits_its_schema(schema: dict[str, Any], example: Any) -> None:
    """An example is a value that the schema beside it allows."""
    whole = schema | {"components": DOCUMENT["components"]}
    Draft202012Validator(whole).validate(example)


def test_example_of_an_event_can_be_sent() -> None:
    """The first event that somebody copies from the document decodes."""
    content = DOCUMENT["paths"]["/events"]["post"]["requestBody"]["content"]
    example = msgspec.json.encode(content["application/json"]["example"])
    assert msgspec.json.decode(example, type=Event).type == "order.placed"


def test_extension_attributes_are_allowed_by_their_rule() -> None:
    """The schema of an event takes what CloudEvents calls an extension, and no other member."""
    schemas = DOCUMENT["components"]
    validator = Draft202012Validator({"$ref": "#/components/schemas/Event", "components": schemas})
    assert validator.is_valid({"type": "a", "myextension": 5})
    assert not validator.is_valid({"type": "a", "my_extension": 5})
    assert not validator.is_valid({"type": "a", "myextension": 1.5})
