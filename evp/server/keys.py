"""Who may do what: the `x-api-key` header against the keys that are set or were made.

Whatever is sent is hashed once and looked up by half of its digest; then the whole
digests are compared in constant time. So neither the answer nor the time it takes
tells a missing key from one that is wrong, revoked or expired.
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest

from evp.api_keys import SCOPES, Account, agreed, digest_of, is_key
from evp.errors import Refusal
from evp.scopes import with_implied
from evp.server.bucket import Bucket
from evp.server.limits import API_KEY_BYTES_MAX

_INDEXED_BYTES = 16


class Grant:
    """What the holder of one key may do, while it `lives`; who has a grant looks at that again."""

    __slots__ = ("digest", "limit", "lives", "name", "scopes")

    def __init__(
        self, name: str, digest: bytes, scopes: tuple[str, ...], rate_per_s: int | None = None
    ) -> None:
        self.name = name
        self.digest = digest
        self.scopes = with_implied(scopes)
        self.limit = None if rate_per_s is None else Bucket(rate_per_s)
        self.lives = True

    def require(self, scope: str) -> None:
        """Raise Refusal `forbidden` if the key is not good for this."""
        if scope not in self.scopes:
            raise Refusal("forbidden", f"this needs a key with the scope {scope}")

    def require_pace(self) -> None:
        """Raise Refusal `rate_limited` if the key has sent more than it may."""
        refusal = None if self.limit is None else self.limit.refusal()
        if refusal is not None:
            raise refusal

    def spend(self, count: int) -> None:
        """Count what was sent."""
        if self.limit is not None:
            self.limit.spend(count)


class Keys:
    """The API keys of a server: those of its settings, and those that were made.

    `complete` is false until somebody has told of the latter. Till then one that is
    not known may be right: its events are to be sent again, not given up.
    """

    def __init__(self, secrets: Mapping[str, str], *, complete: bool = True) -> None:
        self.complete = complete
        self.known: Account = {}
        self._set = [
            Grant(name, digest_of(secret.encode()), SCOPES) for name, secret in secrets.items()
        ]
        self._made: dict[str, Grant] = {}
        self._by_index: dict[bytes, Grant] = {}
        self._arrange()

    def grant_of(self, key: bytes | None) -> Grant:
        """Return what a key is good for.

        Raises Refusal `unauthenticated`, the same for every key that is not good, and
        `keys_unavailable` while nobody can tell.
        """
        if key and len(key) <= API_KEY_BYTES_MAX:
            digest = digest_of(key)
            grant = self._by_index.get(digest[:_INDEXED_BYTES])
            if grant is not None and compare_digest(grant.digest, digest):
                return grant
            if not self.complete and is_key(key):
                detail = "this server can't read the keys yet; send it again"
                raise Refusal("keys_unavailable", detail, retry_after_s=1)
        raise Refusal("unauthenticated", "send a valid key in the x-api-key header")

    @property
    def any_live(self) -> bool:
        """Whether there is any key with which a request would be let in."""
        return bool(self._by_index)

    def learn(self, account: Account, at_ms: int) -> None:
        """Take note of keys. One that was revoked stays so, whatever is told later."""
        self.known = agreed(self.known, account)
        for key_id, key in self.known.items():
            if key_id not in self._made and key.lives(at_ms):
                self._made[key_id] = Grant(key.name, key.digest, key.scopes, key.rate_per_s)
        self.end(at_ms)
        self._arrange()

    def end(self, at_ms: int) -> None:
        """End the grants of keys that are over."""
        over = [key_id for key_id in self._made if not self.known[key_id].lives(at_ms)]
        for key_id in over:
            self._made.pop(key_id).lives = False
        if over:
            self._arrange()

    def _arrange(self) -> None:
        grants = (*self._made.values(), *self._set)
        self._by_index = {one.digest[:_INDEXED_BYTES]: one for one in grants}
