"""Imports point downwards between the parts of the package, and modules do not import one another in circles."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import fairchem_hdgnn

ROOT = Path(fairchem_hdgnn.__file__).parent
FOUNDATION = {"errors", "files", "schema", "hyperparameters"}
MAY_IMPORT = {
    "models": FOUNDATION,
    "data": FOUNDATION,
    "host": {"models", "data"} | FOUNDATION,
    "checks": {"models", "data", "host"} | FOUNDATION,
    "convert": {"models", "host"} | FOUNDATION,
    "evaluation": {"models", "data", "host"} | FOUNDATION,
    "cli": {"models", "data", "host", "checks", "convert", "evaluation"} | FOUNDATION,
}
"""For each part, the others that it may import; nothing imports ``cli``."""

WITHOUT = {
    "models": ("fairchem", "ase", "lmdb", "torch_geometric"),
    "data": ("fairchem",),
    **dict.fromkeys(FOUNDATION, ("fairchem", "torch")),
}
"""What a part never imports."""

LONGEST = 350
"""Lines of a module."""


def modules() -> dict[str, Path]:
    """Dotted name of each module below the package -> its file."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
        if path != ROOT / "__init__.py"
    }


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_modules(path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """The same, for modules of this package."""
    for line, name in imports_of(path):
        inner = name.removeprefix("fairchem_hdgnn.")
        if inner != name:
            yield line, inner if inner in known else inner.rpartition(".")[0]


def test_imports_point_downwards() -> None:
    known, wrong = modules(), []
    for name, path in known.items():
        part = name.split(".")[0]
        for line, other in imported_modules(path, known):
            target = other.split(".")[0]
            if part in MAY_IMPORT and target != part and target not in MAY_IMPORT[part]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert not wrong, wrong
    assert {name.split(".")[0] for name in known} == set(MAY_IMPORT) | FOUNDATION


def test_no_module_imports_itself_through_others() -> None:
    known = modules()
    graph = {name: {other for _, other in imported_modules(path, known) if other} for name, path in known.items()}
    # A package's own file may gather what its modules define.
    for name, others in graph.items():
        others -= {name.rpartition(".")[0]}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_only_the_host_knows_fairchem() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for name, path in modules().items()
        for line, other in imports_of(path)
        if other.split(".")[0] in WITHOUT.get(name.split(".")[0], ())
    ]
    assert not wrong, wrong


HOSTS = ("host.fairchem1", "host.fairchem2")
CHOOSE = {"host.opening", "host.generations"}
"""These take the module of the fairchem that is installed."""


def test_hosts_know_nothing_of_one_another() -> None:
    """Nor does what they share know either, or fairchem."""
    known, wrong = modules(), []
    for name, path in known.items():
        host = next((folder for folder in HOSTS if name.startswith(folder)), None)
        if name in CHOOSE or (host is None and name.split(".")[0] != "host"):
            continue
        barred = [folder for folder in HOSTS if folder != host]
        for line, other in imports_of(path):
            inner = other.removeprefix("fairchem_hdgnn.")
            if inner.startswith(tuple(barred)) or (host is None and other.split(".")[0] == "fairchem"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert not wrong, wrong


def test_no_module_is_long() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules().values()}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST}
