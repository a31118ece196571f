"""The Python client against a server that is killed."""

from __future__ import annotations

from collections import Counter

from evp import Client
from tests.support.make import event
from tests.support.up import Up


def test_server_that_is_killed(up: Up) -> None:
    """A server that is killed in the middle costs no event, and each is stored once."""
    with Client(up.http_url, up.api_key, flush_every_s=0.01) as client:
        for number in range(500):
            client.enqueue(event(number, source="client"))
        client.flush()
        for number in range(500, 1_500):
            client.enqueue(event(number, source="client"))
        up.kill_child("serve-1")
        for number in range(1_500, 2_000):
            client.enqueue(event(number, source="client"))
    up.wait_stored("client", 2_000)
    assert up.stored("client") == Counter(f"e{number}" for number in range(2_000))
