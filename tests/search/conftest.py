"""A published registry over the small world's hierarchy, with random geocells."""

from pathlib import Path

import pytest

from indexer.bundle import build_bundle
from indexer.hierarchy import Hierarchy
from indexer.registry import Registry
from search.engine import Engine
from tests.conftest import random_geocells

WIDTH = 12


@pytest.fixture(scope="session")
def registry(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    home = Registry(tmp_path_factory.mktemp("registry") / "R")
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    home.publish(build_bundle(hierarchy_folder, geocells, home.versions_folder, config={}, inputs={}).name)
    return home


@pytest.fixture(scope="session")
def engine(registry: Registry) -> Engine:
    return Engine.open(registry.path)
