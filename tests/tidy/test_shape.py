"""Sizes, names, docstrings: what keeps every page of the code readable."""

from __future__ import annotations

import ast
import re

from evp import errors, limits
from tests.tidy.source import Function, Module, constants, functions, imports, modules

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 8
DOCUMENTED_SHARE_MIN = 0.85

ENTRY_POINTS = ("evp.__main__", "evp.engines.tether")
"""What is started by name: by `python -m evp`, and by `evp.supervise` around every child."""

DURATIONS = frozenset((
    "age", "backoff", "deadline", "delay", "elapsed", "expiry", "grace", "idle", "interval",
    "latency", "lease", "lifetime", "pause", "period", "silent", "timeout", "ttl", "uptime", "wait",
))  # fmt: skip
UNITS = frozenset(("s", "ms", "us", "ns", "bytes", "chars", "events", "frames"))

EVERYWHERE = [module for folder in ("evp", "scripts", "tests") for module in modules(folder)]


def parameters(function: Function) -> list[ast.arg]:
    """Return what a caller gives."""
    given = function.args
    return [
        one
        for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)
        if one.arg not in {"self", "cls"}
    ]


def public_functions(module: Module) -> list[Function]:
    """Return functions and methods that others may call: not those within functions."""
    bodies = [module.tree.body]
    bodies += [node.body for node in module.tree.body if isinstance(node, ast.ClassDef)]
    found = [node for body in bodies for node in body if isinstance(node, Function)]
    return [one for one in found if not one.name.startswith("_")]


def is_number(annotation: ast.expr | None) -> bool:
    """Return True for int and float, also where None is allowed."""
    words = set(re.findall(r"\w+", ast.unparse(annotation))) if annotation else set()
    return bool(words & {"int", "float"}) and words <= {"int", "float", "None", "Optional", "Final"}


def is_numeric(value: ast.expr) -> bool:
    """Return True for a number, and for a sum or product of numbers and names."""
    leaves = [node for node in ast.walk(value) if isinstance(node, ast.Constant | ast.Call)]
    return bool(leaves) and all(
        isinstance(leaf, ast.Constant) and type(leaf.value) in {int, float} for leaf in leaves
    )


def lacks_unit(name: str) -> bool:
    """Return True for the name of a duration that doesn't say what it is counted in."""
    words = set(name.lower().split("_"))
    return bool(words & DURATIONS) and not words & UNITS


def test_modules_are_short() -> None:
    """A file has at most 400 lines; those of tests may have long tables of cases."""
    files = [*modules("evp"), *modules("scripts")]
    lines = {module.name: len(module.text.splitlines()) for module in files}
    assert {name: count for name, count in lines.items() if count > MODULE_LINES_MAX} == {}


def test_constants_are_set_once() -> None:
    """A name at a module's top stands for one thing: a second one would win without a word."""
    twice = []
    for module in EVERYWHERE:
        seen: set[str] = set()
        for name, _ in constants(module):
            twice += [f"{module.at(name)} {name.id}"] if name.id in seen else []
            seen.add(name.id)
    assert twice == []


def test_functions_are_short() -> None:
    """A function has at most 70 lines, its docstring apart."""
    long = []
    for module in EVERYWHERE:
        for function in functions(module):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if ast.get_docstring(function) is not None:
                docstring = function.body[0]
                lines -= (docstring.end_lineno or 0) - docstring.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                long.append(f"{module.at(function)} {function.name}: {lines} lines")
    assert long == []


def test_functions_take_few_parameters() -> None:
    """A function takes at most eight; only commands have more, since theirs are flags."""
    many = [
        f"{module.at(function)} {function.name}"
        for module in modules()
        if module.part != "cli"
        for function in functions(module)
        if len(parameters(function)) > PARAMETERS_MAX
    ]
    assert many == []


def test_modules_and_classes_say_what_they_are() -> None:
    """Every module and every public class has a docstring; a file without a line needs none."""
    silent = [one.name for one in EVERYWHERE if one.text and not ast.get_docstring(one.tree)]
    silent += [
        f"{module.at(node)} {node.name}"
        for module in EVERYWHERE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_functions_say_what_they_do() -> None:
    """At least 85 of 100 public functions and methods have a docstring."""
    found = [one for module in modules() for one in public_functions(module)]
    documented = [one for one in found if ast.get_docstring(one)]
    assert len(documented) >= DOCUMENTED_SHARE_MIN * len(found)


def test_nothing_is_put_off() -> None:
    """What is to be done is done, or written where work is planned."""
    word = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert [module.name for module in EVERYWHERE if word.search(module.text)] == []


def test_no_except_is_bare() -> None:
    """An `except` says what it catches."""
    bare = [
        module.at(node)
        for module in EVERYWHERE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_durations_say_their_unit() -> None:
    """Parameters, fields and constants that are durations have _s, _ms or so in their names."""
    found: list[tuple[Module, ast.arg | ast.expr, str]] = []
    for module in EVERYWHERE:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.arg) and is_number(node.annotation):
                found.append((module, node, node.arg))
            elif isinstance(node, ast.AnnAssign) and is_number(node.annotation):
                found.append((module, node.target, ast.unparse(node.target).rpartition(".")[2]))
        for target, value in constants(module):
            if is_numeric(value):
                found.append((module, target, target.id))
    assert len(found) > 100
    assert [f"{module.at(node)} {name}" for module, node, name in found if lacks_unit(name)] == []


def test_no_module_is_dead() -> None:
    """Every file is reached from an entry point by way of imports."""
    by_name = {module.name: module for module in modules()}
    reached: set[str] = set()
    waiting = list(ENTRY_POINTS)
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in reached:
            reached.add(name)
            waiting += [one.target for one in imports(by_name[name])]
            waiting.append(name.rpartition(".")[0])
    assert set(by_name) - reached == set()
    assert ENTRY_POINTS[1] in strings(by_name["evp.supervise"])


def test_every_limit_is_used() -> None:
    """A limit that nothing keeps would be a promise only."""
    assert {name for name in vars(limits) if name.isupper()} - names_read() == set()


def test_every_exit_code_is_used() -> None:
    """A command can end with each of the exit codes."""
    assert {name for name in vars(errors) if name.startswith("EXIT_")} - names_read() == set()


def test_every_error_is_raised_or_has_kinds() -> None:
    """Each class of the error tree is used outside of it, or is the base of others."""
    classes = {name: one for name, one in vars(errors).items() if isinstance(one, type)}
    bases = {base.__name__ for one in classes.values() for base in one.__bases__}
    assert {name for name, one in classes.items() if issubclass(one, Exception)} <= (
        names_read(but="errors") | bases
    )


def test_every_error_code_is_raised() -> None:
    """A code that stands in the table can be met, and a code that is raised stands there."""
    told = set().union(*(strings(module) for module in modules() if module.part != "errors"))
    assert set(errors.STATUS_BY_CODE) - told == set()
    raised = {
        node.args[0].value
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal"
        if isinstance(node.args[0], ast.Constant)
    }
    assert len(raised) > 10
    assert raised <= set(errors.STATUS_BY_CODE)


def strings(module: Module) -> set[str]:
    """Return the texts in a module."""
    constants_ = (node for node in ast.walk(module.tree) if isinstance(node, ast.Constant))
    return {node.value for node in constants_ if isinstance(node.value, str)}


def names_read(but: str | None = None) -> set[str]:
    """Return the names that evp uses; where they are only set or imported does not count."""
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for module in modules()
        if module.part != but
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
