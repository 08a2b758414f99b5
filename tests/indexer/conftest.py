"""A registry with one published version, and how to add more."""

from pathlib import Path

import pytest

from indexer.bundle import build_bundle
from indexer.hierarchy import Hierarchy
from indexer.registry import Registry
from tests.conftest import random_geocells


def add_version(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, seed: int) -> str:
    geocells = random_geocells(hierarchy, 8, seed)
    return build_bundle(hierarchy_folder, geocells, registry.versions_folder, config={}, inputs={}).name


@pytest.fixture
def registry(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path: Path) -> Registry:
    home = Registry(tmp_path / "R")
    home.publish(add_version(home, hierarchy, hierarchy_folder, seed=0))
    return home
