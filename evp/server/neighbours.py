"""Partitions that share a server of the log, and with it what memory it has."""

from __future__ import annotations

from evp.log_address import Node


class Neighbours:
    """Which partitions of this process are on the same server, as far as they are connected."""

    def __init__(self, partitions: int) -> None:
        self._nodes: list[Node | None] = [None] * partitions

    def note(self, partition: int, node: Node | None) -> None:
        """Take note of the server that has a partition."""
        self._nodes[partition] = node

    def on_same(self, partition: int) -> int:
        """Return how many partitions share the server of this one; who is not known may, too."""
        mine = self._nodes[partition]
        return sum(mine is None or node is None or node == mine for node in self._nodes)
