"""Engines in containers, for tests: the same verbs as those that are processes have."""

from __future__ import annotations

import contextlib
import socket
import time
from atexit import register as at_exit
from collections.abc import Iterator
from typing import Any

from docker.errors import APIError
from testcontainers.core.container import DockerContainer

from evp.engines.engine import free_port
from tests.support.ladder import Image

READY_S_MAX = 60.0
STOP_S_MAX = 30
DIAL_S_MAX = 10.0
_LOOK_S = 0.1


class ContainerServer:
    """An engine in a container of its own, on a port of this machine that stays the same.

    It keeps its data until this process ends. Then it is removed; if this process is
    killed, by testcontainers' reaper.
    """

    def __init__(self, image: Image, *extra: str) -> None:
        self.port = free_port()
        self.url = image.url.format(port=self.port)
        command, self._ready = (
            [word.format(port=self.port) for word in words]
            for words in (image.command, image.ready)
        )
        self._container = DockerContainer(image.name).with_command([*command, *extra])
        self._container.with_kwargs(network_mode="host")
        self._was_started = False

    def start(self) -> None:
        """Start and wait until it serves. The image is pulled if it is not there."""
        if self._was_started:
            self._docker.start()
        else:
            at_exit(self._container.stop)
            self._container.start()
            self._was_started = True
        ends_at_s = time.monotonic() + READY_S_MAX
        while not self._is_ready():
            said = self._docker.logs().decode(errors="replace")
            assert self.running, said
            assert time.monotonic() < ends_at_s, f"not ready within {READY_S_MAX:g} s: {said}"
            time.sleep(_LOOK_S)
        self._reach()

    @property
    def running(self) -> bool:
        """True while it lives, paused or not."""
        if not self._was_started:
            return False
        self._docker.reload()
        return self._docker.status in {"running", "paused"}

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.running:
            self._docker.stop(timeout=STOP_S_MAX)

    def kill(self) -> None:
        """End it at once, as `kill -9` does, and wait."""
        if self.running:
            self._docker.kill()
            self._docker.wait(timeout=STOP_S_MAX)

    @property
    def pid(self) -> int:
        """Process id of the engine, as the machine has it on which Docker runs."""
        self._docker.reload()
        return int(self._docker.attrs["State"]["Pid"])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it from running for a while; its connections stay open."""
        self._docker.pause()
        try:
            yield
        finally:
            self._docker.unpause()

    def _is_ready(self) -> bool:
        try:
            return bool(self._container.exec(self._ready).exit_code == 0)
        except APIError:  # It has ended meanwhile, which whoever waits will see.
            return False

    def _reach(self) -> None:
        """Wait until it can be reached from here too, which with rootless Docker never happens."""
        ends_at_s = time.monotonic() + DIAL_S_MAX
        while not self._is_reached():
            assert time.monotonic() < ends_at_s, (
                f"the container serves, but not at 127.0.0.1:{self.port}: Docker's host network is "
                "not that of this machine; EVP_TEST_DOCKER=0 does without"
            )
            time.sleep(_LOOK_S)

    def _is_reached(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), DIAL_S_MAX).close()
        except OSError:
            return False
        return True

    @property
    def _docker(self) -> Any:
        return self._container.get_wrapped_container()
