"""Publishing and going back, pins and retiring; damage is refused, and two at once get along."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles.bundle import open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import ArtifactError, InputError
from tests.indexer.conftest import add_version
from tests.kills import Forks


@pytest.fixture
def add(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> Callable[[int], str]:
    return lambda seed: add_version(registry, hierarchy, hierarchy_folder, seed)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_publishing_changes_what_is_current(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    first = registry.current
    second = add_version(registry, hierarchy, hierarchy_folder, seed=1)
    assert registry.current == first
    assert registry.publish(second[:10]) == second
    assert registry.current == second
    assert registry.resolve() == registry.versions_folder / second
    assert [line["version"] for line in registry.history()] == [first, second]


def test_a_reader_keeps_what_it_opened(registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    opened = open_bundle(registry.resolve())
    before = opened.leaf_index.reconstruct(0)
    registry.publish(add_version(registry, hierarchy, hierarchy_folder, seed=1))
    np.testing.assert_array_equal(opened.leaf_index.reconstruct(0), before)
    assert opened.version != registry.current


def test_paths_may_be_text_and_current_is_a_version(registry: Registry) -> None:
    assert Registry(str(registry.path)) == registry
    assert open_bundle(str(registry.resolve())).version == registry.current
    link = registry.path / "current"
    opened = open_bundle(link)
    assert opened.version == registry.current
    assert (opened.path, opened.path.is_symlink()) == (link.resolve(), False)


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


def publish(registry: str, version: str) -> None:
    for _ in range(20):
        Registry(Path(registry)).publish(version)


def test_two_publishers_at_once_both_succeed(
    registry: Registry, hierarchy: Hierarchy, hierarchy_folder: Path, started: Forks
) -> None:
    versions = [str(registry.current), add_version(registry, hierarchy, hierarchy_folder, seed=1)]
    running = [started.start("publish", registry.path, version) for version in versions]
    assert [started.end(process) for process in running] == [0, 0]
    assert registry.current in versions
    assert len(registry.history()) == 41


def test_rollback_goes_one_further_back_each_time(registry: Registry, add: Callable[[int], str]) -> None:
    first = str(registry.current)
    second, third = add(1), add(2)
    registry.publish(second)
    registry.publish(third)
    assert [registry.rollback(), registry.current] == [second, second]
    assert [registry.rollback(), registry.current] == [first, first]
    with pytest.raises(InputError, match="no version to go back to"):
        registry.rollback()
    registry.publish(second)  # the trail goes on from where it went back to: the third is not on it any more
    assert registry.rollback() == first
    assert [line["action"] for line in registry.history()] == [
        *["publish"] * 3,
        *["rollback"] * 2,
        "publish",
        "rollback",
    ]


def test_rollback_steps_over_what_is_retired(registry: Registry, add: Callable[[int], str]) -> None:
    first = registry.current
    second, third = add(1), add(2)
    registry.publish(second)
    registry.publish(third)
    registry.retire(second)
    assert registry.rollback() == first
    registry.retire(third)
    with pytest.raises(InputError, match="no version to go back to"):
        registry.rollback()


def test_rollback_needs_a_publication(registry: Registry) -> None:
    (registry.path / "current").unlink()
    with pytest.raises(InputError, match="nothing is published"):
        registry.rollback()


def test_a_flipped_byte_is_refused_by_publish_and_rollback(registry: Registry, add: Callable[[int], str]) -> None:
    first = str(registry.current)
    second = add(1)
    registry.publish(second)
    flip_a_byte(registry.versions_folder / first / "leaves.faiss")
    for attempt in (registry.rollback, lambda: registry.publish(first)):
        with pytest.raises(ArtifactError, match=rf"{first[:12]} cannot be made current: .*leaves\.faiss: content"):
            attempt()
    assert registry.current == second
    assert len(registry.history()) == 2


def test_rollback_gets_away_from_a_version_that_was_deleted_by_hand(
    registry: Registry, add: Callable[[int], str]
) -> None:
    first, second = registry.current, add(1)
    registry.publish(second)
    (registry.versions_folder / second).rename(registry.path / "elsewhere")
    assert [fault.split(": ")[0] for fault in registry.faults()] == [str(registry.path / "current")]
    assert registry.rollback() == first
    assert registry.faults() == []


def test_a_publication_that_failed_at_the_link_is_not_gone_back_to(
    registry: Registry, add: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = registry.current, add(1), add(2)

    def fail(link: Path, target: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("indexer.bundles.registry.replace_symlink", fail)
        with pytest.raises(OSError, match="Input/output"):
            registry.publish(second)
    assert registry.current == first
    assert {state.version: state.published_at is None for state in registry.states()}[second]
    registry.publish(third)
    assert registry.rollback() == first


def test_a_retired_version_is_gone_and_named(registry: Registry, add: Callable[[int], str]) -> None:
    second = add(1)
    (registry.versions_folder / "version.tmp-4000000-0").mkdir()
    assert registry.retire(second[:10]) == second
    assert [path.name for path in registry.versions_folder.iterdir()] == [registry.current]
    for attempt in (registry.publish, registry.retire, registry.pin, registry.resolve):
        with pytest.raises(InputError, match=rf"no version of digest '{second}' \(retired 20.*build it again"):
            attempt(second)
    assert add(1) == second
    assert registry.publish(second) == second


def test_the_current_version_and_pinned_ones_are_not_retired(registry: Registry, add: Callable[[int], str]) -> None:
    first, second = str(registry.current), add(1)
    with pytest.raises(InputError, match=r"is current and cannot be retired\. First make another version current"):
        registry.retire(first)
    registry.pin(second, reason="paper")
    with pytest.raises(InputError, match=r"is pinned since 20.* \(paper\) and cannot be retired\. First: .*unpin"):
        Registry(registry.path).retire(second)
    assert registry.versions == sorted([first, second])
    registry.unpin(second)
    assert registry.retire(second) == second


def test_pins_are_idempotent_and_keep_their_reason(registry: Registry, add: Callable[[int], str]) -> None:
    second = add(1)
    lines = len(registry.history())
    assert registry.unpin(second) == second
    assert len(registry.history()) == lines
    line = registry.pin(second, reason="paper")
    assert registry.pin(second) == registry.pin(second[:9], reason="paper") == line
    assert registry.pins() == {second: line}
    assert len(registry.history()) == lines + 1
    registry.pin(second, reason="customer")
    assert registry.pins()[second]["reason"] == "customer"
    registry.unpin(second)
    assert registry.pins() == {}


def test_nothing_is_retired_while_nobody_knows_what_is_pinned(registry: Registry, add: Callable[[int], str]) -> None:
    second = add(1)
    registry.pin(second)
    log = registry.path / "history.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"pin"', b'"pin', 1))
    with pytest.raises(ArtifactError, match="line 2 is damaged"):
        registry.retire(second)
    assert [fault.split(": ")[0] for fault in registry.faults()] == [str(log)]
    assert registry.publish(second) == second  # needs no history


def test_a_torn_last_line_stops_nothing(registry: Registry, add: Callable[[int], str]) -> None:
    first, second = registry.current, add(1)
    registry.publish(second)
    with (registry.path / "history.jsonl").open("a") as log:
        log.write('{"action": "pin", "version": "')
    assert registry.faults() == []
    assert registry.pins() == {}
    assert registry.rollback() == first
    assert [line["action"] for line in registry.history()] == ["publish", "publish", "rollback"]


def test_states_say_what_is_current_pinned_and_published(registry: Registry, add: Callable[[int], str]) -> None:
    first, second = str(registry.current), add(1)
    registry.pin(second, reason="paper")
    states = {state.version: state for state in registry.states()}
    assert list(states) == registry.versions
    assert (states[first].current, states[first].pinned, states[first].reason) == (True, False, None)
    assert (states[second].current, states[second].pinned, states[second].reason) == (False, True, "paper")
    assert states[first].published_at == registry.history()[0]["at"]
    assert states[second].published_at is None
    files = (registry.versions_folder / first).iterdir()
    assert states[first].size_bytes == sum(len(path.read_bytes()) for path in files)


def test_changes_to_what_is_no_registry_are_refused(tmp_path: Path) -> None:
    home = Registry(tmp_path / "nowhere")
    for attempt in (home.rollback, lambda: home.retire("a"), lambda: home.pin("a"), lambda: home.unpin("a")):
        with pytest.raises(InputError, match="not a registry"):
            attempt()
    assert list(tmp_path.iterdir()) == []
