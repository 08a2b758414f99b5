"""`python -m indexer` on a registry, as a person uses it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.bundles.bundle import calibrated_bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.disk.artifact import write_folder
from indexer.vectors.calibration import Calibration, usual_photo_fit
from indexer.vectors.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from tests.conftest import random_geocells
from tests.indexer.conftest import indexer


@pytest.fixture
def two_versions(
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> tuple[Path, str, str]:
    """A registry, its first version and its second one, which is current."""
    with write_folder(tmp_path / "C2", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, 8, seed=1))
    versions = []
    for folder in (checkpoint, tmp_path / "C2"):
        command = ["build", "--hierarchy", hierarchy_folder, "--checkpoint", folder, "--registry", tmp_path / "R"]
        assert indexer(*command, "--json") == 0
        versions.append(json.loads(capsys.readouterr().out)["version"])
    return tmp_path / "R", versions[0], versions[1]


def test_rollback_pin_retire_unpin(two_versions: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    registry, first, second = two_versions

    def answer(command: str, *arguments: object) -> dict:
        assert indexer(command, "--registry", registry, *arguments, "--json") == 0
        data = json.loads(capsys.readouterr().out)
        assert data.pop("registry") == str(registry)
        return data

    def refusal(command: str, *arguments: object) -> str:
        assert indexer(command, "--registry", registry, *arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    assert answer("rollback") == {"current": first, "before": second}
    assert "no version to go back to" in refusal("rollback")
    pinned = {"version": second, "pinned": True, "reason": "the paper's table 2"}
    assert answer("pin", "--version", second[:8], "--reason", "the paper's table 2") == pinned
    assert answer("pin", "--version", second) == pinned
    assert "(the paper's table 2) and cannot be retired. First: python -m indexer unpin" in refusal(
        "retire", "--version", second
    )
    assert "is current and cannot be retired" in refusal("retire", "--version", first)
    assert answer("unpin", "--version", second) == {"version": second, "pinned": False}
    assert answer("retire", "--version", second) == {"retired": second}
    assert f"no version of digest '{second}' (retired 20" in refusal("publish", "--version", second)
    assert answer("info")["versions"] == [first]


def test_registry_commands_say_in_words_what_they_did(
    two_versions: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    registry, first, second = two_versions
    for command, text in (
        (["rollback"], f"{registry}: current is {first} (before: {second})\n"),
        (["pin", "--version", second, "--reason", "paper"], f"{registry}: {second} is pinned (paper)\n"),
        (["pin", "--version", first], f"{registry}: {first} is pinned\n"),
        (["unpin", "--version", second], f"{registry}: {second} is not pinned\n"),
        (["retire", "--version", second], f"{registry}: {second} is retired\n"),
    ):
        assert indexer(*command, "--registry", registry) == 0
        assert capsys.readouterr().out == text


def test_info_shows_each_version(two_versions: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    registry, first, second = two_versions
    assert indexer("pin", "--registry", registry, "--version", first, "--reason", "two\nlines") == 0
    capsys.readouterr()
    assert indexer("info", "--registry", registry, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    states = {state["version"]: state for state in data["states"]}
    assert set(states) == set(data["versions"]) == {first, second}
    assert (states[second]["current"], states[second]["pinned"]) == (True, False)
    assert (states[first]["current"], states[first]["pinned"], states[first]["reason"]) == (False, True, "two\nlines")
    assert list(data["pins"]) == [first]
    assert [line["action"] for line in data["history"]] == ["publish", "publish", "pin"]
    assert indexer("info", "--registry", registry) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()[0] in (first[:12], second[:12])}
    assert rows[second[:12]].endswith("  current")
    assert rows[first[:12]].endswith("  pinned (two lines)")
    assert states[first]["published_at"].removesuffix("+00:00").replace("T", " ") in rows[first[:12]]
    assert f"{states[first]['size_bytes'] / 1e6:.1f} MB" in rows[first[:12]]
    assert max(map(len, text.splitlines())) <= 120


def test_info_says_what_is_to_be_known_of_calibrations(
    two_versions: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(two_versions[0])
    numbers = Calibration(1.0, 0.0, 1.0, {"cell": (0.5, 0.9)}, 40.0, 0.0, 200)
    able = replace(numbers, nonconformities=(0.25, 0.5), approximate=True)
    photos = replace(numbers, fit=usual_photo_fit(40.0), nonconformities=(0.1,))
    bundle = open_bundle(registry.resolve(None))
    calibrations = {"one": replace(able, with_photos=photos), "ten": numbers}
    made = calibrated_bundle(bundle, registry.versions_folder, calibrations, config={}, inputs={})  # type: ignore[arg-type]
    assert indexer("info", "--registry", registry.path, "--version", made.name) == 0
    text = capsys.readouterr().out
    assert "calibrated for  one, ten\n  one: approximate, of few photos" in text
    assert "  ten: claims cannot be checked by it: calibrate again (python -m search calibrate)" in text
    assert "one: claims" not in text
    assert indexer("info", "--registry", registry.path, "--version", made.name, "--json") == 0
    data = json.loads(capsys.readouterr().out)["calibration"]
    assert [data[name]["nonconformities"] for name in ("one", "ten")] == [2, 0]  # how many: the manifest has them
    assert data["one"]["with_photos"]["nonconformities"] == 1


def test_verify_names_what_is_wrong_with_the_registry_itself(
    two_versions: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    registry, first, second = two_versions
    (registry / "versions" / second).rename(registry / "elsewhere")
    (registry / "versions" / first / "extra").touch()
    log = registry / "history.jsonl"
    log.write_bytes(b"[]\n" + log.read_bytes())
    assert indexer("verify", "--registry", registry) == 1
    current, history, extra, verdict = capsys.readouterr().out.splitlines()
    assert current.startswith(f"{registry / 'current'}: points to {second}, which is not there")
    assert history.startswith(f"{log}: line 1 is damaged")
    assert extra.startswith(f"{registry / 'versions' / first / 'extra'}: not named in the manifest")
    assert verdict == "3 fault(s) in 1 version(s)"


@pytest.mark.parametrize("version", ["1234", "1e5", "null", "true"])
def test_a_beginning_of_a_digest_is_never_taken_for_another_type(
    two_versions: tuple[Path, str, str], version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("publish", "retire", "pin", "unpin"):
        assert indexer(command, "--registry", two_versions[0], "--version", version) == 2
        assert f"no version of digest '{version}'" in capsys.readouterr().err


def test_there_must_be_something_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert indexer("verify", "--registry", tmp_path / "absent") == 2
    assert "not a registry" in capsys.readouterr().err


def test_the_kind_of_index_is_shown_with_its_recall(
    hierarchy_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["build", "--hierarchy", hierarchy_folder, "--checkpoint", checkpoint, "--registry", tmp_path / "R"]
    assert indexer(*build, "--index", "ivf", "--precision", "fp16") == 0
    capsys.readouterr()
    assert indexer("info", "--registry", tmp_path / "R") == 0
    text = capsys.readouterr().out
    assert "ivf fp16, lists of level" in text
    assert "beam      lists of level" in text
    assert indexer("info", "--registry", tmp_path / "R", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    facts = data["leaf_index"]
    assert (data["beam"]["level"], data["beam"]["probes"]) == (facts["quantiser_level"], facts["probes"])
    assert facts["recall_at_1"] >= 0.99
    assert facts["size_bytes"] == (tmp_path / "R" / "current" / "leaves.faiss").stat().st_size


def test_a_registry_without_versions_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "R" / "versions").mkdir(parents=True)
    assert indexer("verify", "--registry", tmp_path / "R") == 0
    assert "0 version(s) verified" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["copy", "stray", "log"])
def test_verify_names_what_does_not_belong_in_a_registry(
    hierarchy_folder: Path, checkpoint: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "R"
    assert indexer("build", "--hierarchy", hierarchy_folder, "--checkpoint", checkpoint, "--registry", home) == 0
    if damage == "copy":
        target = (home / "current").resolve()
        (home / "current").unlink()
        shutil.copytree(target, home / "current")
    elif damage == "stray":
        (home / "versions" / "notes").mkdir()
    else:
        (home / "history.jsonl").unlink()
    assert indexer("verify", "--registry", home) == 1
    expected = {"copy": "a copy of a version", "stray": "no version", "log": "all pins"}
    assert expected[damage] in capsys.readouterr().out
