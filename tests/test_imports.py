"""The import chain: a package imports only from its left, and modules of a package never import in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "indexer": {"indexer"},
    "encoder": {"indexer", "encoder"},
    "training": {"indexer", "encoder", "training"},
    "search": {"indexer", "encoder", "search"},
    "benchmarks": {"indexer", "encoder", "training", "search", "benchmarks"},
}
NEVER = {"indexer": {"torch", "transformers", "lightning"}}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_imports_only_from_its_left(package: str) -> None:
    assert modules(package), package
    for path in modules(package):
        roots = {name.split(".")[0] for name in imported_names(path)}
        wrong = (roots & set(MAY_IMPORT)) - MAY_IMPORT[package] | roots & NEVER.get(package, set()) | roots & {"tests"}
        assert not wrong, f"{path} imports {wrong}"


def test_no_module_imports_in_a_circle() -> None:
    known = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
        for package in MAY_IMPORT
        for path in modules(package)
    }
    graph = {
        name: {
            target
            for used in imported_names(path)
            for target in (used, used.rpartition(".")[0])
            if target in known and target != name
        }
        for name, path in known.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError
