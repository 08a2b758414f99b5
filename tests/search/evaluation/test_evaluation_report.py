"""An evaluation as data and as text: everything agreed on is there, and the text says what the data say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from indexer.photos.sources import PhotoTable
from search.evaluation.evaluate import Evaluation, LeftOut, compare
from search.evaluation.evaluation_report import evaluation_data, evaluation_text, near_duplicates_table
from search.evaluation.options import EvaluateConfig, Resampling
from search.evaluation.published import SOURCES, TABLES

CONFIG = EvaluateConfig(resampling=Resampling(200, 1))
PLAIN = EvaluateConfig(resampling=Resampling(0))


def evaluation(n: int = 60, *, shift_deg: float = 1.0, missing: int = 3, config: EvaluateConfig = CONFIG) -> Evaluation:
    """Photos around the equator, each answer some degrees north of it, the first few without an answer."""
    rng = np.random.default_rng(0)
    lat, lng = rng.uniform(-50, 60, n), rng.uniform(-180, 180, n)
    answer = lat + shift_deg * rng.exponential(1.0, n).clip(0, 20)
    answer[:missing] = np.nan
    photos = PhotoTable([f"{row}.jpg" for row in range(n)], lat, lng)
    return Evaluation(photos, answer, np.where(np.isnan(answer), np.nan, lng), "whole name", config)


def test_the_agreed_keys_are_there_and_json_can_hold_it() -> None:
    result = evaluation()
    data = json.loads(json.dumps(evaluation_data(result), allow_nan=False))
    assert data["n"] == 60
    assert data["median_km"] == result.accuracy.median_km
    assert data["mean_km"] == result.accuracy.mean_km
    assert data["within"] == dict(result.accuracy.within)
    assert set(data["within"]) == {"1", "25", "200", "750", "2500"}
    assert data["answered"]["n"] == 57
    assert data["geoscore"] == result.accuracy.geoscore
    assert data["intervals"]["median_km"][0] <= data["median_km"] <= data["intervals"]["median_km"][1]
    assert len(data["recall_by_area"]["discs"]) == len(data["recall_by_area"]["area_km2"])
    assert sum(group["n"] for group in data["countries"]) == sum(group["n"] for group in data["continents"]) == 60
    assert not {"benchmark", "published", "against", "without"} & set(data)


def test_text_counts_misses_and_gives_intervals() -> None:
    result = evaluation()
    text = evaluation_text(result)
    assert text.startswith(f"60 photos, median {result.accuracy.median_km:.1f} km")
    assert "3 without an answer, which count as misses; among the 57 answered" in text
    assert "95 % interval" in text
    assert "A country is that of the nearest city" in text
    assert "matched by" not in text
    plain = evaluation_text(evaluation(config=PLAIN), what="a run")
    assert plain.startswith("a run: 60 photos")
    assert "interval" not in plain


@pytest.mark.parametrize("benchmark", TABLES)
def test_the_papers_rows_stand_beside(benchmark: str) -> None:
    result = evaluation(config=EvaluateConfig(resampling=Resampling(0), benchmark=benchmark))
    assert evaluation_data(result)["published"]["table"] == TABLES[benchmark].number  # type: ignore[index]
    text = evaluation_text(result)
    rows = TABLES[benchmark].rows  # type: ignore[index]
    (line,) = (line for line in text.splitlines() if "GeoSURGE (Ours)" in line)
    assert [float(cell) for cell in line.split()[2:]] == list(rows["GeoSURGE (Ours)"].within)
    for method, row in rows.items():  # of others with the source beside, which is described below
        assert (f"{method} ({row.source})" in text) == row.others
        assert not row.others or f"{row.source}: {SOURCES[row.source]}" in " ".join(text.split("\n"))
        assert row.in_the_paper in " ".join(text.split("\n"))


def test_other_thresholds_have_no_published_figure() -> None:
    config = EvaluateConfig(resampling=Resampling(0), benchmark="im2gps3k", thresholds_km=(25.0, 100.0))
    text = evaluation_text(evaluation(config=config))
    (line,) = (line for line in text.splitlines() if "GeoSURGE (Ours)" in line)
    assert line.split()[2:] == ["42.5", "-"]


def test_a_benchmark_the_paper_does_not_have() -> None:
    result = evaluation(config=EvaluateConfig(resampling=Resampling(0), benchmark="osv5m"))
    assert evaluation_data(result)["published"] is None
    assert "The paper has no table of osv5m." in evaluation_text(result)


def test_verdicts_of_a_comparison() -> None:
    ours, same, worse = evaluation(), evaluation(), evaluation(shift_deg=8.0)
    for theirs, verdict in ((same, "not distinguishable"), (worse, "better")):
        compared = replace(ours, against=compare(ours, theirs, name="other"))
        difference = evaluation_data(compared)["against"]["difference"]
        assert {difference[name]["verdict"] for name in ("median_km", "mean_km", "geoscore")} == {verdict}
        assert difference["geoscore"]["difference"] == ours.accuracy.geoscore - theirs.accuracy.geoscore
        assert verdict in evaluation_text(compared)
    back = evaluation_data(replace(worse, against=compare(worse, ours, name="o")))
    assert back["against"]["difference"]["median_km"]["verdict"] == "worse"


def test_with_and_without_left_out_photos() -> None:
    result = evaluation()
    left_out = np.arange(60) < 10
    rest = replace(result, left_out=LeftOut(["A"], 10, result.without(left_out)))
    data = evaluation_data(rest)
    assert data["n"] == 60
    assert data["without"]["figures"]["n"] == 50
    assert "without the 10 of A" in evaluation_text(rest)
    nobody = replace(result, left_out=LeftOut(["A"], 60, None))
    assert evaluation_data(nobody)["without"]["figures"] is None
    assert "no photo is left" in evaluation_text(nobody)


def test_figures_with_and_without_near_duplicates_stand_side_by_side() -> None:
    result = evaluation()
    assert evaluation_data(result)["near_duplicates"] is None
    assert "python -m search audit" in evaluation_text(result)
    twins = np.arange(60) < 10
    near = LeftOut(["A"], 10, result.without(twins), result.without(~twins))
    found = replace(result, near_duplicates=near)
    data = evaluation_data(found)["near_duplicates"]
    assert (data["audit"], data["photos"], data["without"]["n"], data["alone"]["n"]) == ("A", 10, 50, 10)
    assert data["intervals"]["median_km"][0] <= data["without"]["median_km"] <= data["intervals"]["median_km"][1]
    table = near_duplicates_table(found, near)
    assert list(table.heads) == [
        *("", "all photos", "95 % interval", "without near-duplicates", "95 % interval", "near-duplicates alone"),
    ]
    cells = {row.cells[0]: row.cells[1:] for row in table.rows}
    assert [cells["photos"][column] for column in (0, 2, 4)] == ["60", "50", "10"]
    assert near.evaluation is not None
    assert cells["median, km"][0] == f"{result.accuracy.median_km:,.1f}"
    assert cells["median, km"][2] == f"{near.evaluation.accuracy.median_km:,.1f}"
    assert cells["within 25 km, %"][2] == f"{near.evaluation.accuracy.within['25']:.1f}"
    text = evaluation_text(found)
    assert table.text() in text
    assert "python -m search audit" not in text
    for all_or_none in (LeftOut(["A"], 60, None, result), LeftOut(["A"], 0, result, None)):
        assert len(near_duplicates_table(result, all_or_none).rows) == len(table.rows)
        assert "-" in near_duplicates_table(result, all_or_none).text()


def test_metres_are_told_of_errors_below_a_kilometre() -> None:
    result = evaluation(shift_deg=0.002)
    assert result.accuracy.median_km < 1
    assert f"median {1000 * result.accuracy.median_km:.0f} m" in evaluation_text(result)
    assert "0.05" in evaluation_data(result)["within"]


def test_what_intervals_count_is_said() -> None:
    result = evaluation()
    assert "intervals over photos" in evaluation_text(result)
    assert evaluation_data(result)["intervals"]["of"] == "photos"
    together = replace(result, albums=np.arange(60) // 3)
    assert "intervals over 20 albums" in evaluation_text(together)
    assert evaluation_data(together)["intervals"]["of"] == "albums"
    other = replace(result, against=compare(result, together, name="albums"))
    assert evaluation_data(other)["against"]["of"] == "albums"
    assert "a column that the truth does not have" in evaluation_text(replace(result, unknown_album="trip"))


def test_no_answer_at_all_is_said() -> None:
    result = evaluation(5, missing=5)
    data = evaluation_data(result)
    assert data["answered"] is None
    assert data["geoscore"] == 0
    assert "no photo has an answer" in evaluation_text(result)


def test_lines_fit_a_wide_terminal() -> None:
    result = evaluation(config=replace(CONFIG, benchmark="im2gps3k"))
    assert max(map(len, evaluation_text(result).splitlines())) <= 130
