"""`evp openapi`: the OpenAPI document, for generators of clients and for reviews."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def openapi(
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="Write to a file instead.")
    ] = None,
) -> None:
    """Print the OpenAPI 3.1 document of the server, which need not run.

    Example: evp openapi -o openapi.json
    """
    import msgspec

    from evp.cli.output import Output
    from evp.errors import UsageError
    from evp.server.app import ROUTES
    from evp.server.openapi import document

    found = document(ROUTES)
    if output is None:
        Output().say_json(found)
        return
    try:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    except OSError as error:
        raise UsageError(f"can't write {output}: {error.strerror}") from None
