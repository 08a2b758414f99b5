"""The registry against SIGKILL: whatever dies, and wherever, what is current is whole and the next change succeeds."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Set
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import open_bundle, verify_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.disk.artifact import write_folder
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from tests.conftest import random_geocells
from tests.indexer.anisotropic import anisotropic_world, write_world
from tests.indexer.conftest import add_version, indexer
from tests.kills import KILLED, Forks


def publish(registry: str, *versions: str) -> None:
    """In turn, without end."""
    home = Registry(Path(registry))
    for version in itertools.cycle(versions):
        home.publish(version)


def churn(registry: str, hierarchy_folder: str, seed: int) -> None:
    """Everything that changes a registry, without end."""
    home, hierarchy = Registry(Path(registry)), load_hierarchy(Path(hierarchy_folder))
    for number in itertools.count(seed):
        new = add_version(home, hierarchy, Path(hierarchy_folder), seed=number)
        home.publish(new)
        home.pin(new)
        home.rollback()
        home.unpin(new)
        home.retire(new)


def change(registry: str, action: str, *arguments: str) -> None:
    """One change."""
    getattr(Registry(Path(registry)), action)(*arguments)


def check_whole(registry: Registry, hierarchy: Hierarchy, current: Set[str]) -> None:
    assert registry.current in current
    assert registry.faults() == []
    assert all(verify_bundle(registry.versions_folder / version) == [] for version in registry.versions)
    assert open_bundle(registry.resolve()).leaf_index.ntotal == len(hierarchy.leaves)


def check_clean(registry: Registry, versions: Set[str]) -> None:
    """No leftover is there after a build and a publication."""
    assert {path.name for path in registry.path.iterdir()} == {".lock", "current", "history.jsonl", "versions"}
    assert {path.name for path in registry.versions_folder.iterdir()} == versions


def build(*arguments: str) -> None:
    os._exit(indexer("build", *arguments))


def kill_builds(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, kills: int, started: Forks | None = None
) -> None:
    """Kill `indexer build` at a different moment each time; after each, the registry serves a whole version.

    As a person starts it, or forked, when nothing needs to be imported.
    """
    known = set(registry.versions)
    rng = np.random.default_rng(0)
    for seed in range(kills):
        checkpoint = registry.path.parent / f"C{seed}"
        with write_folder(checkpoint, kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
            save_geocells(draft, random_geocells(hierarchy, 256, seed + 100))
        command = ["--hierarchy", hierarchy_folder, "--checkpoint", checkpoint, "--registry", registry.path]
        if started is None:
            process = subprocess.Popen(
                [sys.executable, "-m", "indexer", "build", *map(str, command)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(rng.uniform(0.4, 1.3))  # from importing to done
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:
            fork = started.start("build", *command)
            time.sleep(rng.uniform(0, 0.4))
            os.kill(fork, signal.SIGKILL)
            assert started.end() in (0, KILLED)
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
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks
) -> None:
    kill_builds(registry, hierarchy, hierarchy_folder, 50, started)


def kill_gallery_builds(registry: Registry, folder: Path, started: Forks, *, stride: int) -> None:
    """Kill `indexer build` from photos before every so-manieth change: the old version or the new one, each whole."""
    world = write_world(anisotropic_world(n_known=2000, n_unseen=0, width=40, seed=0), folder)
    command = ["--features", world / "F.parquet", "--photos", world / "photos.parquet", "--registry", registry.path]
    old, status, changes, kills = registry.current, KILLED, 0, 0
    while status == KILLED:
        status = started.run("build", *command, "--tau-max", "100,30", "--tau-min", "3", changes=changes)
        assert all(verify_bundle(registry.versions_folder / version) == [] for version in registry.versions)
        gallery = open_bundle(registry.resolve()).gallery
        assert registry.current == old or len(gallery or ()) > 1000
        changes, kills = changes + stride, kills + 1
    assert (status, registry.current == old) == (0, False)
    assert kills > 4, "the calls that change the disk were not counted"
    assert {path.name for path in registry.versions_folder.iterdir()} == set(registry.versions)


def test_killed_builds_of_a_gallery_leave_the_old_or_the_new(
    registry: Registry, tmp_path: Path, started: Forks
) -> None:
    kill_gallery_builds(registry, tmp_path, started, stride=24)


@pytest.mark.slow
def test_killed_builds_of_a_gallery_leave_the_old_or_the_new_at_many_changes(
    registry: Registry, tmp_path: Path, started: Forks
) -> None:
    kill_gallery_builds(registry, tmp_path, started, stride=3)


def kill_publications(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks, kills: int
) -> None:
    """Kill a process that publishes two versions in turn, at a different moment each time."""
    first, second = str(registry.current), add_version(registry, hierarchy, hierarchy_folder, seed=1)
    rng = np.random.default_rng(1)
    for _ in range(kills):
        started.kill_after(rng.uniform(0, 0.05), "publish", registry.path, second, first)
        check_whole(registry, hierarchy, {first, second})
        assert registry.publish(second) == second
        check_clean(registry, {first, second})


def test_killed_publications_leave_the_old_or_the_new(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks
) -> None:
    kill_publications(registry, hierarchy, hierarchy_folder, started, kills=5)


@pytest.mark.slow
def test_killed_publications_leave_the_old_or_the_new_many_times(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks
) -> None:
    kill_publications(registry, hierarchy, hierarchy_folder, started, kills=50)


def kill_everything(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks, kills: int
) -> None:
    """Kill a process that builds, publishes, pins, goes back and retires, at a different moment each time."""
    base = str(registry.current)
    registry.pin(base, reason="stays")
    rng = np.random.default_rng(2)
    for number in range(1, kills + 1):
        started.kill_after(rng.uniform(0, 0.4), "churn", registry.path, hierarchy_folder, number * 1000)
        check_whole(registry, hierarchy, set(registry.versions))
        assert registry.pins()[base]["reason"] == "stays"
        last = add_version(registry, hierarchy, hierarchy_folder, seed=number)
        registry.publish(last)
        registry.publish(base)
        for version in set(registry.versions) - {base}:
            registry.unpin(version)
            registry.retire(version)
        check_clean(registry, {base})


def test_kills_during_any_change_are_survived(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks
) -> None:
    kill_everything(registry, hierarchy, hierarchy_folder, started, kills=3)


@pytest.mark.slow
def test_kills_during_any_change_are_survived_many_times(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks
) -> None:
    kill_everything(registry, hierarchy, hierarchy_folder, started, kills=50)


@pytest.mark.parametrize("action", ["publish", "rollback", "retire"])
def test_a_kill_before_each_system_call_leaves_the_old_or_the_new(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks, action: str
) -> None:
    first, second = str(registry.current), add_version(registry, hierarchy, hierarchy_folder, seed=1)
    argument = [] if action == "rollback" else [second]
    steps, status = 0, KILLED
    while status == KILLED:
        if second not in registry.versions:
            add_version(registry, hierarchy, hierarchy_folder, seed=1)
        for version in (first, second) if action == "rollback" else (second, first):
            registry.publish(version)
        check_clean(registry, {first, second})
        status = started.run("change", registry.path, action, *argument, changes=steps)
        check_whole(registry, hierarchy, {first} if action == "retire" else {first, second})
        steps += 1
    assert status == 0
    assert steps > 8, "the calls that change the disk were not counted"
    assert (registry.current, second in registry.versions) == {
        "publish": (second, True),
        "rollback": (first, True),
        "retire": (first, False),
    }[action]
