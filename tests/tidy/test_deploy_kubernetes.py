"""What the Helm chart and the systemd units say of evp is so: commands, settings, ports, times."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import evp
from evp.configuration import load
from evp.errors import EXIT_FINDING, EXIT_USAGE
from evp.limits import PROVISION_STEP_S_MAX
from evp.log_address import SCHEMES
from evp.metrics import port as metrics_port
from evp.server.operations import OPERATIONS
from evp.settings import ROWS, Settings
from tests.tidy.named import COMMANDS
from tests.tidy.source import ROOT
from tests.tidy.test_alarms import METRIC, alarms

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "evp"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
VALUE_SETS = sorted((CHART / "ci").glob("*-values.yaml"))
KEYS = {row.key for row in ROWS}
ADDRESSES = {"EVP_REDIS_URL": "redis://log:6379/0", "EVP_MONGO_URL": "mongodb://store:27017"}
SECRETS = ADDRESSES | {"EVP_JWT_SECRET": "0123456789abcdef" * 4}
#: What a process may take besides its own times: to start the end, to write its last lines.
LEEWAY_S = 5

TOOLS = f"{os.environ.get('PATH', '')}{os.pathsep}{ROOT / '.bench' / 'deploy' / 'bin'}"
HELM = shutil.which("helm", path=TOOLS)
with_helm = pytest.mark.skipif(HELM is None, reason="helm is not here; `make lint-deploy` has it")


def sets(*values: str) -> list[str]:
    """Return values for the chart as flags of helm."""
    return [part for value in values for part in ("--set", value)]


def documents(path: Path) -> list[Any]:
    """Return what is in a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def parse(command: list[str]) -> None:
    """Parse a command line of evp, as evp does, and run nothing. Fails if there is no such one."""
    name, *arguments = command
    one = COMMANDS[f"evp {name}"]
    one.make_context(name, list(arguments)).close()


def settings_of(command: str, environ: Mapping[str, str], tmp_path: Path) -> Settings:
    """Return what a command makes of an environment; fails if it would not start."""
    assert set(environ) <= KEYS
    return load(environ, {}, cwd=tmp_path, serves=command == "serve").settings


def test_generated_files_are_new(tmp_path: Path) -> None:
    """`make docs` would change nothing below deploy/."""
    made = tmp_path / "deploy"
    shutil.copytree(DEPLOY, made)
    command = [sys.executable, str(ROOT / "scripts" / "deploy.py"), str(made)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    for path in filter(Path.is_file, made.rglob("*")):
        before = DEPLOY / path.relative_to(made)
        assert path.read_bytes() == before.read_bytes(), f"{before} is old: run `make docs`"


# -- the chart, as it is written --


def leaves(values: Any, schema: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Give each value with what the schema says of it."""
    if isinstance(values, dict) and "properties" in schema:
        assert set(values) == set(schema["properties"]) - {"global"}, path
        for key, value in values.items():
            yield from leaves(value, schema["properties"][key], f"{path}.{key}".lstrip("."))
    else:
        yield path, values, schema


def test_every_value_is_in_the_schema_and_told() -> None:
    """A value stands in values.yaml, in its schema, and in the chart's README."""
    (values,) = documents(CHART / "values.yaml")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([\w.]+)` \|", readme, re.MULTILINE)
    assert [path for path, _, _ in leaves(values, schema)] == told


def test_chart_has_the_version_of_evp() -> None:
    """The chart is released with evp."""
    (chart,) = documents(CHART / "Chart.yaml")
    assert chart["version"] == chart["appVersion"] == evp.__version__


def test_templates_name_settings_and_commands() -> None:
    """Also what no set of values renders names only what there is; so do the pages about it."""
    pages = [CHART / "README.md", CHART / "values.yaml", ROOT / "docs" / "DEPLOY.md"]
    paths = [*CHART.rglob("templates/**/*.*"), *pages]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)
    assert set(re.findall(r"EVP_[A-Z_]+", text)) <= KEYS
    commands = re.findall(r"\bargs: \[(\w+)", text) + re.findall(r"-- evp (\w+)", text)
    assert {"serve", "work", "init", "verify", "health", "doctor"} <= set(commands)
    assert {f"evp {name}" for name in commands} <= set(COMMANDS)


# -- the chart, rendered --


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Render the chart."""
    command = [str(HELM), "template", "evp", str(CHART), "--kube-version", "1.31.0", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module", params=VALUE_SETS, ids=lambda path: path.name)
def rendered(request: pytest.FixtureRequest) -> list[Any]:
    """All objects of the chart with one set of values."""
    done = helm("-f", str(request.param))
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def pods(rendered: list[Any]) -> Iterator[tuple[str, Any]]:
    """Give each template of a pod with the kind of what makes it."""
    for one in rendered:
        spec = one.get("spec", {})
        if one["kind"] == "Pod":
            yield "Pod", one
        elif one["kind"] == "CronJob":
            yield "CronJob", spec["jobTemplate"]["spec"]["template"]
        elif one["kind"] in {"Deployment", "Job"}:
            yield one["kind"], spec["template"]


def environ_of(container: Any) -> dict[str, str]:
    """Return the environment of a container, with the secrets that it is given."""
    environ = {one["name"]: one.get("value", "") for one in container["env"]}
    assert len(environ) == len(container["env"]), "a variable is there twice"
    given = {name: value for name, value in SECRETS.items() if name in environ}
    # Whoever has the secret of tokens may be anybody: it is the servers' alone.
    assert set(SECRETS) - set(given) == (set() if serves(container) else {"EVP_JWT_SECRET"})
    return environ | {"EVP_CONSUMER_NAME": "evp-worker-5d9c-x7"} | given


def serves(container: Any) -> bool:
    """Return True for a container that runs `evp serve`."""
    return bool(container["args"][0] == "serve")


@with_helm
def test_evp_starts_with_what_pods_give_it(rendered: list[Any], tmp_path: Path) -> None:
    """Commands and settings of all pods are evp's; ports and grace periods are those of both."""
    for kind, pod in pods(rendered):
        (container,) = pod["spec"]["containers"]
        parse(container["args"])
        settings = settings_of(container["args"][0], environ_of(container), tmp_path)
        assert (settings.env, settings.host) == ("production", "0.0.0.0")
        assert str(settings.data_dir).startswith("/tmp/")
        if kind != "Deployment":
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        http, metrics = {"http": settings.port}, {"metrics": settings.metrics_port}
        assert ports == (http if serves(container) else metrics)
        assert pod["metadata"]["annotations"]["prometheus.io/port"] in map(str, ports.values())
        assert pod["metadata"]["annotations"]["prometheus.io/path"] == metrics_port.PATH
        drain_s = settings.drain_delay_ms / 1000 if serves(container) else 0
        needed_s = drain_s + settings.shutdown_timeout_s + LEEWAY_S
        assert needed_s <= pod["spec"]["terminationGracePeriodSeconds"] <= needed_s + LEEWAY_S


@with_helm
def test_each_part_may_have_a_secret_of_its_own() -> None:
    """So each has the rights it needs in log and store; where none is named it has that of all."""
    own = ("server", "worker", "init", "verify")
    values = [f"{name}.existingSecret={name}" for name in own]
    done = helm(*sets("existingSecret=all", "verify.enabled=true", *values))
    assert done.returncode == 0, done.stderr
    made = [one for one in yaml.safe_load_all(done.stdout) if one]
    named = {}
    for _, pod in pods(made):
        (container,) = pod["spec"]["containers"]
        secrets = [one["valueFrom"] for one in container["env"] if "valueFrom" in one]
        names = {one["secretKeyRef"]["name"] for one in secrets if "secretKeyRef" in one}
        named[container["name"]] = names
    assert named == {name: {name} for name in own} | {"health": {"server"}}


@with_helm
def test_job_of_init_may_take_as_long_as_an_index() -> None:
    """Kubernetes does not end `evp init` while evp itself would wait on."""
    done = helm("-f", str(CHART / "ci" / "least-values.yaml"), "-s", "templates/init.yaml")
    assert yaml.safe_load(done.stdout)["spec"]["activeDeadlineSeconds"] > PROVISION_STEP_S_MAX


@with_helm
def test_workers_can_be_upgraded_first() -> None:
    """As the README has it: the hook and the workers are new, servers wait for the second step."""
    first = helm(*sets("existingSecret=evp", "server.imageTag=0.1.0", "image.tag=0.2.0"))
    images = {
        container["name"]: container["image"].partition(":")[2]
        for _, pod in pods([one for one in yaml.safe_load_all(first.stdout) if one])
        for container in pod["spec"]["containers"]
    }
    assert images == {"init": "0.2.0", "worker": "0.2.0", "server": "0.1.0", "health": "0.1.0"}


@with_helm
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_address_of_a_log_is_taken(scheme: str) -> None:
    """A cluster and Sentinels too, with TLS and without."""
    secrets = (f"secrets.redisUrl={scheme}://a:1", "secrets.mongoUrl=mongodb://b")
    done = helm(*sets(*secrets, f"secrets.jwtSecret={'s' * 32}"))
    assert done.returncode == 0, done.stderr


@with_helm
def test_probes_ask_for_what_is_answered(rendered: list[Any]) -> None:
    """Probes go to paths that there are; none of them depends on the store."""
    for kind, pod in pods(rendered):
        (container,) = pod["spec"]["containers"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(name, {}).get("httpGet")
            if kind != "Deployment" or probe is None:
                assert name == "readinessProbe" or kind != "Deployment"
            elif probe["port"] == "http":
                assert f"GET {probe['path']}" in OPERATIONS
                assert probe["path"] == ("/api/ready" if name[0] == "r" else "/api/live")
            else:
                assert (probe["port"], probe["path"]) == ("metrics", metrics_port.LIVE_PATH)


@with_helm
def test_pods_may_do_little(rendered: list[Any]) -> None:
    """Every pod meets the restricted standard, writes to /tmp alone, and has no token."""
    for _, pod in pods(rendered):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        # A service named evp would set EVP_PORT=tcp://… otherwise.
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@with_helm
def test_selectors_find_their_pods(rendered: list[Any]) -> None:
    """What chooses pods chooses those of its own component, by ports that they have."""
    by_component = {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]
        for one in rendered
        if one["kind"] == "Deployment"
    }
    assert set(by_component) == {"server", "worker"}
    for one in rendered:
        if one["kind"] not in {"Deployment", "PodDisruptionBudget", "Service", "PodMonitor"}:
            continue
        deployment = by_component[one["metadata"]["labels"]["app.kubernetes.io/component"]]
        labels = deployment["template"]["metadata"]["labels"]
        selector = one["spec"]["selector"]
        wanted = selector if one["kind"] == "Service" else selector["matchLabels"]
        assert wanted.items() <= labels.items()
        assert wanted["app.kubernetes.io/component"] == labels["app.kubernetes.io/component"]
    names = {one["metadata"]["name"] for one in rendered if one["kind"] == "Deployment"}
    for one in rendered:
        target = one.get("spec", {}).get("scaleTargetRef")
        if target:
            assert target["name"] in names


@with_helm
def test_who_is_scaled_has_no_number_of_its_own(rendered: list[Any]) -> None:
    """A deployment that something scales is not set back by each upgrade."""
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]
        for one in rendered
        if one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    }
    for one in rendered:
        if one["kind"] == "Deployment":
            assert ("replicas" in one["spec"]) == (one["metadata"]["name"] not in scaled)
            assert one["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@with_helm
def test_rules_of_a_release_look_at_it_alone() -> None:
    """Several evps in a Prometheus don't hide each other: alarms choose by namespace."""
    values = CHART / "ci" / "all-values.yaml"
    done = helm("-n", "prod", "-f", str(values), "-s", "templates/metrics.yaml")
    found = [one for one in yaml.safe_load_all(done.stdout) if one["kind"] == "PrometheusRule"]
    made = [rule for group in found[0]["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in made] == [rule["alert"] for rule in alarms()]
    for rule, before in zip(made, alarms(), strict=True):
        metrics = METRIC.findall(rule["expr"])
        assert [name for name, _ in metrics] == [name for name, _ in METRIC.findall(before["expr"])]
        assert all(labels.startswith('namespace="prod"') for _, labels in metrics), rule["expr"]
        assert rule["labels"] == before["labels"] | {"namespace": "prod"}
        runbook = before["annotations"]["runbook_url"]
        assert (
            rule["annotations"]["runbook_url"] == f"https://git.example.com/evp/blob/main/{runbook}"
        )


@with_helm
def test_jobs_are_not_repeated_in_vain(rendered: list[Any]) -> None:
    """A finding or a wrong setting fails a job at once; an engine that is away is tried again."""
    jobs = [one for one in rendered if one["kind"] in {"Job", "CronJob"}]
    assert jobs
    for one in jobs:
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
        (rule,) = spec["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob"
        assert rule["onExitCodes"]["values"] == [EXIT_FINDING, EXIT_USAGE]
        assert spec["backoffLimit"] > 0


@with_helm
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("existingSecret=evp", "settings.EVP_MONGO_DBB=x"), "EVP_MONGO_DBB"),
        (("existingSecret=evp", "settings.EVP_PORT=80"), "EVP_PORT"),
        (("existingSecret=evp", "settings.EVP_READ_COUNT=7"), "EVP_READ_COUNT"),
        (("existingSecret=evp", "secrets.redisUrl=redis://x"), "exclude each other"),
        (("existingSecret=evp", "replica=3"), "replica"),
        (("existingSecret=evp", f"image.digest=sha256:{'0' * 64}", "image.tag=a"), "image.tag"),
        (("secrets.jwtSecret=short",), "32 bytes"),
        ((f"secrets.jwtSecret={SECRETS['EVP_JWT_SECRET']}",), "secrets.redisUrl"),
    ],
)
def test_values_that_make_no_sense(values: tuple[str, ...], said: str) -> None:
    """They are refused before anything is changed, and named."""
    done = helm(*sets(*values))
    assert done.returncode != 0
    assert said in done.stderr


# -- systemd --


def unit(path: Path) -> dict[str, list[str]]:
    """Return all settings of a unit, by name, in their order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def environ_of_unit(settings: Mapping[str, list[str]]) -> dict[str, str]:
    """Return what a unit puts into the environment, for instance 1 on a host."""
    pairs = " ".join(settings["Environment"]).replace("%H", "host").replace("%i", "1").split()
    return dict(pair.split("=", 1) for pair in pairs)


def environ_of_files(*names: str) -> dict[str, str]:
    """Return what the examples of environment files set; a file without an example sets nothing."""
    examples = [DEPLOY / "systemd" / f"{name}.example" for name in names]
    texts = [path.read_text(encoding="utf-8") for path in examples if path.exists()]
    return dict(re.findall(r"^(EVP_\w+)=(.*)$", "".join(texts), re.MULTILINE))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_evp_starts_with_what_units_give_it(path: Path, tmp_path: Path) -> None:
    """Commands and settings of the units are evp's; they wait as long as its end takes."""
    found = unit(path)
    program, *command = found["ExecStart"][0].split()
    assert Path(program).name == "evp"
    parse(command)
    files = [Path(name.removeprefix("-")).name for name in found["EnvironmentFile"]]
    assert files == ["evp.env", f"{command[0]}.env"]
    given = environ_of_unit(found) | environ_of_files(*files) | ADDRESSES
    assert given.get("EVP_JWT_SECRET") == ("" if command[0] == "serve" else None)
    secret = SECRETS if command[0] == "serve" else {}
    settings = settings_of(command[0], given | secret, tmp_path)
    assert settings.env == "production"
    assert str(settings.data_dir) == f"/var/lib/{found['StateDirectory'][0]}"
    if found["Type"] == ["oneshot"]:
        assert found["RestartPreventExitStatus"] == [f"{EXIT_FINDING} {EXIT_USAGE}"]
        return
    needed_s = settings.drain_delay_ms / 1000 + settings.shutdown_timeout_s + LEEWAY_S
    assert needed_s <= int(found["TimeoutStopSec"][0]) <= needed_s + LEEWAY_S
    assert found["RestartPreventExitStatus"] == [str(EXIT_USAGE)]
    # With control-group each process would be told twice, and the second time urges.
    assert found["KillMode"] == ["mixed"]


def test_units_are_closed_alike() -> None:
    """All units have one and the same sandbox."""

    def sandbox(path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        return text.partition("# One user")[2].partition("[Install]")[0].strip()

    assert len({sandbox(path) for path in UNITS}) == 1
    assert "ProtectSystem=strict" in sandbox(UNITS[0])


def test_names_of_workers_and_their_ports(tmp_path: Path) -> None:
    """Instances have names and ports of their own."""
    found = unit(DEPLOY / "systemd" / "evp-work@.service")
    settings = settings_of("work", environ_of_unit(found) | ADDRESSES, tmp_path)
    assert (settings.consumer_name, settings.metrics_port) == ("host-1", 9461)
