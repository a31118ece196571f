"""The log's keys, all of them.

| key | type | holds |
|---|---|---|
| `evp:events` | stream | the frames (`evp.frame` has the fields) |
| `{evp:events}:groups` | set | names of groups that were registered before they were created |
| `{evp:events}:counters` | hash | what was accepted: `events`, `frames`, `bytes`, `requests` |
| `{evp:events}:index` | stream | for each frame, by entry id, `events` and `bytes` before it |
| `{evp:events}:probe` | stream | gone as soon as made: what the server can do is tried with it |
| `{evp:events}:servers` | hash | server epoch (hex) → how far it got (`evp.stream.ledger`) |
| `{evp:events}:serving` | sorted set | server process → its last look, ms by the log's clock |
| `{evp:events}:api_keys` | hash | API key by id, as JSON; `version` (`evp.stream.api_keys`) |
| `{evp:events}:partitions` | string | how many streams there ever were (`evp.stream.partitions`); of the first one alone |
| `{evp:events}:slot:<group>:<name>` | string, expires | who holds this consumer name |
| `{evp:events}:ended:<token>` | string, expires | the worker with this token ended well |

The name of the stream is the hash tag of the others, so all of them live in one
slot of a cluster and one script may touch them together.

With PARTITIONS there are several streams: `evp:events` is partition 0, the others are
`evp:events:1`, `evp:events:2`, …, each with keys of its own, and so anywhere in a cluster.
API keys are with partition 0.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations


class Keys:
    """The keys of one stream: of partition 0, or of another one of that name."""

    __slots__ = (
        "api_keys",
        "counters",
        "groups",
        "index",
        "partition",
        "partitions",
        "probe",
        "servers",
        "serving",
        "stream",
    )

    def __init__(self, name: str, partition: int = 0) -> None:
        stream = f"{name}:{partition}" if partition else name
        self.partition = partition
        self.stream = stream
        self.groups = f"{{{stream}}}:groups"
        self.counters = f"{{{stream}}}:counters"
        self.index = f"{{{stream}}}:index"
        self.probe = f"{{{stream}}}:probe"
        self.servers = f"{{{stream}}}:servers"
        self.serving = f"{{{stream}}}:serving"
        self.api_keys = f"{{{stream}}}:api_keys"
        self.partitions = f"{{{stream}}}:partitions"

    def slot(self, group: str, name: str) -> str:
        """Return the key of the lease on a consumer name of a group."""
        return f"{{{self.stream}}}:slot:{group}:{name}"

    def ended(self, token: str) -> str:
        """Return the key that says that the holder with this token ended well."""
        return f"{{{self.stream}}}:ended:{token}"

    def all(self) -> list[str]:
        """Return the keys that are not leases."""
        return [
            self.stream,
            self.groups,
            self.counters,
            self.index,
            self.servers,
            self.serving,
            self.api_keys,
            self.partitions,
        ]
