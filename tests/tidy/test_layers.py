"""Who may import whom: downward only, never in a circle, each library in its place."""

from __future__ import annotations

import ast
import graphlib
import sys

import pytest

from tests.tidy.source import Import, Module, imports, modules

LAYERS: tuple[tuple[str, str], ...] = (
    ("words: they import nothing but each other", "errors limits clock events naming scopes"),
    (
        "no I/O of their own",
        (
            "identity log_address logs settings api_keys passwords codec cloudevents diagnosis "
            "documents sift frame plain fingerprint receipt"
        ),
    ),
    ("rules of batches, no I/O either", "batch"),
    ("this machine: files, signals, memory", "running configuration signals machine metrics"),
    ("adapters: one for each other side", "stream storage http"),
    ("what several services use", "groups dlq client partitions"),
    (
        "services",
        (
            "balance server worker keybook state looks stats history verify sender demo erasure "
            "loadtest users tap trace"
        ),
    ),
    ("looks at all of it", "doctor drill"),
    ("processes", "supervise engines"),
    ("views: structs in, renderables out", "views"),
    ("the edge", "cli"),
    ("python -m evp", "__main__"),
)
"""From the lowest to the highest. `evp` itself holds the version alone and is a word."""

LAYERS_WITHOUT_IO = 3

APART = (("stream", "storage"), ("server", "worker"))

HOMES: dict[str, str] = {
    "argon2": "passwords",
    "backports": "server",
    "bson": "documents frame plain batch storage verify tap trace engines",
    "hdrh": "loadtest",
    "httptools": "server loadtest",
    "httpx2": "http",
    "jwt": "server",
    "litestar": "server",
    "msgspec": "*",
    "prometheus_client": "metrics",
    "psutil": "running machine stream worker drill",
    "pymongo": "storage",
    "redis": "stream",
    "rich": "views cli",
    "structlog": "logs",
    "typer": "cli",
    "uvicorn": "server",
    "uvloop": "cli loadtest",
}
"""The parts that may import a library. `bson` is a codec: its types are those of documents."""

IO = {"asyncio", "os", "psutil", "signal", "socket", "subprocess", "threading", "tomllib"}

NO_IO_ALTHOUGH = {
    ("evp.identity", "os"): "its ids are random",
    ("evp.batch.retry", "asyncio"): "it waits as long as it said, or for an event it is given",
}

LATE_ALTHOUGH = {
    "evp": "it loads the clients when somebody asks for one",
    "evp.cli.context": "it serves every command, and hardly one needs all that it imports",
}
"""Modules that are no command and import in functions."""

OFFERED = ["evp.client.async_client", "evp.client.sync_client", "importlib"]
"""What `evp` itself imports: the first two for type checkers alone, and by name when asked for."""

LAYER = {part: number for number, (_, parts) in enumerate(LAYERS) for part in parts.split()}
LAYER[""] = 0

BY_NAME = {module.name: module for module in modules()}
ALL = [(module, one) for module in modules() for one in imports(module)]
INNER = [(module, one) for module, one in ALL if one.library == "evp" and module.name != "evp"]
OUTER = [
    (module, one)
    for module, one in ALL
    if one.library != "evp" and one.library not in sys.stdlib_module_names
]


def told(found: list[tuple[Module, Import]]) -> list[str]:
    """Return imports as lines that an editor can jump to."""
    return [f"{module.at(one.node)} {'.'.join((one.target, *one.names))}" for module, one in found]


def test_every_module_has_a_layer() -> None:
    """The table of layers names every module and package below evp, and nothing else."""
    assert {module.part for module in modules()} == set(LAYER)


def test_imports_go_downward() -> None:
    """A module imports lower layers, its own package, and plain modules of its own layer."""

    def downward(module: Module, target: Module) -> bool:
        if LAYER[target.part] == LAYER[module.part]:
            return target.part == module.part or target.name == f"evp.{target.part}"
        return LAYER[target.part] < LAYER[module.part]

    wrong = [(module, one) for module, one in INNER if not downward(module, BY_NAME[one.target])]
    assert told(wrong) == []


def test_there_is_no_circle() -> None:
    """No module imports itself, by however many steps; imports for types alone count as well."""
    graph: dict[str, set[str]] = {}
    for module, one in INNER:
        graph.setdefault(module.name, set()).add(one.target)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("pair", APART)
def test_neighbours_do_not_know_each_other(pair: tuple[str, str]) -> None:
    """Log and store, server and worker: what needs both stands above them."""
    both = set(pair)
    wrong = [
        (module, one) for module, one in INNER if {module.part, BY_NAME[one.target].part} == both
    ]
    assert told(wrong) == []


def test_packages_import_nothing() -> None:
    """No `__init__` imports anything: `import evp.stream.keys` runs that module alone."""
    found = [(module, one) for module, one in ALL if module.path.name == "__init__.py"]
    assert [one.target for module, one in found if module.part == ""] == OFFERED
    assert told([(module, one) for module, one in found if module.part != ""]) == []


def test_no_import_is_relative() -> None:
    """Each import says from where."""
    wrong = [
        (module, one)
        for module, one in ALL
        if isinstance(one.node, ast.ImportFrom) and one.node.level
    ]
    assert told(wrong) == []


def test_libraries_stay_at_home() -> None:
    """A library is imported where the table says, and one that the table lacks nowhere."""
    wrong = [
        (module, one)
        for module, one in OUTER
        if not {"*", module.part} & set(HOMES.get(one.library, "").split())
    ]
    assert told(wrong) == []


def test_no_home_is_empty() -> None:
    """The table allows no more than is used."""
    used = {(one.library, home) for module, one in OUTER for home in (module.part, "*")}
    assert {(name, home) for name, homes in HOMES.items() for home in homes.split()} <= used


def test_lower_layers_do_no_io() -> None:
    """What only computes neither waits nor talks, and looks at no file."""
    found = [
        (module, one)
        for module, one in ALL
        if LAYER[module.part] < LAYERS_WITHOUT_IO and one.library in IO
    ]
    wrong = [pair for pair in found if (pair[0].name, pair[1].target) not in NO_IO_ALTHOUGH]
    assert told(wrong) == []
    assert {(module.name, one.target) for module, one in found} == set(NO_IO_ALTHOUGH)


def test_views_take_structs() -> None:
    """Of what lies below them, views import structs and words: they look nothing up."""

    def structs(module: Module) -> set[str]:
        classes = [node for node in module.tree.body if isinstance(node, ast.ClassDef)]
        return {one.name for one in classes if "Struct" in map(ast.unparse, one.bases)}

    wrong = [
        (module, one)
        for module, one in INNER
        if module.part == "views"
        and BY_NAME[one.target].part != "views"
        and LAYER[BY_NAME[one.target].part] > 0
        and not (one.names and set(one.names) <= structs(BY_NAME[one.target]))
    ]
    assert told(wrong) == []


def test_environment_is_read_at_the_edge() -> None:
    """Only cli/ looks at the process's environment; everything else is given its settings."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv"}
    inner = [module for module in modules() if module.part != "cli"]
    read = [
        module.at(node)
        for module in inner
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and ast.unparse(node.value) == "os"
    ]
    assert read == []
    wrong = [(module, one) for module, one in ALL if module in inner and names & set(one.names)]
    assert told(wrong) == []


def test_imports_stand_at_the_top() -> None:
    """Only commands import in their bodies, so that `--help` stays quick."""
    commands = {module.name for module, one in OUTER if one.library == "typer"}
    late = [pair for pair in ALL if pair[1].function and pair[0].name not in commands]
    assert told([pair for pair in late if pair[0].name not in LATE_ALTHOUGH]) == []
    assert {module.name for module, _ in late} == set(LATE_ALTHOUGH)
