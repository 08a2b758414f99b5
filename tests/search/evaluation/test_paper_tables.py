"""Tables I to V beside one's own answers: the same figures in all forms, and a word for each benchmark not there."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import InputError
from indexer.photos.sources import PhotoTable
from search.evaluation.evaluate import Evaluation
from search.evaluation.options import BenchmarkName, EvaluateConfig, Resampling
from search.evaluation.paper_tables import PaperTables, benchmark_folders, missing_benchmarks
from search.evaluation.published import TABLES

RESAMPLING = Resampling(200)


def judged(benchmark: BenchmarkName, *, resampling: Resampling = RESAMPLING) -> Evaluation:
    """Eight photos: three of them within 1 km, the others 2 degrees of latitude off, but one without an answer."""
    lat, north = np.linspace(-40.0, 40.0, 8), np.array([0, 0, 0, 2, 2, 2, 2, np.nan])
    photos = PhotoTable([f"{row}.jpg" for row in range(8)], lat, np.zeros(8))
    config = EvaluateConfig(benchmark=benchmark, resampling=resampling)
    return Evaluation(photos, lat + north, np.where(np.isnan(north), np.nan, 0.0), "whole name", config)


def test_all_forms_say_the_same_of_these_answers_and_of_others() -> None:
    there: tuple[BenchmarkName, ...] = ("im2gps3k", "gws15k")
    tables = PaperTables({name: judged(name) for name in there}, ["Table I is missing."], ["Ten crops."])
    ours = ["37.5", "37.5", "37.5", "87.5", "87.5"]
    page, text = tables.markdown(), tables.text()
    for form in (page, text):
        assert form.count("this run, 8 photos") == 2
        assert all(
            line in form for line in ("Table II, IM2GPS3k", "Table V, GWS15k", "Table I is missing.", "Ten crops.")
        )
    lines = [line.split("|") for line in page.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line[2:-1]] for line in lines if "this run" in line[1]] == [ours, ours]
    rows = list(csv.DictReader(io.StringIO(tables.csv())))
    assert [(row["table"], row["method"]) for row in rows] == [
        (TABLES[name].number, method) for name in there for method in ("this run", *TABLES[name].rows)
    ]
    for row in rows:
        limits = ("1", "25", "200", "750", "2500")
        if row["method"] == "this run":
            assert ([float(row[limit]) for limit in limits], row["photos"]) == ([float(share) for share in ours], "8")
            assert all(
                float(row[f"{limit}_low"]) <= float(row[limit]) <= float(row[f"{limit}_high"]) for limit in limits
            )
        else:
            published = TABLES[row["benchmark"]].rows[row["method"]]  # type: ignore[index]
            assert [float(row[limit]) if row[limit] else None for limit in limits] == list(published.within)
            assert (row["source"], row["1_low"]) == (published.source, "")
            assert row["in_the_paper"] == published.in_the_paper
            assert row["in_the_paper"] in page


def test_every_form_for_people_says_where_photos_are_others_than_the_published_ones() -> None:
    tables = PaperTables({"im2gps": judged("im2gps"), "gws15k": judged("gws15k")}, [])
    for form in (tables.markdown(), tables.text()):
        assert "Published figures are of 237 photos, these of 8: not comparable." in form
        assert form.count("never published") == 1
    whole = replace(judged("im2gps"), photos=PhotoTable(["x"] * 237, np.zeros(237), np.zeros(237)))
    whole = replace(whole, lat_deg=np.zeros(237), lng_deg=np.zeros(237))
    assert "not comparable" not in PaperTables({"im2gps": whole}, []).markdown()


def test_without_draws_there_are_no_intervals() -> None:
    tables = PaperTables({"im2gps": judged("im2gps", resampling=Resampling(0))}, [])
    assert "interval" not in tables.text()
    assert next(csv.DictReader(io.StringIO(tables.csv())))["1_low"] == ""


def test_folders_are_found_by_their_names_in_the_papers_order(tmp_path: Path) -> None:
    for name in ("YFCC-4k", "IM2GPS", "osv5m", "else"):
        (tmp_path / name).mkdir()
    (tmp_path / "im2gps3k").write_text("no folder")
    there = benchmark_folders(tmp_path)
    assert there == {"im2gps": tmp_path / "IM2GPS", "yfcc4k": tmp_path / "YFCC-4k"}
    assert list(there) == ["im2gps", "yfcc4k"]
    missing = missing_benchmarks(tmp_path, there)
    assert [line.split(",")[0] for line in missing] == ["Table II", "Table IV", "Table V"]
    assert f"into {tmp_path / 'yfcc26k'}." in missing[1]
    assert "yfcc25600_places365.csv" in missing[1]
    assert "never published" in missing[2]
    (tmp_path / "yfcc4k").mkdir()
    with pytest.raises(InputError, match="are both yfcc4k"):
        benchmark_folders(tmp_path)


@pytest.mark.parametrize("folder", ["nothing", "empty"])
def test_no_benchmark_at_all_is_an_error_that_says_where_each_goes(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="none of the paper's benchmarks") as caught:
        benchmark_folders(tmp_path / folder)
    assert all(str(tmp_path / folder / name) in str(caught.value) for name in TABLES)
