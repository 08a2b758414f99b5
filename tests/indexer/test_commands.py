"""`python -m indexer` as a person uses it: what it prints, what it refuses, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.cells.table import load_hierarchy
from tests.indexer.conftest import indexer

TAUS = ["--tau-max", "400,120,40", "--tau-min", "5"]


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
    assert manifest["config"]["scheme"]["tau_max"] == [400, 120]
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


def test_a_system_error_is_one_line(
    photo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error", "photos.parquet")

    monkeypatch.setattr("indexer.cells.division.coordinate_batches", fail)
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
