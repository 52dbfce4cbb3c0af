"""DESIGN's import rules as tables, held against the code by walking its syntax trees."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import tracebaton

ROOT = Path(tracebaton.__file__).parent

#: From the ground up. A module imports from lower rows only; a package also from within itself.
FLOORS = (
    {
        "aws",
        "boto",
        "errors",
        "events",
        "garbage",
        "protobuf",
        "semconv",
        "redaction",
        "terminal",
        "w3c",
    },
    {"context"},
    {"baggage"},
    {"settings", "propagation", "logs", "metrics", "problems", "audit", "tasks", "traces"},
    {"telemetry", "queue", "local", "viewer"},
    {"http"},
    {"runtime"},
    {"serverless", "registrations"},
    {"application"},
    {"children", "processes"},
    {"crew", "dev", "doctor"},
    {"testing"},
    {"examples"},
    {"cli"},
    {"__main__"},
)
#: What a package may not import although the floors would let it.
CLOSED = {
    "local": ("tracebaton.context", "tracebaton.settings", "tracebaton.tasks"),
    "telemetry": ("tracebaton.queue", "tracebaton.http", "tracebaton.viewer"),
    "viewer": ("tracebaton.queue", "tracebaton.http", "tracebaton.telemetry"),
    "queue": ("tracebaton.http",),
}
#: Libraries, and the only places that may import them (a module, or a package with all below it).
DOORS = {
    "opentelemetry.sdk": ("telemetry", "viewer", "testing"),
    "opentelemetry.exporter": ("telemetry",),
    "sentry_sdk": ("telemetry.sentry",),
    "boto3": ("boto", "queue.sqs", "tasks.dynamodb"),
    "botocore": ("boto", "queue.sqs", "queue.fastpath", "tasks.dynamodb"),
    "types_boto3_sqs": ("queue.sqs",),
    "types_boto3_dynamodb": ("tasks.dynamodb",),
    "starlette": ("http", "viewer", "examples"),
    "opentelemetry.instrumentation.starlette": ("http",),
    "typer": ("cli",),
    "rich": ("cli",),
}
#: The same for what a builtin does, by the name that is called or read.
DEEDS = {
    "print": ("cli",),
    "input": ("cli",),
    "exit": ("cli",),
    "sys.exit": ("cli",),
    "SystemExit": ("cli", "processes"),  # there it is caught: uvicorn raises it
    "os.environ": ("settings.settings",),
    "os.getenv": ("settings.settings",),
    "os.putenv": ("settings.settings",),
}
#: Names that say nothing of what a module is for.
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
#: Imported for a type only: the wiring names what it hands out, `Tracebaton.asgi`.
TYPES_ONLY = {("application", "starlette")}


@dataclass(frozen=True)
class Import:
    """One import of one module."""

    module: str
    target: str
    typing_only: bool


@cache
def modules() -> dict[str, ast.Module]:
    """Return the tree of each of our modules by its dotted name below the package."""
    trees = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(), str(path))
    return trees


def imports(trees: Mapping[str, ast.Module]) -> Iterator[Import]:
    """Yield every import, at the top, inside functions and for types alike."""
    for module, tree in trees.items():
        hidden = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            for target in _targets(node, module, trees):
                yield Import(module, target, id(node) in hidden)


def _targets(node: ast.AST, module: str, trees: Mapping[str, ast.Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module} imports relatively"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            is_ours = whole.removeprefix("tracebaton.") in trees
            yield whole if is_ours else str(node.module)


def below(name: str, place: str) -> bool:
    """Tell whether *name* is *place* or inside it."""
    return name == place or name.startswith(f"{place}.")


def floor(module: str) -> int:
    """Return the number of the row that *module* stands in."""
    room = module.split(".")[0]
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{module} stands on no floor: add it to the table"
    return found[0]


def broken_floors(trees: Mapping[str, ast.Module]) -> list[str]:
    """Return each import that does not point down."""
    broken = []
    for found in imports(trees):
        if not below(found.target, "tracebaton") or found.module == "":
            continue  # the face, `tracebaton` itself, names everyone
        target = found.target.removeprefix("tracebaton").lstrip(".")
        same_room = target.split(".")[0] == found.module.split(".")[0]
        if target == "":
            if floor(found.module) < floor("testing"):
                broken.append(f"{found.module} imports the face")
        elif not same_room and floor(target) >= floor(found.module):
            broken.append(f"{found.module} imports {target}")
    return broken


def broken_doors(trees: Mapping[str, ast.Module]) -> list[str]:
    """Return each import of a library by a module that is not its door, and of a closed package."""
    broken = []
    for found in imports(trees):
        for library, doors in DOORS.items():
            types = found.typing_only and (found.module, library) in TYPES_ONLY
            allowed = types or any(below(found.module, door) for door in doors)
            if below(found.target, library) and not allowed:
                broken.append(f"{found.module} imports {found.target}")
        for room, closed in CLOSED.items():
            if below(found.module, room) and any(below(found.target, one) for one in closed):
                broken.append(f"{found.module} imports {found.target}")
        of_queue = below(found.module, "http") and below(found.target, "tracebaton.queue")
        if of_queue and not below(found.target, "tracebaton.queue.producer"):
            broken.append(f"{found.module} imports {found.target}")
    return broken


def broken_deeds(trees: Mapping[str, ast.Module]) -> list[str]:
    """Return each use of a builtin outside the place it belongs to, and each ``global``."""
    broken = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Global):
                broken.append(f"{module} has a global")
            broken += [
                f"{module} uses {name}"
                for name in _names(node)
                if name in DEEDS and not any(below(module, place) for place in DEEDS[name])
            ]
    return broken


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield f"{node.value.id}.{node.attr}"
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(trees: Mapping[str, ast.Module]) -> list[tuple[str, ...]]:
    """Return the modules that reach themselves through what they import."""
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for found in imports(trees):
        target = found.target.removeprefix("tracebaton").lstrip(".")
        if found.module and target in graph and target != found.module:
            graph[found.module].add(target)
    return [(name,) for name in graph if name in _reachable(graph, name)]


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo.extend(graph[name])
    return seen


def trees_of(**sources: str) -> dict[str, ast.Module]:
    """Return invented modules; ``__`` in a name stands for the dot."""
    return {name.replace("__", "."): ast.parse(source) for name, source in sources.items()}


def test_imports_point_down() -> None:
    """Every import of ours is of a lower floor or of the same package."""

    assert broken_floors(modules()) == []


def test_libraries_have_one_door() -> None:
    """Each library is imported where DESIGN says, and closed packages stay closed."""

    assert broken_doors(modules()) == []


def test_builtins_have_one_place() -> None:
    """The environment, the terminal and the exit belong to one place each; nothing is global."""

    assert broken_deeds(modules()) == []


def test_no_import_circles() -> None:
    """No module reaches itself, not even for a type."""

    assert circles(modules()) == []


def test_no_vague_module_names() -> None:
    """No module is called after nothing in particular."""
    parts = {part for name in modules() for part in name.split(".")}

    assert parts & VAGUE == set()


def test_middleware_is_pure_asgi() -> None:
    """Starlette's BaseHTTPMiddleware loses context variables and is never used."""
    text = "BaseHTTPMiddleware"
    users = [path.name for path in ROOT.rglob("*.py") if text in path.read_text()]

    assert users == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"errors": "from tracebaton import logs"}, "errors imports logs"),
        ({"logs": "def f():\n    import tracebaton.audit"}, "logs imports audit"),
        (
            {"queue__x": "if TYPE_CHECKING:\n    from tracebaton.runtime import Runtime"},
            "queue.x imports runtime",
        ),
        ({"tasks__x": "from tracebaton import Task"}, "tasks.x imports the face"),
    ],
)
def test_an_import_that_points_up_is_found(source: dict[str, str], expected: str) -> None:
    """At the top, in a function and for a type alike."""
    trees = {name: ast.parse("") for name in ("logs", "audit", "runtime")} | trees_of(**source)

    assert broken_floors(trees) == [expected]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("logs", "import sentry_sdk"),
        ("telemetry__pipeline", "from sentry_sdk.scope import Scope"),
        ("queue__worker", "from botocore.exceptions import ClientError"),
        ("queue__worker", "from opentelemetry.sdk.trace import TracerProvider"),
        ("problems", "import starlette.requests"),
        ("runtime", "from starlette.requests import Request"),
        ("viewer__app", "from tracebaton.http.app import create_app"),
        ("http__app", "from tracebaton.queue.worker import Worker"),
    ],
)
def test_a_library_through_the_window_is_found(module: str, line: str) -> None:
    """An import beside the door is one finding."""

    assert len(broken_doors(trees_of(**{module: line}))) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("logs", "print('x')"),
        ("runtime", "import sys\nsys.exit(1)"),
        ("queue__x", "import os\nos.environ['A']"),
        ("queue__x", "from os import getenv"),
        ("queue__x", "def f():\n    global x"),
        ("dev", "raise SystemExit(2)"),
    ],
)
def test_a_deed_in_the_wrong_place_is_found(module: str, line: str) -> None:
    """What belongs to one place is seen in another."""

    assert len(broken_deeds(trees_of(**{module: line}))) == 1


def test_a_circle_is_found() -> None:
    """Three modules in a ring all reach themselves."""
    ring = trees_of(
        a="import tracebaton.b", b="from tracebaton.c import x", c="from tracebaton import a"
    )

    assert circles(ring) == [("a",), ("b",), ("c",)]
