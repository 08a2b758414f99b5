"""Evaluation: joins that cannot mix photos up, misses that count, tables from anyone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.earth import s2
from indexer.earth.geo import haversine_km
from indexer.errors import InputError
from search.evaluation.evaluate import compare, evaluate_predictions, leave_out
from search.evaluation.options import EvaluateConfig, Resampling


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


TRUTH = "photo,lat,lng\na,0,0\nb,10,10\nc,0,179.9\n"


def test_distances_and_shares_by_hand(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    result = evaluate_predictions(csv(tmp_path / "p.csv", "photo,lat,lng\nc,0,-179.9\nb,11,10\na,0,0\n"), truth)
    expected = haversine_km(
        np.array([0, 10, 0]), np.array([0, 10, 179.9]), np.array([0, 11, 0]), np.array([0, 10, -179.9])
    )
    np.testing.assert_allclose(result.distance_km, expected)
    assert result.accuracy.n == 3
    assert result.accuracy.within["1"] == pytest.approx(100 / 3)
    assert result.accuracy.within["25"] == pytest.approx(200 / 3)
    assert result.accuracy.within["200"] == pytest.approx(100)
    assert result.answered == result.accuracy


def test_photos_without_an_answer_are_misses(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    result = evaluate_predictions(csv(tmp_path / "p.csv", "photo,lat,lng\na,0,0\nb,,\n"), truth)
    assert np.isnan(result.distance_km).tolist() == [False, True, True]
    assert result.accuracy.within["2500"] == pytest.approx(100 / 3)
    assert result.accuracy.median_km > 20_000
    assert result.answered is not None
    assert (result.answered.n, result.answered.within["1"]) == (1, 100)


def test_names_may_repeat_when_both_tables_are_the_same(tmp_path: Path) -> None:
    text = "photo,lat,lng\na,0,0\na,10,10\n"
    assert (
        evaluate_predictions(csv(tmp_path / "p.csv", text), csv(tmp_path / "t.csv", text)).accuracy.within["1"] == 100
    )
    with pytest.raises(InputError, match="'a' stands 2 times"):
        evaluate_predictions(csv(tmp_path / "p.csv", text), csv(tmp_path / "t2.csv", "photo,lat,lng\na,0,0\n"))
    with pytest.raises(InputError, match="'a' stands 2 times"):
        evaluate_predictions(csv(tmp_path / "p2.csv", "photo,lat,lng\na,0,0\n"), csv(tmp_path / "t.csv", text))


def test_a_folder_of_shards_is_read_in_row_order(tmp_path: Path) -> None:
    (tmp_path / "O").mkdir()
    for shard, rows in enumerate(([2], [0, 1])):
        columns = {"row": rows, "photo": ["abc"[r] for r in rows], "lat": [[0.0, 10, 0][r] for r in rows]}
        pyarrow.parquet.write_table(
            pa.table({**columns, "lng": [[0.0, 10, 179.9][r] for r in rows]}), tmp_path / "O" / f"part-{shard}.parquet"
        )
    (tmp_path / "O" / "_manifest.json").write_text("{}")
    assert evaluate_predictions(tmp_path / "O", csv(tmp_path / "t.csv", TRUTH)).accuracy.median_km == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,lat,lng\na,95,0\n", "lat is 95.0 in row 0"),
        ("photo,lat,lng\na,1,\n", "half a place"),
        ("photo,lat\na,1\n", "no column 'lng'"),
        ("photo,lat,lng\nx,1,1\n", "None of the 1 photos"),
    ],
)
def test_predictions_that_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_predictions(csv(tmp_path / "p.csv", text), csv(tmp_path / "t.csv", TRUTH))


def test_folders_that_hold_no_predictions(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    (tmp_path / "O").mkdir()
    with pytest.raises(InputError, match="O"):
        evaluate_predictions(tmp_path / "O", truth)
    with pytest.raises(InputError, match="no such file"):
        evaluate_predictions(tmp_path / "absent", truth)


def test_names_may_differ_by_folder_and_suffix(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", "photo,lat,lng\nx/a.jpg,0,0\nx/b.jpg,10,10\n")
    result = evaluate_predictions(csv(tmp_path / "p.csv", "photo,lat,lng\nb,10,10\na,0,0\n"), truth)
    assert result.distance_km.tolist() == [0, 0]
    assert result.compared_by == "file name without suffix"


def test_parts_of_the_world_hold_every_photo(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", "photo,lat,lng\na,48.86,2.35\nb,48.7,2.2\nc,-33.87,151.2\nd,40.7,-74\n")
    result = evaluate_predictions(csv(tmp_path / "p.csv", "photo,lat,lng\na,48.86,2.35\nc,-33.87,151.2\n"), truth)
    countries, continents = result.by_country, result.by_continent
    assert list(countries) == ["France", "Australia", "United States"]
    assert (countries["France"].n, countries["France"].answered, countries["France"].within["1"]) == (2, 1, 50)
    assert sum(figures.n for figures in continents.values()) == 4
    assert continents["Oceania"].geoscore == 5000


def test_left_out_photos_leave_the_rest_as_it_was(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    result = evaluate_predictions(csv(tmp_path / "p.csv", "photo,lat,lng\na,0,0\nb,11,10\nc,0,179.9\n"), truth)
    rest = leave_out(result, [csv(tmp_path / "l.csv", "photo,why\nx/b.jpg,copy\nx/b.jpg,exif\n")])
    assert rest.n_left_out == 1
    assert rest.evaluation is not None
    assert rest.evaluation.distance_km.tolist() == result.distance_km[[0, 2]].tolist()
    everything = leave_out(result, [csv(tmp_path / "all.csv", "photo\na\nb\nc\n")])
    assert (everything.n_left_out, everything.evaluation) == (3, None)


def test_lists_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    result = evaluate_predictions(csv(tmp_path / "p.csv", TRUTH), csv(tmp_path / "t.csv", TRUTH))
    with pytest.raises(InputError, match="None of the 1 photos"):
        leave_out(result, [csv(tmp_path / "l.csv", "photo\nelsewhere\n")])
    (tmp_path / "A").mkdir()
    with pytest.raises(InputError, match=r"no leaks\.parquet or duplicates\.parquet in it"):
        leave_out(result, [tmp_path / "A"])
    # An audit that found nothing is a good one.
    pyarrow.parquet.write_table(pa.table({"photo": pa.array([], pa.string())}), tmp_path / "A" / "leaks.parquet")
    assert leave_out(result, [tmp_path / "A"]).n_left_out == 0


def test_recall_by_area_of_cells_and_discs(tmp_path: Path) -> None:
    lat, lng = np.array([10.0, 20.0, 30.0]), np.array([10.0, 20.0, 30.0])
    own = s2.parents(s2.point_ids(lat, lng), 5)
    (tmp_path / "O").mkdir()
    columns = {"row": [0, 1, 2], "photo": ["a", "b", "c"], "lat": [10.0, 20, None], "lng": [10.0, 20, None]}
    cells = pa.array([[own[0]], [own[0]], None], pa.list_(pa.uint64()))
    pyarrow.parquet.write_table(pa.table({**columns, "top_s2_id": cells}), tmp_path / "O" / "part-0.parquet")
    truth = csv(tmp_path / "t.csv", "photo,lat,lng\nc,30,30\na,10,10\nb,20,20\n")  # another order
    curves = evaluate_predictions(tmp_path / "O", truth).recall_by_area([1e-6, float(s2.areas_km2(own[:1])[0]) * 1.01])
    np.testing.assert_allclose(curves["discs"], [200 / 3, 200 / 3])
    np.testing.assert_allclose(curves["cells"], [0, 100 / 3])


def test_a_comparison_takes_the_same_photos_of_both(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", TRUTH)
    one = evaluate_predictions(csv(tmp_path / "p.csv", TRUTH), truth, config=EvaluateConfig(resampling=Resampling(200)))
    other = evaluate_predictions(csv(tmp_path / "q.csv", "photo,lat,lng\nc,0,179.9\na,0,0\n"), truth)
    result = compare(one, other, name="other")
    assert result.evaluation.accuracy.answered == 2
    assert result.difference.within["1"].low >= 0
    assert result.difference.geoscore.high > 0
    config = EvaluateConfig(against=str(tmp_path / "q.csv"), resampling=Resampling(200))  # paths may be text
    whole = evaluate_predictions(str(tmp_path / "p.csv"), str(truth), config=config)
    assert whole.against is not None
    assert whole.against.difference == result.difference


def test_errors_are_those_of_a_published_result_table(tmp_path: Path) -> None:
    """Rows of TIBHannover/GeoEstimation, results/im2gps/base_M-m.csv, which is truth, answer and error in one."""
    table = csv(
        tmp_path / "base_M-m.csv",
        "img_id,gt_lat,predicted_lat,gt_long,predicted_long,great_circle_distance\n"
        "1095548455.jpg,31.893581,30.600370,-85.141124,-89.321708,422.60\n"
        "247766999.jpg,36.403107,-33.897864,-93.736736,151.172862,14221.73\n"
        "254755691.jpg,39.94133,39.916296,116.383666,116.390115,2.84\n",
    )
    result = evaluate_predictions(table, table, config=EvaluateConfig(benchmark="im2gps"))
    np.testing.assert_allclose(result.distance_km, [422.60, 14221.73, 2.84], atol=0.005)
