"""A Docker daemon whose containers are processes of this machine.

It speaks as much of the Engine API as testcontainers asks for, so that the tests'
own way to containers is run where there is no Docker: what is pulled and started,
with which arguments, how it is waited for, and what is left. An image is a
function that says which program to run.

    python -m tests.support.docker

has the engines of the wheels as images, prints the variables to use it with, and
runs until it is ended. With them every test runs as on a machine with Docker.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from evp.engines.engine import LOOPBACK, Engine
from evp.engines.locate import find_log, find_store

Program = Callable[[list[str], Path], list[str]]
"""What an image runs, given its arguments and a folder for its data."""

Run = Callable[["Container", list[str]], int]
"""Runs a command in a container, and gives its exit code."""

_END_S_MAX = 30.0
_STDOUT = 1


class Container:
    """One container: created, started and ended as often as its client says."""

    def __init__(self, program: Program, asked: dict[str, Any]) -> None:
        self.id = secrets.token_hex(32)
        self.asked = asked
        """What it was created with, as the Engine API has it."""
        self.executed: list[list[str]] = []
        """Commands that were run in it."""
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="evp-container-")
        self._output = Path(self._folder.name) / "output"
        self._output.touch()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_paused = False

    @property
    def status(self) -> str:
        """What Docker calls its status."""
        if self._process is None:
            return "created"
        if self._process.poll() is not None:
            return "exited"
        return "paused" if self._is_paused else "running"

    @property
    def pid(self) -> int:
        """Its process; 0 while it does not run."""
        runs = self._process is not None and self._process.poll() is None
        return self._process.pid if runs and self._process is not None else 0

    @property
    def output(self) -> bytes:
        """What it has printed."""
        return self._output.read_bytes()

    @property
    def port(self) -> int:
        """The port of this machine that it was told to listen on."""
        return port_in(self.asked["Cmd"])

    def start(self) -> None:
        """Run it; what it wrote before is there again."""
        command = self._program(list(self.asked["Cmd"]), Path(self._folder.name))
        tether = [sys.executable, "-m", "evp.engines.tether", str(os.getpid())]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*tether, str(int(signal.SIGKILL)), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def end(self, number: int) -> None:
        """Send a signal to end it, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(_END_S_MAX)

    def pause(self, *, paused: bool) -> None:
        """Stop it from running, or let it run on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)
        self._is_paused = paused

    def remove(self) -> None:
        """End it, with all it holds."""
        self.end(signal.SIGKILL)
        self._folder.cleanup()

    @property
    def facts(self) -> dict[str, Any]:
        """What an inspection tells."""
        return {
            "Id": self.id,
            "Config": {"Tty": False, "Image": self.asked["Image"]},
            "State": {"Status": self.status, "Pid": self.pid, "ExitCode": 0},
        }


class Docker:
    """The daemon: what was asked of it is there to be looked at."""

    def __init__(self, images: Mapping[str, Program], run: Run) -> None:
        """Have images by name, without tags; `run` gives the exit codes of commands within."""
        self.pulled: list[str] = []
        self.containers: dict[str, Container] = {}
        self.removed: list[str] = []
        self._images = images
        self._run = run
        self._ended: dict[str, int] = {}

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """Return status and body of an answer: bytes, or what becomes JSON."""
        url = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = re.sub(r"^/v[\d.]+", "", url.path).strip("/").split("/")
        answer: tuple[int, Any] = (404, {"message": f"nothing is known of {method} {target}"})
        match [method, *path]:
            case ["GET", "_ping"]:
                answer = 200, b"OK"
            case ["GET", "version"]:
                answer = 200, {"ApiVersion": "1.45", "Version": "26.0"}
            case ["GET", "images", *name, "json"]:
                answer = self._image(unquote("/".join(name)))
            case ["POST", "images", "create"]:
                self.pulled.append(f"{asked['fromImage']}:{asked['tag']}")
                answer = 200, b"{}\n"
            case ["POST", "containers", "create"]:
                answer = self._create(body)
            case [_, "containers", found, *rest] if found in self.containers:
                answer = self._of_container([method, *rest], self.containers[found], asked, body)
            case ["POST", "exec", found, "start"] if found in self._ended:
                answer = 200, b""
            case ["GET", "exec", found, "json"] if found in self._ended:
                answer = 200, {"ExitCode": self._ended[found]}
        return answer

    def _image(self, name: str) -> tuple[int, Any]:
        if name in self.pulled:
            return 200, {"Id": f"sha256:{name}", "RepoTags": [name]}
        return 404, {"message": f"No such image: {name}"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        container = Container(self._images[asked["Image"].partition(":")[0]], asked)
        self.containers[container.id] = container
        return 201, {"Id": container.id, "Warnings": []}

    def _of_container(
        self, verb: list[str], one: Container, asked: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        answer: tuple[int, Any] = (204, b"")
        match verb:
            case ["GET", "json"]:
                answer = 200, one.facts
            case ["GET", "logs"]:
                said = one.output if asked.get("stdout") == "1" else b""
                answer = 200, struct.pack(">BxxxL", _STDOUT, len(said)) + said
            case ["POST", "start"]:
                one.start()
            case ["POST", "stop"]:
                one.end(signal.SIGTERM)
            case ["POST", "kill"]:
                one.end(signal.SIGKILL)
            case ["POST", "wait"]:
                answer = 200, {"StatusCode": 0}
            case ["POST", "pause" | "unpause" as pause]:
                one.pause(paused=pause == "pause")
            case ["POST", "exec"]:
                answer = self._execute(one, body["Cmd"])
            case ["DELETE"]:
                self.removed.append(one.id)
                self.containers.pop(one.id).remove()
        return answer

    def _execute(self, one: Container, command: list[str]) -> tuple[int, Any]:
        if one.status != "running":
            return 409, {"message": f"container {one.id} is not running"}
        one.executed.append(command)
        executed = secrets.token_hex(8)
        self._ended[executed] = self._run(one, command)
        return 201, {"Id": executed}


@contextlib.contextmanager
def docker(images: Mapping[str, Program], run: Run) -> Iterator[tuple[Docker, str]]:
    """Run a daemon; gives it and its DOCKER_HOST. Its containers end with it."""
    daemon = Docker(images, run)

    class Handler(BaseHTTPRequestHandler):
        """One request a connection."""

        def handle_any(self) -> None:
            """Answer."""
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, told = daemon.answer(self.command, self.path, json.loads(sent or b"null"))
            is_json = not isinstance(told, bytes)
            with contextlib.suppress(ConnectionError):  # A client may not wait for the end.
                self.send_response(status)
                self.send_header("content-type", "application/json" if is_json else "text/plain")
                self.end_headers()
                self.wfile.write(json.dumps(told).encode() if is_json else told)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - the base class calls these

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so the base has it
            """Say nothing."""

    # One thread for all: a child that is tethered ends with the thread that started it.
    with HTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield daemon, f"tcp://{LOOPBACK}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            for container in list(daemon.containers.values()):
                container.remove()


def port_in(arguments: list[str]) -> int:
    """Return the port that a server is told to listen on."""
    return int(arguments[arguments.index("--port") + 1])


def log_of_the_wheel(arguments: list[str], folder: Path) -> list[str]:
    """Run the log with the very arguments that its image gets: bare options go to the server."""
    return [*find_log().command, *arguments, "--dir", str(folder)]


def store_of_the_wheel(arguments: list[str], folder: Path) -> list[str]:
    """Run the embedded store in place of mongod, as a member of a set; its options are others."""
    engine = Engine(find_store(), port_in(arguments), folder, "mongodb://")
    command = [one for one in engine.child("store", folder, {}).command if one != "--standalone"]
    return [*command, *(["--enable-test-commands"] if "enableTestCommands=1" in arguments else [])]


def listens(one: Container, _command: list[str]) -> int:
    """Look whether a container can be reached, whatever was to be run in it."""
    try:
        socket.create_connection((LOOPBACK, one.port), _END_S_MAX).close()
    except OSError:
        return 1
    return 0


def main() -> None:
    """Serve until ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    images = {
        "valkey/valkey": log_of_the_wheel,
        "redis": log_of_the_wheel,
        "mongo": store_of_the_wheel,
    }
    with docker(images, listens) as (_, host), contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(
            f"DOCKER_HOST={host} EVP_REQUIRE_DOCKER=1 TESTCONTAINERS_RYUK_DISABLED=true "
            "TESTCONTAINERS_CONNECTION_MODE=docker_host\n"
        )
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
