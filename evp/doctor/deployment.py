"""What every check looks at: settings, log and store, none asked more often than needed.

Of a log with several partitions each has a `Deployment` of its own: its stream, on its
server, and the store that they share.
"""

from __future__ import annotations

from shlex import quote
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from evp.doctor.findings import ERROR, WARNING
from evp.errors import LogUnavailable, redact_url
from evp.log_address import parse
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.inspection import SchemaGaps, schema_gaps
from evp.stream.client import Link
from evp.stream.info import GroupFacts, LogFacts, log_facts
from evp.stream.inspection import ServerFacts
from evp.stream.keys import Keys

AUTO = "auto"
MEMORY = "memory"
_PASSED_ON = {"authSource", "directConnection", "replicaSet", "tls", "ssl"}
"""Options of the store's address that a client of a person needs as well, and no secrets."""


class Deployment:
    """One stream and one store, as the settings name them, over one connection to each.

    `partitions` is how many streams there are.
    """

    def __init__(
        self, settings: Settings, db: Database, partition: int = 0, partitions: int = 1
    ) -> None:
        self.settings = settings
        self.keys = Keys(settings.stream, partition)
        self.partitions = partitions
        self.db = db
        self._link: Link | None = None
        self._server: ServerFacts | None = None
        self._log: LogFacts | None = None
        self._schema: SchemaGaps | None = None

    async def open(self) -> None:
        """Dial the log. Raises LogUnavailable."""
        self._link = await Link.open(self.settings.redis_url, self.keys)
        self._server = ServerFacts(self._link)

    async def reopen(self) -> bool:
        """Dial the log again if it has ended the connection; False if it can't be reached."""
        if not self.has_link:
            try:
                await self.open()
            except LogUnavailable:
                return False
        return True

    async def close(self) -> None:
        """Close the connection to the log."""
        if self._link is not None:
            await self._link.close()

    @property
    def has_link(self) -> bool:
        """Whether there is a connection to the log."""
        return self._link is not None and self._link.is_open

    @property
    def log_name(self) -> str:
        """What the log is called here: one of several partitions by its number."""
        return "log" if self.partitions == 1 else f"partition {self.keys.partition}"

    @property
    def server_name(self) -> str:
        """The address of the log's server; empty if it was never reached."""
        return "" if self._link is None or self._link.node is None else str(self._link.node)

    @property
    def link(self) -> Link:
        """The connection to the log. Raises LogUnavailable if there never was one."""
        if self._link is None:
            raise LogUnavailable("the log is away")
        return self._link

    @property
    def server(self) -> ServerFacts:
        """What the log's server says about itself. Raises LogUnavailable as `link`."""
        if self._server is None:
            raise LogUnavailable("the log is away")
        return self._server

    async def log(self) -> LogFacts:
        """Return the facts of the stream, as they were when first asked. Raises LogUnavailable."""
        if self._log is None:
            self._log = await log_facts(self.link, self.keys)
        return self._log

    async def group(self, name: str) -> GroupFacts | None:
        """Return the facts of one group of the stream, None if there is none."""
        return next((one for one in (await self.log()).groups if one.name == name), None)

    async def schema(self) -> SchemaGaps:
        """Return what the store lacks, as it was when first asked. Raises StoreUnavailable."""
        if self._schema is None:
            self._schema = await schema_gaps(self.db)
        return self._schema

    @property
    def strictness(self) -> str:
        """How bad a setting is by which what was accepted can be lost.

        Servers that verify the settings accept nothing; with the others somebody vouched for it.
        """
        return ERROR if self.settings.durability == AUTO else WARNING

    def redis_cli(self, command: str) -> str:
        """Return a command line that sends a command to the log; it asks for the password.

        To the server that was dialled, of a cluster or behind Sentinels.
        """
        given, url = urlsplit(self.settings.redis_url), parse(redact_url(self.settings.redis_url))
        host, port = (self._link and self._link.node) or url.nodes[0]
        parts = ["redis-cli", "-h", host, "-p", str(port)]
        number = url.path.rpartition("/")[2]
        parts += ["-n", number] if number.isdigit() and number != "0" else []
        parts += ["--tls"] if url.scheme == "rediss" else []
        parts += ["--user", quote(given.username)] if given.username else []
        parts += ["--askpass"] if given.password else []
        return " ".join([*parts, command])

    def mongosh(self, script: str) -> str:
        """Return a command line that runs a script on the store; it asks for the password."""
        given, url = _addresses(self.settings.mongo_url)
        kept = {key: value for key, value in parse_qsl(url.query) if key in _PASSED_ON}
        address = f"{url.scheme}://{url.netloc.rpartition('@')[2]}/{self.settings.mongo_db}"
        address += f"?{urlencode(kept)}" if kept else ""
        parts = ["mongosh", quote(address)]
        parts += ["--username", quote(given.username)] if given.username else []
        return " ".join([*parts, "--eval", quote(script)])


def _addresses(url: str) -> tuple[SplitResult, SplitResult]:
    """Return an address in parts, as given and without credentials: of it alone take the rest.

    A password with a slash in it, not escaped, would be taken for host and path.
    """
    return urlsplit(url), urlsplit(redact_url(url))
