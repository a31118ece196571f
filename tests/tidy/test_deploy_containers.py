"""The files for containers, Railway and the CI say what the code says."""

from __future__ import annotations

import json
import re
import shlex
import sys
import zipfile
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import yaml
from typer.main import get_command

from evp import configuration
from evp.cli.app import app
from evp.metrics.port import LIVE_PATH
from evp.server.operations import OPERATIONS
from evp.settings import ROWS, Settings
from tests.support.ladder import LOG_IMAGE, STORE_IMAGE
from tests.tidy.source import ROOT, text_files

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
RAILWAY = {
    name: json.loads((ROOT / path).read_text(encoding="utf-8"))
    for name, path in {"serve": "railway.json", "work": "deploy/railway/work.json"}.items()
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI_CD: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "ci-cd.yml").read_text(encoding="utf-8")
)

COMMANDS = set(getattr(get_command(app), "commands", {}))
KEYS = {name for row in ROWS for name in (row.key, *row.also)}
#: Of docs/GUARANTEES.md and the README.
LOGS = {"redis:7.2", "redis:8", "valkey/valkey:8", "valkey/valkey:9"}
STORES = {"mongo:6", "mongo:7", "mongo:8"}
#: A process ends this long after its time is up, at most.
ROOM_S = 1.0

_SET_UP = "sudo apt-get install "
_PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def instructions(name: str) -> list[str]:
    """Return what stands behind an instruction of the Dockerfile, each time."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.+)$", joined, re.MULTILINE)


def environ_of_image() -> dict[str, str]:
    """Return what the image sets."""
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line))


def environ_of(service: str) -> dict[str, str]:
    """Return the settings of a service in compose.yaml, where nobody sets anything."""
    given = SERVICES[service]["environment"]
    return {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in given.items()}


def variables(service: str) -> dict[str, str]:
    """Return the variables of a service on Railway, addresses and secrets filled in."""
    text = (ROOT / "deploy" / "railway" / f"{service}.env").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    filled = dict(line.split("=", 1) for line in lines)
    secrets = {
        "EVP_REDIS_URL": "redis://log:6379",
        "EVP_MONGO_URL": "mongodb://store:27017",
        "EVP_JWT_SECRET": "s" * 32,
    }
    return filled | {name: value for name, value in secrets.items() if name in filled}


def settings(*environs: dict[str, str], serves: bool = False) -> Settings:
    """Return the settings of a process with these variables, the later ones winning."""
    merged = {key: value for one in environs for key, value in one.items()}
    return configuration.load(merged, {}, cwd=Path("/nowhere"), serves=serves).settings


def ends_within_s(told: Settings) -> float:
    """Return how long a server with these settings may take to end."""
    return told.drain_delay_ms / 1000 + told.shutdown_timeout_s + ROOM_S


def seconds(text: str) -> float:
    """Return a duration of compose.yaml."""
    return float(text.removesuffix("s"))


def test_every_variable_is_a_setting() -> None:
    """What looks like a setting of evp in the files for deployment is one."""
    files = [path for path in text_files() if "deploy" in path.parts] + [ROOT / "Dockerfile"]
    for path in files:
        if path.suffix in {".yaml", ".env", ".json"} and "helm" not in path.parts:
            named = set(re.findall(r"\bEVP_[A-Z0-9_]+\b", path.read_text(encoding="utf-8")))
            assert named <= KEYS, path
    assert {key for key in environ_of_image() if key.startswith("EVP_")} <= KEYS
    for service in ("serve", "work"):
        assert set(environ_of(service)) | set(variables(service)) <= KEYS


def test_image_runs_any_command() -> None:
    """The image is evp, serves if nobody says otherwise, and asks itself whether it is ready."""
    [entry], [command], [health] = (
        instructions(name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK")
    )
    assert json.loads(entry) == ["evp"]
    assert json.loads(command) == ["serve"]
    assert health.endswith('CMD ["evp", "health"]')
    assert {"serve", "health"} <= COMMANDS


def test_image_is_nobody_and_listens() -> None:
    """It runs as a user with a number, listens on the usual port, and hears a platform's PORT."""
    [user], [port], [signal] = (instructions(name) for name in ("USER", "EXPOSE", "STOPSIGNAL"))
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert signal == "SIGTERM"
    needed = variables("serve")
    told = settings(needed, environ_of_image())
    assert (told.env, told.host, told.port) == ("production", "0.0.0.0", int(port))
    assert settings(needed, environ_of_image(), {"PORT": "8080"}).port == 8080


def test_image_is_given_what_it_copies() -> None:
    """What the Dockerfile copies is there, and .dockerignore lets it through; nothing else."""
    copied = {
        source.rstrip("/")
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_images_are_pinned() -> None:
    """No image is taken as it happens to be: each has a version."""
    [base] = (line.partition("=")[2] for line in instructions("ARG"))
    for image in [base, *(service["image"] for service in SERVICES.values())]:
        assert re.search(r":[\w.-]+$", image), image
        assert not image.endswith(":latest")


@pytest.mark.parametrize("name", ["serve", "work"])
def test_compose_runs_evp(name: str) -> None:
    """Services are built here, run a command of evp by settings that hold, and have time to end."""
    service = SERVICES[name]
    assert service["build"] == {"context": ".."}
    assert service["command"][0] in COMMANDS
    told = settings(environ_of_image(), environ_of(name))
    assert told.redis_url.startswith(f"redis://{'log' if 'log' in SERVICES else ''}:6379")
    assert told.mongo_url.startswith("mongodb://store:27017")
    assert seconds(service["stop_grace_period"]) >= ends_within_s(told)
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]


def test_compose_is_reached_from_this_machine_only() -> None:
    """Of all services the server alone is reached, on the port that the image listens on."""
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    [port] = instructions("EXPOSE")
    assert ports == {"serve": [f"127.0.0.1:${{EVP_PORT:-{port}}}:{port}"]}


def test_compose_is_healthy_by_the_right_question() -> None:
    """The server asks itself whether it is ready; a worker, on its port, whether it lives."""
    assert SERVICES["serve"]["healthcheck"]["test"] == ["CMD", "evp", "health"]
    told = settings(environ_of_image(), environ_of("work"))
    url = f"http://127.0.0.1:{told.metrics_port}"
    asks = ["evp", "health", "--live", "--url", url]
    assert SERVICES["work"]["healthcheck"]["test"] == ["CMD", *asks]
    assert SERVICES["work"]["deploy"]["replicas"] == 2
    assert LIVE_PATH == "/api/live"


def test_compose_has_a_log_that_evp_accepts() -> None:
    """Its options are those that tests use, and a limit of memory; healthy once it answers."""
    log = SERVICES["log"]
    options = [word for word in LOG_IMAGE.command if word not in {"127.0.0.1", "{port}"}]
    assert set(options) - {"--bind", "--port"} <= set(log["command"])
    assert "--maxmemory" in log["command"]
    assert log["image"] == LOG_IMAGE.name
    assert log["volumes"] == ["log:/data"]


def test_compose_makes_a_replica_set() -> None:
    """The store is started and made a replica set just as the tests' own; clients know its name."""
    store = SERVICES["store"]
    assert store["image"] == STORE_IMAGE.name
    assert store["command"][:3] == list(STORE_IMAGE.command[:3])
    inside = STORE_IMAGE.ready[-1].format(port=27017).replace("127.0.0.1", "store")
    assert store["healthcheck"]["test"] == ["CMD", "mongosh", "--quiet", "--eval", inside]
    assert environ_of("work")["EVP_MONGO_URL"].endswith(f"?replicaSet={store['command'][2]}")


@pytest.mark.parametrize("name", ["serve", "work"])
def test_railway_runs_evp(name: str) -> None:
    """Each service runs its command, by settings that hold, and has time to end well."""
    deploy = RAILWAY[name]["deploy"]
    assert RAILWAY[name]["build"] == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}
    assert deploy["startCommand"] == f"evp {name}"
    assert name in COMMANDS
    given = variables(name)
    serves = name == "serve"
    # Whoever has it may sign anybody's token.
    assert ("EVP_JWT_SECRET" in given, "EVP_JWT_SECRET" in environ_of(name)) == (serves, serves)
    told = settings(environ_of_image(), given, {"RAILWAY_REPLICA_ID": "r1"}, serves=serves)
    assert told.consumer_name == "r1"
    if name == "work":
        assert deploy["drainingSeconds"] >= told.shutdown_timeout_s + ROOM_S
    else:
        assert deploy["drainingSeconds"] >= ends_within_s(told)
    # A string there fails the deployment, whatever the platform's own examples say.
    assert all(isinstance(deploy[key], int) for key in deploy if key.endswith("Seconds"))


def test_railway_asks_for_health() -> None:
    """A server is switched to once it accepts; workers have no port to be asked on."""
    path = RAILWAY["serve"]["deploy"]["healthcheckPath"]
    assert path == "/api/health"
    assert f"GET {path}" in OPERATIONS
    assert "healthcheckPath" not in RAILWAY["work"]["deploy"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_pinned_and_bounded(path: Path) -> None:
    """Actions are named by the hash of a commit, jobs end, and may read the contents alone."""
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: (.+)", text)
    assert used
    assert [one for one in used if not _PINNED.fullmatch(one)] == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
        assert job["runs-on"] == "ubuntu-24.04"


def test_ci_calls_the_makefile() -> None:
    """Every job does what anybody can: it makes targets that there are."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for name, job in CI_CD["jobs"].items():
        lines = [step["run"] for step in job["steps"] if "run" in step]
        assert lines
        for line in lines:
            if name != "gate" and not line.startswith(_SET_UP):
                program, *called = line.split()
                assert program == "make"
                assert set(called) <= targets, name


def test_ci_has_one_gate() -> None:
    """One job tells of all others, also of those that were skipped or cancelled."""
    gate = CI_CD["jobs"]["gate"]
    assert gate["if"] == "always()"
    assert set(gate["needs"]) == set(CI_CD["jobs"]) - {"gate"}


def test_ci_runs_on_what_is_promised() -> None:
    """Every supported log is tested with every supported store, in containers that must be had."""
    job = CI_CD["jobs"]["test-integration"]
    matrix = job["strategy"]["matrix"]
    assert {image.removesuffix("-alpine") for image in matrix["log"]} == LOGS
    assert set(matrix["store"]) == STORES
    assert job["env"] == {
        "EVP_REQUIRE_DOCKER": "1",
        LOG_IMAGE.image_key: "${{ matrix.log }}",
        STORE_IMAGE.image_key: "${{ matrix.store }}",
    }


def test_ci_leaves_no_check_out() -> None:
    """What a missing tool, browser or tag would skip on a desk is an error there."""
    slow, lint = CI_CD["jobs"]["test-slow"], CI_CD["jobs"]["lint"]
    assert slow["env"] == {"EVP_REQUIRE_CHROMIUM": "1", "EVP_REQUIRE_PREVIOUS": "1"}
    # The upgrade is from the last tag: a checkout has none unless it has all of the history.
    assert slow["steps"][0]["with"]["fetch-depth"] == 0
    assert lint["env"] == {"REQUIRE": "1"}


def test_wheel_holds_the_package(tmp_path: Path) -> None:
    """A wheel has every file of evp, pages included, and none of its tests."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = (path.relative_to(ROOT) for path in text_files() if ROOT / "evp" in path.parents)
    assert held == {str(path) for path in here}
