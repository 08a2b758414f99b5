"""`python -m indexer` as a person uses it: what it prints, what it refuses, and with which exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.__main__ import COMMANDS
from indexer.artifact import write_folder
from indexer.cells import load_hierarchy
from indexer.cli import main
from indexer.geocells import CHECKPOINT_KIND, CHECKPOINT_SCHEMA_VERSION, save_geocells
from indexer.hierarchy import Hierarchy
from tests.conftest import random_geocells

TAUS = ["--tau-max", "400,120,40", "--tau-min", "5"]


def indexer(*arguments: object) -> int:
    try:
        return main("indexer", "test", COMMANDS, argv=[str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def checkpoint(hierarchy: Hierarchy, tmp_path: Path) -> Path:
    with write_folder(tmp_path / "C", kind=CHECKPOINT_KIND, schema_version=CHECKPOINT_SCHEMA_VERSION) as draft:
        save_geocells(draft, random_geocells(hierarchy, 8, seed=0))
    return tmp_path / "C"


def test_partition_prints_a_table_and_json(
    photo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert indexer("partition", "--photos", photo_table, *TAUS, "--out", tmp_path / "H") == 0
    assert "3,000 photos" in capsys.readouterr().out
    assert (
        indexer("partition", "--photos", photo_table, *TAUS, "--out", tmp_path / "H2", "--split", "train", "--json")
        == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert data["photos"] == 2000
    assert [row["tau_max"] for row in data["levels"]] == [400, 120, 40]


def test_options_may_come_from_a_file_and_flags_win(photo_table: Path, tmp_path: Path) -> None:
    config = tmp_path / "p.yaml"
    config.write_text(f"photos: {photo_table}\ntau_max: [400, 120]\ntau_min: 5\nout: {tmp_path / 'no'}\n")
    assert indexer("partition", "--config", config, "--out", tmp_path / "H") == 0
    manifest = json.loads((tmp_path / "H" / "manifest.json").read_text())
    assert manifest["config"]["recipe"]["tau_max"] == [400, 120]
    assert not (tmp_path / "no").exists()


def test_build_publish_info_verify(
    hierarchy_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = [
        "build",
        "--hierarchy",
        hierarchy_folder,
        "--checkpoint",
        checkpoint,
        "--registry",
        tmp_path / "R",
        "--json",
    ]
    assert indexer(*build, "--no-publish") == 0
    version = json.loads(capsys.readouterr().out)["version"]
    assert indexer("info", "--registry", tmp_path / "R") == 2
    assert "nothing is published" in capsys.readouterr().err
    assert indexer("verify", "--registry", tmp_path / "R") == 0
    assert "1 version(s) verified" in capsys.readouterr().out
    assert indexer("publish", "--registry", tmp_path / "R", "--version", version[:8]) == 0
    assert version in capsys.readouterr().out
    assert indexer("info", "--registry", tmp_path / "R", "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["current"], info["versions"], info["calibration"]) == (version, [version], None)
    assert indexer("verify", "--registry", tmp_path / "R") == 0
    leaves = tmp_path / "R" / "versions" / version / "leaves.faiss"
    content = bytearray(leaves.read_bytes())
    content[-1] ^= 255
    leaves.write_bytes(content)
    capsys.readouterr()
    assert indexer("verify", "--registry", tmp_path / "R") == 1
    assert "leaves.faiss" in capsys.readouterr().out


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


def test_a_system_error_is_one_line(
    photo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error", "photos.parquet")

    monkeypatch.setattr("indexer.recipe.coordinate_batches", fail)
    assert indexer("partition", "--photos", photo_table, *TAUS, "--out", tmp_path / "H") == 1
    assert capsys.readouterr().err == "error: [Errno 5] Input/output error: 'photos.parquet'\n"


def table(path: Path, **columns: list) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lat": [1.0]}, "no column 'lng'"),
        ({"lat": [95.0], "lng": [0.0]}, "lat is 95.0 in row 0"),
        ({"lat": [float("nan")], "lng": [0.0]}, "lat is nan in row 0"),
        ({"lat": pa.array([], pa.float64()), "lng": pa.array([], pa.float64())}, "no row"),
        ({"lat": [1.0], "lng": [1.0]}, "Lower --tau-min"),
    ],
)
def test_bad_tables_are_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: dict, message: str
) -> None:
    path = table(tmp_path / "p.parquet", **columns)
    assert indexer("partition", "--photos", path, "--out", tmp_path / "H") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "H").exists()


def test_an_existing_or_unwritable_out_is_refused_first(
    photo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert indexer("partition", "--photos", tmp_path / "absent.csv", "--out", photo_table) == 2
    assert "exists already" in capsys.readouterr().err
    assert indexer("partition", "--photos", photo_table, *TAUS, "--out", photo_table / "below" / "H") == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["partition", "--photos", "p.csv"], "required"),
        (["partition", "--photos", "p.csv", "--out", "H", "--tau-mx", "5"], "Did you mean --tau-max?"),
        (["partition", "--photos", "p.csv", "--out", "H", "--tau-max", "five"], "five"),
        (["partition", "--photos", "p.csv", "--out", "H", "--tau-max", "5,10"], "fall strictly"),
        (["divide"], "invalid choice"),
        ([], "to be one of"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert indexer(*arguments) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("photos: p.csv\nout: H\ntau_mn: 5\n")
    assert indexer("partition", "--config", tmp_path / "c.yaml") == 2
    assert "Did you mean --tau-min?" in capsys.readouterr().err


def test_a_checkpoint_of_another_hierarchy_is_refused(
    photo_table: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        indexer("partition", "--photos", photo_table, "--tau-max", "300,50", "--tau-min", "5", "--out", tmp_path / "H")
        == 0
    )
    assert (
        indexer("build", "--hierarchy", tmp_path / "H", "--checkpoint", checkpoint, "--registry", tmp_path / "R") == 2
    )
    assert "belong to hierarchy" in capsys.readouterr().err
    assert not (tmp_path / "R").exists()


def test_help_answers_without_loading_what_is_heavy() -> None:
    code = (
        "import sys; sys.argv = ['indexer', '--help']\n"
        "import runpy, contextlib\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('indexer', run_name='__main__')\n"
        "print(sorted({'numpy', 'duckdb', 'faiss', 'pyarrow', 'torch'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "partition" in done.stdout
    assert done.stderr == "[]\n"


def test_nothing_is_built_into_another_artefact(
    hierarchy_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(hierarchy_folder.iterdir())
    build = ["build", "--hierarchy", hierarchy_folder, "--checkpoint", checkpoint, "--registry", hierarchy_folder]
    assert indexer(*build) == 2
    assert "not a registry" in capsys.readouterr().err
    assert sorted(hierarchy_folder.iterdir()) == before


def test_update_adds_photos_and_says_what_became_of_each_cell(
    photo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = ["--photos", photo_table, "--split"]
    assert indexer("partition", *split, "train", *TAUS, "--out", tmp_path / "H") == 0
    assert indexer("partition", "--photos", photo_table, *TAUS, "--out", tmp_path / "all") == 0
    capsys.readouterr()
    assert indexer("update", "--hierarchy", tmp_path / "H", *split, "test", "--out", tmp_path / "H2", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["photos"] == 3000
    assert data["digest"] == json.loads((tmp_path / "all" / "manifest.json").read_text())["facts"]["digest"]
    assert sum(row["split from"] for row in data["lineage"]) > 0
    for row, level in zip(data["lineage"], data["levels"], strict=True):
        assert row["same"] + row["split from"] + row["new"] + (row["merged into"] > 0) >= level["cells"] * 0.9
    with duckdb.connect(str(tmp_path / "H2" / "cells.duckdb"), read_only=True) as connection:
        rows = connection.sql("SELECT level, relation, count(*) FROM lineage GROUP BY ALL").fetchall()
    assert {(level, relation): n for level, relation, n in rows} == {
        (row["level"], name): n for row in data["lineage"] for name, n in row.items() if name != "level" and n
    }
    assert indexer("update", "--hierarchy", tmp_path / "H2", *split, "test", "--out", tmp_path / "H3") == 0


def test_ceiling_compares_partitions_before_training(
    hierarchy_folder: Path, photo_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ceiling", "--hierarchy", hierarchy_folder, "--photos", photo_table, "--split", "test"]
    assert indexer(*arguments, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["photos"], len(data["levels"])) == (1000, 3)
    assert list(data["levels"][0]["best"]["within"]) == ["1", "25", "200", "750", "2500"]
    assert indexer(*arguments) == 0
    assert "tau_max 40" in capsys.readouterr().out


LABELS = ["--scheme", "labels", "--labels", "continent,country"]


def test_labels_make_a_hierarchy_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {
        "continent": ["E", "E", "A"],
        "country": ["FR", "01", None],
        "lat": [48.0, 43.0, 0.0],
        "lng": [2.0, 7.0, 9.0],
    }
    path = table(tmp_path / "p.parquet", **columns)
    assert indexer("partition", "--photos", path, *LABELS, "--out", tmp_path / "H") == 0
    assert "continent" in capsys.readouterr().out
    assert load_hierarchy(tmp_path / "H").leaves.keys.tolist() == ["E/01", "E/FR"]
    assert indexer("update", "--hierarchy", tmp_path / "H", "--photos", path, "--out", tmp_path / "H2") == 0
    assert load_hierarchy(tmp_path / "H2").leaves.n_photos.tolist() == [2, 2]
    more = {"continent": ["A"], "country": ["FR"], "lat": [1.0], "lng": [1.0]}
    other = table(tmp_path / "q.parquet", **more)
    assert indexer("update", "--hierarchy", tmp_path / "H", "--photos", other, "--out", tmp_path / "H3") == 2
    assert "country 'FR' lies in two cells of continent: 'A' and 'E'" in capsys.readouterr().err
    assert not (tmp_path / "H3").exists()
    assert indexer("partition", "--photos", path, "--labels", "country", "--out", tmp_path / "H4") == 2
    assert indexer("partition", "--photos", path, "--scheme", "labels", "--out", tmp_path / "H4") == 2


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


def test_options_of_the_other_scheme_are_refused(
    photo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--min-inclusive"], ["--tau-max", "9"], ["--first-level", "4"], ["--keep-parent", "0.2"]):
        assert indexer("partition", "--photos", photo_table, *LABELS, *option, "--out", tmp_path / "H") == 2
        assert "go with --scheme s2" in capsys.readouterr().err


def test_an_update_of_damaged_places_is_refused(
    photo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert indexer("partition", "--photos", photo_table, *TAUS, "--out", tmp_path / "H") == 0
    content = bytearray((tmp_path / "H" / "photos.parquet").read_bytes())
    content[len(content) // 2] ^= 64
    (tmp_path / "H" / "photos.parquet").write_bytes(content)
    assert indexer("update", "--hierarchy", tmp_path / "H", "--photos", photo_table, "--out", tmp_path / "H2") == 2
    assert "photos.parquet: content differs from its manifest" in capsys.readouterr().err


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
