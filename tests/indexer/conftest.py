"""The command line, a registry with one published version and how to add more, and folders of simple kinds."""

import shutil
from pathlib import Path

import pytest

from indexer.__main__ import COMMANDS
from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.disk.artifact import write_folder
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from tests.conftest import random_geocells


def add_version(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, seed: int) -> str:
    geocells = random_geocells(hierarchy, 8, seed)
    return build_bundle(hierarchy_folder, geocells, registry.versions_folder, config={}, inputs={}).name


@pytest.fixture(scope="session")
def published(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry to copy."""
    home = Registry(tmp_path_factory.mktemp("published") / "R")
    home.publish(add_version(home, hierarchy, hierarchy_folder, seed=0))
    return home.path


@pytest.fixture
def registry(published: Path, tmp_path: Path) -> Registry:
    return Registry(Path(shutil.copytree(published, tmp_path / "R", symlinks=True)))


def write(target: Path, content: bytes = b"hello") -> Path:
    """A folder of kind `thing` with one file below a folder of its own."""
    with write_folder(target, kind="thing", schema_version=3, config={"k": 1}, inputs={"i": None}) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "a.bin").write_bytes(content)
        draft.facts["n"] = 5
    assert draft.final == target
    return target


def indexer(*arguments: object) -> int:
    """`python -m indexer`; returns its exit code."""
    try:
        return main("indexer", "test", COMMANDS, argv=[str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def checkpoint(hierarchy: Hierarchy, tmp_path: Path) -> Path:
    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, 8, seed=0))
    return tmp_path / "C"
