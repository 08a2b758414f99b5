"""The commands that measure, as a person uses them: over answers of others, and over answers that they make."""

import csv
import json
from pathlib import Path

import pytest

from tests.search.test_commands import search


def test_evaluate_prints_the_agreed_json(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = ["--photos", world / "photos.csv", "--checkpoint", world / "C", "--split", "a"]
    assert search("run", "--registry", world / "R", *photos, "--out", tmp_path / "O") == 0
    capsys.readouterr()
    evaluate = ["evaluate", "--predictions", tmp_path / "O", "--truth", world / "photos.csv", "--split", "a"]
    assert search(*evaluate, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert {"n", "median_km", "mean_km", "within", "answered", "geoscore", "intervals", "countries"} <= set(data)
    assert data["n"] == 4
    assert data["answered"]["n"] == 3
    assert set(data["within"]) == {"1", "25", "200", "750", "2500"}
    assert search(*evaluate, "--thresholds-km", "10,20000") == 0
    assert "20000 km" in capsys.readouterr().out


def test_evaluate_compares_leaves_out_and_reports(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text("photo,lat,lng\n0,0,0\n1,10,20\n2,0,0\n")
    (tmp_path / "q.csv").write_text("photo,lat,lng\n0,50,0\n1,50,20\n2,50,0\n")
    common = ["evaluate", "--predictions", tmp_path / "p.csv", "--truth", world / "photos.csv", "--benchmark", "im2gps"]
    assert (
        search("audit", "--photos", world / "photos.csv", "--references", world / "1.png", "--out", tmp_path / "A") == 2
    )
    capsys.readouterr()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "copy.png").write_bytes((world / "1.png").read_bytes())
    audit = ["audit", "--photos", world / "photos.csv", "--references", tmp_path / "train", "--out", tmp_path / "A"]
    assert search(*audit) == 0
    text = capsys.readouterr().out
    assert "1 are near-duplicates of one of 1 references, by hash" in text
    assert "not readable: 1 not_an_image" in text
    tables = f"{tmp_path / 'A' / 'leaks.parquet'},{tmp_path / 'A' / 'duplicates.parquet'}"
    options = ["--against", tmp_path / "q.csv", "--exclude", tables, "--audit", tmp_path / "A"]
    options += ["--report", tmp_path / "R"]
    assert search(*common, *options, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["published"]["table"] == "I"
    assert data["compared_by"] == "file name without suffix"
    assert data["against"]["difference"]["geoscore"]["difference"] > 0
    assert (data["without"]["left_out"], data["without"]["figures"]["n"]) == (1, 4)
    assert (data["near_duplicates"]["photos"], data["near_duplicates"]["without"]["n"]) == (1, 4)
    assert data["near_duplicates"]["alone"]["n"] == 1
    assert "near-duplicates alone" in (tmp_path / "R" / "report.html").read_text()
    assert (tmp_path / "R" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert search(*common, *options) == 2  # before any work: the report is there already
    assert "exists already" in capsys.readouterr().err
    assert search(*common, "--exclude", tables) == 0
    text = capsys.readouterr().out
    assert "without the 1 of" in text
    assert "give its folder as --audit to see figures without" in text
    assert search(*common, "--audit", tmp_path / "A") == 0
    assert "With and without 1 photos that have a near-duplicate" in capsys.readouterr().out
    assert search(*common, "--exclude", tmp_path / "A") == 2
    assert "Give an audit's folder as --audit" in capsys.readouterr().err


def test_answers_to_albums_are_judged_by_a_truth_without_columns(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded = ["--photos", world / "photos.csv", "--checkpoint", world / "C", "--save-features", tmp_path / "F"]
    assert search("run", "--registry", world / "R", *embedded, "--out", tmp_path / "one") == 0
    (tmp_path / "trips.csv").write_text("photo,trip\n0.png,x\n1.png,y\n2.png,x\n3.png,x\n4.png,y\n")
    albums = ["--features", tmp_path / "F", "--album", "trip", "--album-table", tmp_path / "trips.csv"]
    assert search("run", "--registry", world / "R", *albums, "--out", tmp_path / "O") == 0
    assert search("export", tmp_path / "O", "--out", tmp_path / "o.csv") == 0
    rows = csv.DictReader((tmp_path / "o.csv").read_text().splitlines())
    assert [row["album"] for row in rows] == ["0", "1", "0", "0", "1"]
    lines = [json.dumps({"ID": row, "LAT": 10 * row, "LON": 20 * row}) for row in (4, 2, 0)]
    (tmp_path / "meta.jsonl").write_text("\n".join(lines))
    capsys.readouterr()
    judged = ["evaluate", "--predictions", tmp_path / "O", "--truth", tmp_path, "--benchmark", "gws15k"]
    assert search(*judged) == 0
    text = capsys.readouterr().out
    assert "3 photos" in text
    assert "intervals over 2 albums" in text
    assert search(*judged, "--album", "trip") == 2
    assert "meta.jsonl: has no columns" in capsys.readouterr().err


def test_a_benchmark_is_answered_from_its_own_layout_with_ten_crops(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    lines = ["IMG_ID,AUTHOR,LON,LAT,S3_Label"]  # the early tables: latitude and longitude swapped in the header
    for row, (lat, lng) in enumerate([(10.0, 150.0), (20.0, 30.0)]):
        (tmp_path / "images" / f"{row}.png").write_bytes((world / f"{row}.png").read_bytes())
        lines.append(f"{row}.png,x,{lat},{lng},1")
    (tmp_path / "im2gps3k_places365.csv").write_text("\n".join(lines) + "\n")
    evaluate = ["evaluate", "--registry", world / "R", "--checkpoint", world / "C", "--truth", tmp_path]
    assert search(*evaluate, "--benchmark", "im2gps3k", "--json", "--resamples", 0) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["crops"], data["n"], data["answered"]["n"], data["intervals"]) == ("ten", 2, 2, None)


def test_audit_needs_both_sides_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search("audit", "--photos", tmp_path, "--out", tmp_path / "A", "--features", tmp_path / "F") == 2
    assert "--features and --reference-features together" in capsys.readouterr().err


def test_answers_that_were_made_before_have_no_mode_to_choose(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.csv").write_text("photo,lat,lng\n0,0,0\n")
    judged = ["evaluate", "--predictions", tmp_path / "p.csv", "--truth", world / "photos.csv"]
    assert search(*judged, "--mode", "beam") == 2
    assert "go with --registry" in capsys.readouterr().err


def test_answers_that_are_made_here_are_compared_with_exact_search(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["evaluate", "--registry", world / "R", "--checkpoint", world / "C", "--truth", world / "photos.csv"]
    assert search(*evaluate, "--mode", "beam", "--probes", 1, "--check-recall", 10, "--resamples", 0) == 0
    assert "against exact search, on 4 of the queries" in capsys.readouterr().out
