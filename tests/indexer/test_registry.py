"""Publishing: atomic, named by digest, safe against damage, against two at once, and against SIGKILL."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from indexer.artifact import write_folder
from indexer.bundle import build_bundle, open_bundle, verify_bundle
from indexer.errors import ArtifactError, InputError
from indexer.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
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


def test_publishing_changes_what_is_current(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    first = registry.current
    second = add_version(registry, hierarchy, hierarchy_folder, seed=1)
    assert registry.current == first
    assert registry.publish(second[:10]) == second
    assert registry.current == second
    assert registry.resolve() == registry.versions_folder / second
    assert [line["published"] for line in registry.history()] == [first, second]


def test_a_reader_keeps_what_it_opened(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    opened = open_bundle(registry.resolve())
    before = opened.leaf_index.reconstruct(0)
    registry.publish(add_version(registry, hierarchy, hierarchy_folder, seed=1))
    np.testing.assert_array_equal(opened.leaf_index.reconstruct(0), before)
    assert opened.version != registry.current


def test_building_the_same_twice_gives_one_version(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path
) -> None:
    assert add_version(registry, hierarchy, hierarchy_folder, seed=0) == registry.current
    assert registry.versions == [registry.current]


def test_damaged_versions_are_never_published(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    before = registry.current
    second = add_version(registry, hierarchy, hierarchy_folder, seed=1)
    (registry.versions_folder / second / "leaves.faiss").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        registry.publish(second)
    assert registry.current == before


def test_what_is_not_there_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a registry"):
        Registry(tmp_path / "nowhere").resolve()
    with pytest.raises(InputError, match="no version of digest 'zzz'"):
        registry.resolve("zzz")
    (registry.path / "current").unlink()
    with pytest.raises(InputError, match="nothing is published"):
        registry.resolve()


PUBLISH = """
import sys
from pathlib import Path
from indexer.registry import Registry
for _ in range(20):
    for version in sys.argv[2:]:
        Registry(Path(sys.argv[1])).publish(version)
"""


def test_two_publishers_at_once_both_succeed(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    versions = [str(registry.current), add_version(registry, hierarchy, hierarchy_folder, seed=1)]
    running = [
        subprocess.Popen([sys.executable, "-c", PUBLISH, str(registry.path), version], stderr=subprocess.PIPE)
        for version in versions
    ]
    assert [(process.wait(60), process.communicate()[1]) for process in running] == [(0, b""), (0, b"")]
    assert registry.current in versions
    assert len(registry.history()) == 41


def kill_builds(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, kills: int) -> None:
    """Kill `indexer build` at a different moment each time; after each, the registry serves a whole version."""
    known = set(registry.versions)
    rng = np.random.default_rng(0)
    for seed in range(kills):
        checkpoint = registry.path.parent / f"C{seed}"
        with write_folder(checkpoint, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
            save_geocells(draft, random_geocells(hierarchy, 256, seed + 100))
        command = ["build", "--hierarchy", hierarchy_folder, "--checkpoint", checkpoint, "--registry", registry.path]
        process = subprocess.Popen(
            [sys.executable, "-m", "indexer", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.4, 1.3))  # from importing to done
        process.send_signal(signal.SIGKILL)
        process.wait()
        current = registry.resolve()
        assert verify_bundle(current) == []
        assert open_bundle(current).leaf_index.ntotal == len(hierarchy.leaves)
        assert all(verify_bundle(registry.versions_folder / version) == [] for version in registry.versions)
        known |= set(registry.versions)
    last = add_version(registry, hierarchy, hierarchy_folder, seed=999)
    assert registry.publish(last) == last
    assert {path.name for path in registry.versions_folder.iterdir()} == known | {last}


def test_killed_builds_leave_the_published_bundle_whole(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path
) -> None:
    kill_builds(registry, hierarchy, hierarchy_folder, kills=4)


@pytest.mark.slow
def test_killed_builds_leave_the_published_bundle_whole_many_times(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path
) -> None:
    kill_builds(registry, hierarchy, hierarchy_folder, kills=50)
