"""The OpenAPI 3.1 document, made of `OPERATIONS`, the types and the handlers.

Schemas are msgspec's own of the types that decode and encode, parameters are
Litestar's of the handlers, so what a route takes and what its document says can't
differ. A test holds that every route of the app stands in the table, and sends what
the document allows and what it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig

import evp
from evp.errors import STATUS_BY_CODE
from evp.limits import ATTRIBUTE_CHARS_MAX, ATTRIBUTE_NAME_CHARS_MAX
from evp.server.operations import OPERATIONS, TAGS, Operation, Said, types_of
from evp.server.problem import PROBLEM_JSON, Problem, type_of

TITLE = "Event Processing API"

_REF = "#/components/schemas/{name}"
_SECURITY: dict[str, Any] = {
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "A key from `evp keys create`, or one of `EVP_API_KEYS`.",
    },
    "metricsToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of `EVP_METRICS_TOKEN`, where that is set.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token from `POST /auth/login`.",
    },
}
_ABOUT = """\
POST events; each is on disk before it is answered with 202, and is stored once.

Send `id` and `time` with each event, and send a request again with the same ones after a \
503, a time-out or a lost connection: an event that was kept after all is recognised.

Every answer that is no success is `application/problem+json` (RFC 9457); its `code` is stable."""


def document(handlers: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    """Return the document of an app with these routes, as JSON values. Takes a while."""
    parameters = _parameters(handlers)
    types = list(dict.fromkeys([Problem, *_types()]))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, schemas, strict=True))
    _allow_extensions(components["Event"])
    paths: dict[str, Any] = {}
    for route, operation in OPERATIONS.items():
        method, path = route.split(" ")
        paths.setdefault(path, {})[method.lower()] = {
            "operationId": _operation_id(method, path),
            "parameters": parameters[route],
            **_operation(operation, by_type),
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": evp.__version__, "description": _ABOUT},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


def _parameters(handlers: Sequence[HTTPRouteHandler]) -> dict[str, list[dict[str, Any]]]:
    """Return the parameters in paths and queries by route, as the handlers take them."""
    config = OpenAPIConfig(TITLE, evp.__version__)
    schema = Litestar(handlers, openapi_config=config).openapi_schema.to_schema()
    return {
        f"{method.upper()} {path}": operation.get("parameters", [])
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }


def _types() -> Iterator[Any]:
    for operation in OPERATIONS.values():
        yield from operation.types()


def _allow_extensions(event: dict[str, Any]) -> None:
    """Say which members an event may have besides those that its type names."""
    names = rf"^([a-z0-9]{{1,{ATTRIBUTE_NAME_CHARS_MAX}}}|data_base64)$"
    event["propertyNames"] = {"pattern": names}
    event["properties"]["data_base64"] = {
        "description": "the data as bytes, in place of `data`",
        "type": ["string", "null"],
        "contentEncoding": "base64",
    }
    event["additionalProperties"] = {
        "description": "an extension attribute of CloudEvents",
        "anyOf": [
            {"type": "string", "maxLength": ATTRIBUTE_CHARS_MAX},
            {"type": "boolean"},
            {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
            {"type": "null"},
        ],
    }


def _operation_id(method: str, path: str) -> str:
    words = [method.lower(), *(word.strip("{}") for word in path.split("/") if word)]
    return "_".join(words).replace(".", "_")


def _operation(operation: Operation, by_type: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": [{name: []} if name else {} for name in operation.security],
        "responses": _responses(operation, by_type),
    }
    if operation.description:
        found["description"] = operation.description
    if operation.body:
        found["requestBody"] = {
            "required": operation.body_required,
            "content": _content(operation.body, by_type),
        }
    return found


def _responses(operation: Operation, by_type: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        found[str(status)] = {"description": answer.description, "headers": _headers(status)} | (
            {"content": _content((answer.said,), by_type)} if answer.said else {}
        )
    by_status: dict[int, list[str]] = {}
    for code in operation.refusals:
        by_status.setdefault(STATUS_BY_CODE[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        refused = _refused(status, codes, by_type)
        if str(status) in found:
            # One status may be an answer as well: /api/health is 503 with a body of its own.
            found[str(status)]["content"] |= refused["content"]
        else:
            found[str(status)] = refused
    return found


def _refused(status: int, codes: list[str], by_type: Mapping[Any, Any]) -> dict[str, Any]:
    examples = {
        code: {
            "value": {
                "type": type_of(code),
                "title": HTTPStatus(status).phrase,
                "status": status,
                "code": code,
                "detail": "what is wrong, for people",
            }
        }
        for code in codes
    }
    return {
        "headers": _headers(status),
        "description": " or ".join(f"`{code}`" for code in codes),
        "content": {PROBLEM_JSON: {"schema": by_type[Problem], "examples": examples}},
    }


def _headers(status: int) -> dict[str, Any]:
    """Return the headers of an answer that clients go by."""
    told = {"x-request-id": "the id of the request, as evp's log has it"}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        told["retry-after"] = "how many seconds to wait before it is sent again"
    if status == HTTPStatus.UNAUTHORIZED:
        told["www-authenticate"] = "how to say who asks"
    text = {"type": "string"}
    return {name: {"description": what, "schema": text} for name, what in told.items()}


def _content(said: tuple[Said, ...], by_type: Mapping[Any, Any]) -> dict[str, Any]:
    """Return bodies by media type."""
    found: dict[str, Any] = {}
    for one in said:
        schemas = [by_type[one_type] for one_type in types_of(one)] or [{"type": "string"}]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        found[one.media_type] = {"schema": schema}
        if one.example is not None:
            found[one.media_type]["example"] = one.example
    return found
