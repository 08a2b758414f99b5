"""`python -m search` as a person uses it, with a tiny real encoder behind it."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from encoder.config import FusionConfig
from encoder.models.checkpoint import load_encoder, save_checkpoint
from indexer.bundles.bundle import build_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.vectors.geocells import load_geocells
from search.__main__ import COMMANDS
from search.locate import Locator
from tests.conftest import random_geocells
from tests.search.conftest import WIDTH


def search(*arguments: object) -> int:
    try:
        return main("search", "test", COMMANDS, argv=[str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def test_query_tells_place_probability_path_and_token(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["query", "--registry", world / "R", "--checkpoint", world / "C", "--top-k", 2]
    assert search(*common, world / "0.png", world / "1.png", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [Path(answer["photo"]).name for answer in data["answers"]] == ["0.png", "1.png"]
    for answer in data["answers"]:
        assert [step["level"] for step in answer["path"]] == [0, 1, 2]
        assert answer["path"][-1]["key"] == answer["key"] == answer["token"]
        assert 0 < answer["probability"] <= 1
        assert len(answer["top"]) == 2
        assert answer["top"][0]["key"] == answer["key"]
        assert not answer["calibrated"]
        assert "s2_id" not in answer
    assert search(*common, world / "0.png") == 0
    text = capsys.readouterr().out
    assert data["answers"][0]["token"] in text
    assert data["answers"][0]["city"] in text
    assert "not calibrated" in text


def test_a_bad_photo_among_good_ones_is_a_row_and_exit_1(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["query", "--registry", world / "R", "--checkpoint", world / "C"]
    assert search(*common, world / "3.png", world / "absent.jpg", world / "0.png") == 1
    text = capsys.readouterr().out
    assert "not_an_image" in text
    assert "missing" in text
    assert "near" in text


def test_query_that_answers_nothing_says_what_helps(
    world: Path,
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["query", "--registry", world / "R", "--checkpoint", world / "C"]
    assert search(*common, world / "3.png") == 2
    assert capsys.readouterr().err.endswith("Give paths of image files.\n")
    # An encoder with semantic fusion: nothing is wrong with the file.
    encoder = load_encoder(str(world / "C")).model
    encoder.add_fusion(FusionConfig(classes=5, width=12, latent=6, heads=4, blocks=1, mlp_size=24))
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    save_checkpoint(tmp_path / "C", encoder=encoder, geocells=geocells, config={}, inputs={})
    registry = Registry(tmp_path / "R")
    built = build_bundle(
        hierarchy_folder, load_geocells(tmp_path / "C"), registry.versions_folder, config={}, inputs={}
    )
    registry.publish(built.name)
    assert search("query", "--registry", tmp_path / "R", "--checkpoint", tmp_path / "C", world / "0.png") == 2
    message = capsys.readouterr().err
    assert "no class map of this photo" in message
    assert "--class-maps" in message
    assert "image files" not in message


def check(world: Path, *arguments: object, registry: str = "Q") -> int:
    return search("check", "--registry", world / registry, "--checkpoint", world / "C", "--device", "cpu", *arguments)


def test_check_tells_what_may_be_concluded(checkable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [checkable / "0.png", checkable / "3.png", checkable / "1.png"]  # the second one is no image
    log = tmp_path / "log.jsonl"
    claim = ("--claim=48.8584,2.2945", "--within-km", 300, "--audit-log", log)
    assert check(checkable, *claim, *photos, "--json") == 1
    data = json.loads(capsys.readouterr().out)
    first, bad, last = data["checks"]
    assert (first["lat"], first["lng"], first["within_km"], first["held_out"]) == (48.8584, 2.2945, 300, 101)
    assert 1 / 102 <= first["p_value"] <= 1
    assert 0 <= first["mass"] <= 1
    assert (bad["status"], bad["p_value"], last["status"]) == ("not_an_image", None, "ok")
    locator = Locator.open(checkable / "Q", checkpoint=checkable / "C", device="cpu")
    assert [each.to_dict() for each in locator.check(photos, (48.8584, 2.2945), within_km=300)] == data["checks"]
    assert check(checkable, *claim, photos[0]) == 0
    text = capsys.readouterr().out
    assert first["text"] in text
    assert f"p-value {first['p_value']:.4f}, against 101 held-out photos" in text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["command"] for line in lines] == ["check", "check"]
    assert (lines[0]["claim"], lines[0]["within_km"]) == ("48.8584,2.2945", "300.0")
    assert check(checkable, "--claim", "Lyon", "--gallery", "off", photos[0]) == 0
    assert "Lyon, FR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("registry", "arguments", "message"),
    [
        ("Q", ["--claim=95,2"], "--claim: its latitude is 95"),
        ("Q", ["--claim=Qwerville"], "No city with at least 15,000 inhabitants is called 'Qwerville'"),
        ("Q", ["--claim=1,2", "--within-km=-1"], "--within-km must be a distance above 0"),
        (
            "Q",
            ["--claim=1,2", "--region=-80,-170,80,170"],
            "leave out --region, --not-region, --prior-exponent and --score",
        ),
        ("Q", ["--claim=1,2", "--prior-exponent=0"], "leave out --region"),
        ("Q", ["--claim=1,2", "--within-km=9", "--precision-cap=40"], "--within-km: 9 km is less than the precision"),
        ("Q", ["--claim=1,2", "--crops=ten"], "was not calibrated for ten crops"),
        ("R", ["--claim=1,2"], "was not calibrated for one crop"),
    ],
)
def test_checks_that_nothing_can_be_said_of_are_refused_before_photos_are_read(
    checkable: Path, registry: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(checkable, *arguments, checkable / "absent.png", registry=registry) == 2
    assert message in capsys.readouterr().err


def test_a_check_of_no_photo_says_what_helps(checkable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(checkable, "--claim=1,2", checkable / "3.png") == 2
    assert "No photo to answer" in capsys.readouterr().err


def test_run_from_photos_equals_embed_then_run_from_features(world: Path, tmp_path: Path) -> None:
    from encoder.__main__ import COMMANDS as ENCODER

    photos = ["--photos", str(world / "photos.csv"), "--checkpoint", str(world / "C")]
    assert main("encoder", "", ENCODER, argv=["embed", *photos, "--out", str(tmp_path / "F")]) == 0
    assert search("run", "--registry", world / "R", "--features", tmp_path / "F", "--out", tmp_path / "O1") == 0
    assert search("run", "--registry", world / "R", *photos, "--out", tmp_path / "O2", "--batch-size", 2) == 0
    one, two = (pyarrow.parquet.read_table(tmp_path / name) for name in ("O1", "O2"))
    for column in ("row", "photo", "status", "token", "city"):
        assert one[column].to_pylist() == two[column].to_pylist()
    assert one["status"].to_pylist() == ["ok", "ok", "ok", "not_an_image", "ok"]


def test_a_checkpoint_that_does_not_match_the_bundle_is_refused(
    world: Path, hierarchy: Hierarchy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_encoder(str(world / "C")).model
    with torch.no_grad():
        model.projection.weight += 0.1
    geocells = replace(random_geocells(hierarchy, WIDTH, seed=0), encoder=None)
    save_checkpoint(tmp_path / "C2", encoder=model, geocells=geocells, config={}, inputs={})
    assert search("query", "--registry", world / "R", "--checkpoint", tmp_path / "C2", world / "0.png") == 2
    assert "Use that encoder, or build a bundle for this one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--registry", "R", "--out", "O"], "Give either --features"),
        (["run", "--registry", "R", "--out", "O", "--features", "F", "--photos", "P"], "Give either --features"),
        (["run", "--registry", "R", "--out", "O", "--photos", "P"], "Give either --features"),
        (["run", "--registry", "absent", "--out", "O", "--photos", "{T}", "--checkpoint", "{C}"], "not a registry"),
        (["run", "--registry", "{R}", "--out", "O", "--features", "absent"], "no features here"),
        (["run", "--registry", "{R}", "--out", "O", "--features", "F", "--album-table", "T"], "goes with --album"),
        (["run", "--registry", "{R}", "--out", "O", "--features", "F", "--album", "a", "--part", "1/2"], "whole job"),
        (["run", "--registry", "{R}", "--out", "O", "--features", "F", "--mass-km", "9"], "--point mass"),
        (
            ["run", "--registry", "{R}", "--out", "O", "--features", "F", "--point", "mass", "--mass-km", "-1"],
            "above 0",
        ),
        (
            [
                "query",
                "--registry",
                "{R}",
                "--checkpoint",
                "{C}",
                "--score",
                "cosine-affine",
                "--radii",
                "true",
                "x.jpg",
            ],
            "no probabilities",
        ),
        (["query", "--registry", "absent", "--checkpoint", "C", "x.jpg"], "not a registry"),
        (["query", "--registry", "R", "--checkpoint", "C"], "required"),
        (["query", "--registry", "{R}", "--checkpoint", "{C}", "--top-k", "100000", "x.jpg"], "error: --top-k must be"),
        (["query", "--registry", "{R}", "--checkpoint", "absent", "x.jpg"], "no such folder"),
        (["evaluate", "--predictions", "absent.csv", "--truth", "{T}"], "no such file"),
        (
            ["evaluate", "--predictions", "{T}", "--truth", "{T}", "--benchmark", "imagenet"],
            "there are im2gps, im2gps3k",
        ),
        (["evaluate", "--predictions", "{T}", "--truth", "{T}", "--resamples", "3"], "at least 100"),
        (["evaluate", "--predictions", "{T}", "--truth", "{T}", "--exclude", "absent.csv"], "no such file"),
        (["evaluate", "--predictions", "{T}", "--truth", "{T}", "--against", "{T}", "--resamples", "0"], "--against"),
        (["audit", "--photos", "absent", "--out", "A"], "no such file"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(
    world: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"R": world / "R", "C": world / "C", "T": world / "photos.csv"}
    assert search(*(argument.format(**places) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_modes_are_chosen_named_and_checked(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = ["--photos", world / "photos.csv", "--checkpoint", world / "C"]
    for mode, names in (("exact", {"exact"}), ("beam", {"beam"}), ("adaptive", {"adaptive-proved", "adaptive-budget"})):
        out = tmp_path / mode
        command = ["run", "--registry", world / "R", *photos, "--out", out, "--mode", mode, "--check-recall", 3]
        assert search(*command, "--json") == 0
        data = json.loads(capsys.readouterr().out)
        assert data["recall"]["queries"] == 3
        counted = "all leaves" if mode == "exact" else "visited leaves"
        assert (data["search"]["mode"], data["search"]["probability_over"]) == (mode, counted)
        facts = json.loads((out / "_manifest.json").read_text())["facts"]
        report = json.loads((out / "_report.json").read_text())
        assert facts["search"] == report["search"] == data["search"]
        assert report["recall"] == data["recall"]
        answered = [row for row in pyarrow.parquet.read_table(out).to_pylist() if row["status"] == "ok"]
        assert {row["mode"] for row in answered} <= names
        assert {row["probability_over"] for row in answered} == {counted}
        assert {row["n_photos"] for row in answered} == {1}
    query = ["query", "--registry", world / "R", "--checkpoint", world / "C", world / "0.png"]
    assert search(*query, "--mode", "adaptive", "--probes", 2, "--max-probes", 5) == 0
    assert "adaptive-" in capsys.readouterr().out
    assert search(*query, "--score", "cosine-affine", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["mode"] == "cosine-affine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "exact", "--probes", "3"], "--probes goes with"),
        (["--mode", "beam", "--probes", "0"], "--probes must be at least 1"),
        (["--score", "cosine-clamped", "--mode", "beam"], "leave --mode out"),
        (["--check-recall", "0"], "--check-recall must be at least 1"),
        (["--score", "cosine-clamped", "--check-recall", "5"], "has only one"),
    ],
)
def test_modes_that_make_no_sense_are_refused_before_any_work(
    world: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--photos", world / "photos.csv", "--checkpoint", world / "C"]
    assert search("run", "--registry", world / "R", *photos, "--out", tmp_path / "O", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "O").exists()


def test_a_job_is_that_of_its_split(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("run", "--registry", world / "R", "--photos", world / "photos.csv", "--checkpoint", world / "C")
    assert search(*common, "--split", "a", "--out", tmp_path / "O", "--shard-rows", 2) == 0
    assert search(*common, "--out", tmp_path / "O", "--shard-rows", 2) == 2
    assert "the option split a, this one has None" in capsys.readouterr().err


def test_the_parts_of_a_job_are_named_where_their_folder_is_shown(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("run", "--registry", world / "R", "--photos", world / "photos.csv", "--checkpoint", world / "C")
    for part in ("1/2", "2/2"):
        assert search(*common, "--shard-rows", 2, "--part", part, "--out", tmp_path / "O" / f"part={part[0]}") == 0
    assert search("show", tmp_path / "O", "--photo", "0.png") == 2
    assert "part=1, part=2" in capsys.readouterr().err
