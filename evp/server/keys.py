"""Who may send: the `x-api-key` header against the keys that are set.

Digests are compared, not keys: how long it takes tells nothing about a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from evp.errors import Refusal
from evp.limits import API_KEY_BYTES_MAX


class Keys:
    """The API keys of a server, by name."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._name_by_digest = {
            sha256(secret.encode()).digest(): name for name, secret in secrets.items()
        }

    def name_of(self, key: bytes | None) -> str:
        """Return the name of a key. Raises Refusal, the same for a missing and a wrong one."""
        if key is not None and len(key) <= API_KEY_BYTES_MAX:
            name = self._name_by_digest.get(sha256(key).digest())
            if name is not None:
                return name
        raise Refusal("unauthenticated", "send a valid key in the x-api-key header")
