"""Evaluation from Python: the figures that the command prints, for answers of a run and for answers made here."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.geocells import load_geocells
from indexer.vectors.prototypes import Placed
from search import EvaluateConfig, RunConfig, RunSpec, evaluate, run
from search.answers.options import SearchOptions
from tests.search.gallery_oracle import bundle_with_photos
from tests.search.test_commands import search


def test_answers_are_made_judged_and_reported_as_by_the_command(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beam = SearchOptions(mode="beam", probes=1)
    spec = RunSpec(
        registry=world / "R", photos=str(world / "photos.csv"), checkpoint=str(world / "C"), split="a", search=beam
    )
    config, run_config = EvaluateConfig(split="a"), RunConfig(check_recall=10)
    made = evaluate(
        spec,
        world / "photos.csv",
        config=config,
        report=str(tmp_path / "P"),
        out=str(tmp_path / "O"),
        run_config=run_config,
    )
    assert made.run is not None
    assert (made.run.rows, made.run.ok, made.crops) == (4, 3, "one")
    assert "against exact search, on 3 of the queries" in made.text()
    assert (tmp_path / "P" / "report.html").is_file()
    given = ["--registry", world / "R", "--checkpoint", world / "C", "--split", "a", "--mode", "beam", "--probes", 1]
    assert search("evaluate", "--truth", world / "photos.csv", *given, "--check-recall", 10, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(made.to_dict()))

    kept = evaluate(tmp_path / "O", world / "photos.csv", config=config)
    assert (kept.run, kept.crops) == (None, None)
    assert kept.to_dict().items() <= made.to_dict().items()
    with pytest.raises(InputError, match="exists already"):  # before any work
        evaluate(spec, world / "photos.csv", report=tmp_path / "P", out=tmp_path / "O2")
    assert not (tmp_path / "O2").exists()


def test_vectors_of_the_truth_will_do(world: Path, tmp_path: Path) -> None:
    photos = {"photos": str(world / "photos.csv"), "checkpoint": str(world / "C")}
    run(RunSpec(registry=world / "R", **photos), tmp_path / "O", config=RunConfig(save_features=tmp_path / "F"))
    made = evaluate(RunSpec(registry=world / "R", features=tmp_path / "F"), str(world / "photos.csv"))
    assert made.crops is None
    assert made.evaluation.accuracy == evaluate(tmp_path / "O", world / "photos.csv").evaluation.accuracy


def test_gallery_photos_of_the_owner_are_left_out_of_a_benchmark(
    world: Path,
    hierarchy: Hierarchy,
    hierarchy_folder: Path,
    placed: Placed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a column of the benchmark's own table, as GeoEstimation's tables have AUTHOR."""
    home = shutil.copytree(world, tmp_path / "world", symlinks=True)
    registry, whose = Registry(home / "R"), ["ann" if row % 2 else "ben" for row in range(len(placed.photo))]
    bundle = bundle_with_photos(
        hierarchy, hierarchy_folder, load_geocells(home / "C"), placed, registry.versions_folder, owners=whose
    )
    registry.publish(bundle.version)
    lines = ["IMG_ID,AUTHOR,LON,LAT", "0.png,ann,20,10", "1.png,ben,30,20", "2.png,,40,30"]
    (home / "im2gps3k_places365.csv").write_text("\n".join(lines) + "\n")
    spec = RunSpec(
        registry=home / "R",
        photos=str(home),
        checkpoint=str(home / "C"),
        search=SearchOptions(gallery="all", gallery_photos=40),
    )
    config = EvaluateConfig(benchmark="im2gps3k")
    made = evaluate(
        replace(spec, owner_column="AUTHOR"), home, config=config, out=tmp_path / "O", report=tmp_path / "P"
    )
    of_photo = dict(zip(placed.photo.tolist(), whose, strict=True))
    told = pyarrow.parquet.read_table(tmp_path / "O")["gallery_photo"].to_pylist()
    assert [{of_photo[photo] for photo in photos} for photos in told] == [{"ben"}, {"ann"}, {"ann", "ben"}]
    line = "gallery photos of a photo's own owner were left out, by its column AUTHOR"
    assert made.to_dict()["owner_column"] == "AUTHOR"
    assert line in made.text()
    assert line in (tmp_path / "P" / "report.html").read_text().replace("&#39;", "'")
    assert "ann" not in {word.strip(",;:") for word in made.text().split()}
    # The figures of two runs that looked at different photos are not of one test, which is told.
    evaluate(spec, home, config=config, out=tmp_path / "all")
    both = evaluate(tmp_path / "O", home, config=replace(config, against=tmp_path / "all"))
    assert "looked at all gallery photos: the two are not the same test" in both.text()
    back = evaluate(tmp_path / "all", home, config=replace(config, against=tmp_path / "O"))
    assert "gallery photos but the owner's, by the column AUTHOR: the two are not the same test" in back.text()
    assert back.to_dict()["owner_column"] is None
    command = ["evaluate", "--registry", home / "R", "--checkpoint", home / "C", "--truth", home]
    command += ["--benchmark", "im2gps3k", "--owner-column", "AUTHOR", "--crops", "one", "--gallery", "all"]
    assert search(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["median_km"] == made.evaluation.accuracy.median_km
    (home / "info.json").write_text(json.dumps({"0.png": ["latitude: 10", "longitude: 20"]}))
    with pytest.raises(InputError, match="has no columns"):
        evaluate(replace(spec, owner_column="AUTHOR"), home / "info.json", config=config)


def test_owners_go_with_answers_that_are_made(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.csv").write_text("photo,lat,lng\n0,0,0\n")
    judged = ["evaluate", "--predictions", tmp_path / "p.csv", "--truth", world / "photos.csv"]
    assert search(*judged, "--owner-column", "who") == 2
    assert "--owner-column goes with --registry" in capsys.readouterr().err


def test_tables_of_the_benchmarks_that_are_there(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in (("IM2GPS", (0, 1)), ("gws15k", (2, 4))):
        (tmp_path / "B" / name / "images").mkdir(parents=True)
        for row in rows:
            shutil.copy(world / f"{row}.png", tmp_path / "B" / name / "images")
        lines = ["photo,lat,lng", *(f"{row}.png,{10 * row},{20 * row}" for row in rows)]
        file = "im2gps_places365.csv" if name == "IM2GPS" else "gws15k.csv"
        (tmp_path / "B" / name / file).write_text("\n".join(lines) + "\n")
    evaluate_all = ["evaluate", "--tables", "--truth", tmp_path / "B", "--resamples", 0]
    made_here = [*evaluate_all, "--registry", world / "R", "--checkpoint", world / "C"]
    assert search(*made_here, "--out", tmp_path / "O", "--report", tmp_path / "P") == 0
    text = capsys.readouterr().out
    assert text.count("this run, 2 photos") == 2
    assert "Table II, IM2GPS3k, is missing" in text
    assert "for figures to publish it is float32" in text
    assert "the paper's are by cells alone (--gallery off)." in " ".join(text.split())
    assert text.index("Table I, IM2GPS") < text.index("Table V, GWS15k")
    assert sorted(path.name for path in (tmp_path / "P").iterdir()) == [
        "manifest.json",
        "report.html",
        "tables.csv",
        "tables.md",
    ]
    assert search(*evaluate_all, "--predictions", tmp_path / "O", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    one = evaluate(tmp_path / "O" / "im2gps", tmp_path / "B" / "IM2GPS", config=EvaluateConfig(benchmark="im2gps"))
    assert list(data["benchmarks"]) == ["im2gps", "gws15k"]
    assert data["benchmarks"]["im2gps"]["within"] == one.to_dict()["within"]
    assert len(data["missing"]) == 3
    assert search(*made_here, "--out", tmp_path / "O", "--json") == 0  # the job goes on, and has nothing left to do
    assert json.loads(capsys.readouterr().out)["benchmarks"]["im2gps"]["crops"] == "ten"
    assert search(*made_here, "--precision", "float32", "--gallery", "off") == 0
    text = capsys.readouterr().out
    assert "precision of the encoder: float32." in text
    assert "Answers are by cells alone, as the paper's are." in " ".join(text.split())
    assert search(*made_here, "--benchmark", "im2gps") == 2
    assert "--tables says what is measured" in capsys.readouterr().err
    (tmp_path / "B" / "gws15k" / "images").rename(tmp_path / "elsewhere")
    assert search(*made_here, "--out", tmp_path / "O2") == 2
    assert "none of its 2 photos is in" in capsys.readouterr().err
    assert not (tmp_path / "O2").exists()  # before any photo of another set was answered
    shutil.rmtree(tmp_path / "O" / "gws15k")
    assert search(*evaluate_all, "--predictions", tmp_path / "O") == 2
    assert "no answers to gws15k" in capsys.readouterr().err
