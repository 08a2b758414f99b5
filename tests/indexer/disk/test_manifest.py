"""What a manifest says is checked: kinds, versions, sizes, digests, and damage of every sort."""

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest

from indexer.disk import manifest
from indexer.disk.manifest import MANIFEST, code_version, read_manifest, typed_facts, verify_folder
from indexer.errors import ArtifactError
from tests.indexer.conftest import write


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = read_manifest(write(tmp_path / "T"), kind="thing", schema_version=3)
    assert (written.facts, written.config, written.inputs) == ({"n": 5}, {"k": 1}, {"i": None})
    assert written.files["sub/a.bin"].size_bytes == 5
    assert verify_folder(tmp_path / "T", written) == []
    assert "geosurge" in written.made_by


def test_the_commit_is_told_and_the_checkout_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes ask at once, while somebody commits: nobody may lock the index, or need the lock."""
    module, index = tmp_path / "module.py", tmp_path / ".git" / "index"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@localhost", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit_told() -> str | None:
        before = index.read_bytes()
        (index.parent / "index.lock").touch()  # another git is at work
        told = code_version.__wrapped__().get("commit")
        assert index.read_bytes() == before
        (index.parent / "index.lock").unlink()
        assert code_version.__wrapped__().get("commit") == told
        assert index.read_bytes() == before
        return told

    monkeypatch.setattr(manifest, "__file__", str(module))
    assert "commit" not in code_version.__wrapped__()
    git("init", "--quiet")
    module.write_text("one")
    git("add", "module.py")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")[:12]
    os.utime(module, (0, 0))  # so git would like to write down that it has looked
    assert commit_told() == commit
    (tmp_path / "untracked.txt").write_text("")
    assert commit_told() == commit
    module.write_text("two")
    assert commit_told() == f"{commit}-dirty"


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_damage_to_a_file_is_found(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path / "T") / "sub" / "a.bin"
    if damage == "flip":
        file.write_bytes(b"hellO")
        written = read_manifest(tmp_path / "T", kind="thing", schema_version=3)
        assert len(verify_folder(tmp_path / "T", written)) == 1
        return
    file.unlink() if damage == "remove" else file.write_bytes(b"hell")
    with pytest.raises(ArtifactError, match=r"a\.bin"):
        read_manifest(tmp_path / "T", kind="thing", schema_version=3)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": "thing"}', '{"kind":"thing","schema_version":1,"x":1}', "\x00"]
)
def test_a_damaged_manifest_is_a_clean_error(tmp_path: Path, text: str) -> None:
    (write(tmp_path / "T") / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match="damaged manifest"):
        read_manifest(tmp_path / "T", kind="thing", schema_version=3)


def test_other_kinds_newer_schemas_and_absent_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path / "T")
    with pytest.raises(ArtifactError, match="this is a thing folder"):
        read_manifest(tmp_path / "T", kind="other", schema_version=3)
    with pytest.raises(ArtifactError, match="Update geosurge"):
        read_manifest(tmp_path / "T", kind="thing", schema_version=2)
    with pytest.raises(ArtifactError, match="no such folder"):
        read_manifest(tmp_path / "absent", kind="thing", schema_version=3)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd"])
def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "T") / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="outside the folder"):
        read_manifest(tmp_path / "T", kind="thing", schema_version=3)


@dataclass(frozen=True)
class Facts:
    kind: Literal["flat", "ivf"]
    share: float
    level: int | None


@pytest.mark.parametrize("facts", [Facts("flat", 0.5, None), Facts("ivf", 1, 3)])
def test_facts_survive_the_way_through_a_manifest(facts: Facts) -> None:
    assert typed_facts(Facts, asdict(facts), source="F") == facts


@pytest.mark.parametrize(
    "change",
    [{"kind": "tree"}, {"share": "0.5"}, {"share": None}, {"share": True}, {"level": 1.5}, {"level": "1"}, {"more": 1}],
)
def test_a_field_of_another_type_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match=r"F: its manifest says nothing usable of its Facts .*Build it again"):
        typed_facts(Facts, asdict(Facts("flat", 0.5, 1)) | change, source="F")


@pytest.mark.parametrize("values", [None, [], "flat", {}, {"kind": "flat", "share": 0.5}])
def test_missing_fields_are_refused(values: object) -> None:
    with pytest.raises(ArtifactError, match="nothing usable of its Facts"):
        typed_facts(Facts, values, source="F")
