"""What the log's server says about itself, asked for once; and setting it so that it stays set.

Nothing here is needed to accept or to store: it is for whoever looks for what is wrong.
"""

from __future__ import annotations

from typing import Final

from evp.stream.client import Link, LogRefused, pairs
from evp.stream.keys import Keys
from evp.stream.memory import info_fields
from evp.stream.scripts import Script

_SETTINGS = (
    "appendonly",
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "auto-aof-rewrite-percentage",
    "auto-aof-rewrite-min-size",
    "maxmemory",
    "maxmemory-policy",
    "tcp-keepalive",
    "timeout",
    "cluster-require-full-coverage",
)
_TYPES = {
    "stream": "stream",
    "groups": "set",
    "counters": "hash",
    "index": "stream",
    "servers": "hash",
    "serving": "zset",
    "api_keys": "hash",
}

_VERSIONS: Final = Script("""
-- Of which versions the oldest, the newest and a group's oldest pending entry are; no payload.
-- KEYS stream.  ARGV group.  Answer: the field `v` of each that there is and that has one.
local ids, found = {}, {}
for _, one in ipairs({{'XRANGE', '-', '+'}, {'XREVRANGE', '+', '-'}}) do
  ids[#ids + 1] = redis.call(one[1], KEYS[1], one[2], one[3], 'COUNT', 1)[1]
end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1]
ids[#ids + 1] = pending and redis.call('XRANGE', KEYS[1], pending[1], pending[1])[1]
for _, entry in ipairs(ids) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'v' then found[#found + 1] = entry[2][i + 1] end
  end
end
return found
""")


class ServerFacts:
    """Settings and facts of the server behind a link, each asked for when first needed."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._info: dict[str, str] | None = None
        self._settings: dict[str, str] | None = None
        self._hidden: LogRefused | None = None

    async def setting(self, name: str) -> str:
        """Return a setting, empty where the server has none of this name.

        Where CONFIG is hidden INFO tells some. Raises LogRefused if it is hidden,
        and LogUnavailable.
        """
        if self._settings is None:
            self._settings = await self._read_settings()
        if name not in self._settings and self._hidden is not None:
            raise self._hidden
        return self._settings.get(name, "")

    async def info(self, name: str) -> str:
        """Return a field of INFO, empty where there is none. Raises as `setting`."""
        if self._info is None:
            self._info = info_fields(await self._link.call("INFO"))
        return self._info.get(name, "")

    async def number(self, name: str) -> int:
        """Return a field of INFO as a number, 0 where it is none. Raises as `setting`."""
        text = await self.info(name)
        return int(text) if text.isdigit() else 0

    async def _read_settings(self) -> dict[str, str]:
        try:
            flat = await self._link.call("CONFIG", "GET", *_SETTINGS)
        except LogRefused as error:
            self._hidden = error
        else:
            return {name.decode(): value.decode() for name, value in pairs(flat)}
        told = {
            "appendonly": "yes" if await self.info("aof_enabled") == "1" else "no",
            "maxmemory": await self.info("maxmemory"),
            "maxmemory-policy": await self.info("maxmemory_policy"),
        }
        return {name: value for name, value in told.items() if value}


async def keep_setting(link: Link, name: str, value: str) -> str | None:
    """Change a setting, also in the server's configuration file.

    Returns why that file was not changed, None if it was: then a restart forgets the setting.
    Raises LogRefused if the server does not let itself be set, and LogUnavailable.
    """
    await link.call("CONFIG", "SET", name, value)
    try:
        await link.call("CONFIG", "REWRITE")
    except LogRefused as error:
        return str(error).rpartition("refused: ")[2]
    return None


async def wrong_types(link: Link, keys: Keys) -> dict[str, tuple[str, str]]:
    """Return, of evp's keys, those that hold something else: by key, (what, what it should be).

    Raises LogUnavailable.
    """
    wanted = {getattr(keys, name): kind for name, kind in _TYPES.items()}
    found = await link.calls([("TYPE", key) for key in wanted])
    told = {key: kind.decode() for key, kind in zip(wanted, found, strict=True)}
    return {
        key: (kind, wanted[key]) for key, kind in told.items() if kind not in {"none", wanted[key]}
    }


async def versions(link: Link, keys: Keys, group: str) -> set[bytes]:
    """Return the versions of the oldest, the newest and the oldest pending frame.

    Raises LogUnavailable.
    """
    return set(await link.script(_VERSIONS, (keys.stream,), (group,)))
