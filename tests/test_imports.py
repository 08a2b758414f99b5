"""The import chain: packages, and rooms within a package, import only from those before them, and never in a circle."""

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
# Pillow reads what photos say of themselves, and nothing else down there.
ONLY_IN = {"PIL": {"indexer": "photos"}}
# Rooms in order: modules of one import only from those before it, and from one another. Modules that lie in no folder
# are named; the others are rooms with all that is below them.
ROOMS = {
    "indexer": [
        {"errors", "paper", "choices"},
        *({room} for room in ("disk", "earth", "jobs", "photos", "cells", "vectors", "bundles")),
        {"cli", "commands", "registry_commands", "__main__", "__init__"},
    ],
    "encoder": [
        {"config", "bad_images", "prompts"},
        *({room} for room in ("class_maps", "photos", "models")),
        {"encode", "embedding", "segmenting", "texts", "commands", "__main__", "__init__"},
    ],
    "training": [
        {"config"},
        *({room} for room in ("photos", "cells", "runs", "adopted")),
        {
            "fitting",
            "checking",
            "refitting",
            "adopting",
            "naming",
            "commands",
            "adopt_commands",
            "__main__",
            "__init__",
        },
    ],
    "search": [
        *({room} for room in ("retrieval", "answers", "evaluation", "calibration", "pages", "runs")),
        {
            "commands",
            "evaluating",
            "evaluation_commands",
            "locate",
            "service",
            "serve_commands",
            "__main__",
            "__init__",
        },
    ],
}


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


@pytest.mark.parametrize(("library", "package"), [(name, home) for name, homes in ONLY_IN.items() for home in homes])
def test_some_libraries_stay_in_one_room(library: str, package: str) -> None:
    users = {path for path in modules(package) if library in {name.split(".")[0] for name in imported_names(path)}}
    rooms = {path.relative_to(ROOT / package).parts[0] for path in users}
    assert rooms == {ONLY_IN[library][package]}, users


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_rooms_import_only_from_rooms_before_them(package: str) -> None:
    floor = {name: number for number, names in enumerate(ROOMS[package]) for name in names}
    home = ROOT / package
    assert {path.relative_to(home).parts[0].removesuffix(".py") for path in modules(package)} == set(floor)
    for path in modules(package):
        own = path.relative_to(home).parts[0].removesuffix(".py")
        inside = (name.split(".") for name in imported_names(path))
        used = {parts[1] for parts in inside if parts[0] == package and len(parts) > 1 and parts[1] in floor}
        later = {name for name in used if floor[name] > floor[own]}
        assert not later, f"{path} imports {later}, which is further right"


def test_no_module_imports_in_a_circle() -> None:
    known = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
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
