"""The accept path as a plain ASGI app on uvicorn's own protocol: what evp is compared with.

The same `Acceptor`, key check and answers as `evp serve`, without its protocol
subclass and without a router. Settings come from the environment.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from evp import logs
from evp.configuration import load
from evp.errors import Refusal
from evp.server.accept import Acceptor
from evp.server.answer import Answer
from evp.server.keys import Keys
from evp.server.problem import problem
from evp.server.request import media_of
from evp.settings import Settings
from evp.supervise import bind


class App:
    """An ASGI app of one route."""

    def __init__(self, settings: Settings) -> None:
        self.acceptor = Acceptor(settings)
        self._keys = Keys(settings.api_keys)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        answer = await self._answer(scope, receive)
        length = (b"content-length", b"%d" % len(answer.body))
        headers = [*answer.headers, length]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: dict[str, Any], receive: Any) -> Answer:
        headers = dict(scope["headers"])
        try:
            self._keys.grant_of(headers.get(b"x-api-key"))
            media = media_of(scope["path"].encode(), headers.get(b"content-type"))
        except Refusal as refusal:
            return problem(refusal)
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.acceptor.accept(body, media, answered.set_result)
        return await answered


async def main() -> None:
    """Serve until ended by a signal."""
    logs.configure("warning", sys.stderr, colour=False)
    settings = load(os.environ, {}, cwd=Path.cwd()).settings
    listener = bind(settings.host, settings.port)
    app = App(settings)
    await app.acceptor.start()
    # As evp serve does.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        http=HttpToolsProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )
    await uvicorn.Server(config).serve(sockets=[listener])
    await app.acceptor.drain()
    await app.acceptor.close()


uvloop.run(main())
