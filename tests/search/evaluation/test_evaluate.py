"""Evaluation: joins that cannot mix photos up, misses that count, tables from anyone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.disk.manifest import file_digest
from indexer.earth import s2
from indexer.earth.geo import haversine_km
from indexer.errors import InputError
from search.evaluation import evaluate
from search.evaluation.evaluate import compare, evaluate_predictions, leave_out, leave_out_duplicates
from search.evaluation.evaluation_report import evaluation_text
from search.evaluation.findings import NearDuplicates
from search.evaluation.options import EvaluateConfig, Resampling
from tests.photo_files import jpeg, located
from tests.search.evaluation.test_findings import written_audit
from tests.search.evaluation.test_truth import LAYOUTS, PHOTOS


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


def test_photos_that_say_where_they_were_taken_are_a_truth(tmp_path: Path) -> None:
    for name, content in {"a.jpg": located(0.5, 0), "in/b.jpg": located(10, -10), "c.jpg": jpeg()}.items():
        (tmp_path / "P" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "P" / name).write_bytes(content)
    predictions = csv(tmp_path / "p.csv", "photo,lat,lng\na.jpg,0,0\nin/b.jpg,10,-10\nc.jpg,3,3\n")
    result = evaluate_predictions(predictions, tmp_path / "P")
    assert list(result.photos.photo) == ["a.jpg", "in/b.jpg"]
    np.testing.assert_allclose(result.distance_km, [0.5 * 111.195, 0], atol=1e-2)


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
    with pytest.raises(InputError, match="Give an audit's folder as `audit`"):
        leave_out(result, [tmp_path / "A"])
    # An audit that found nothing is a good one.
    pyarrow.parquet.write_table(pa.table({"photo": pa.array([], pa.string())}), tmp_path / "A" / "leaks.parquet")
    assert leave_out(result, [tmp_path / "A" / "leaks.parquet"]).n_left_out == 0


def test_figures_without_near_duplicates_are_those_of_the_other_photos(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", "photo,lat,lng\na,0,0\nb,10,10\nc,0,179.9\nd,20,0\n")
    predictions = csv(tmp_path / "p.csv", "photo,lat,lng\na,0,0\nb,11,10\nc,0,179.9\nd,50,0\n")
    audit = written_audit(tmp_path / "A", ["c", "a"], ["d"])
    result = evaluate_predictions(predictions, truth, config=EvaluateConfig(audit=audit))
    near = result.near_duplicates
    assert near is not None
    assert (near.n_left_out, near.lists) == (2, [str(audit)])
    assert near.evaluation is not None
    assert near.alone is not None
    assert near.evaluation.photos.photo == ["b", "d"]
    assert near.evaluation.distance_km.tolist() == result.distance_km[[1, 3]].tolist()
    assert near.alone.accuracy.within["1"] == 100
    assert near.alone.photos.photo == ["a", "c"]
    clean = leave_out_duplicates(result, written_audit(tmp_path / "B", []), truth=truth)
    assert clean.evaluation is not None
    assert (clean.n_left_out, clean.evaluation.accuracy, clean.alone) == (0, result.accuracy, None)


def test_an_audit_of_other_photos_is_refused_and_one_of_fewer_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = csv(tmp_path / "t.csv", "photo,lat,lng,split\na,0,0,x\nb,10,10,y\nc,0,179.9,x\n")
    predictions = csv(tmp_path / "p.csv", TRUTH)
    config = EvaluateConfig(audit=written_audit(tmp_path / "A", ["elsewhere"]))
    with pytest.raises(InputError, match="None of the 1 photos"):
        evaluate_predictions(predictions, truth, config=config)
    assert not caplog.records
    config = EvaluateConfig(audit=written_audit(tmp_path / "B", ["a"], photos=2))
    assert evaluate_predictions(predictions, truth, config=config).near_duplicates is not None
    assert "2 photos were audited, and the truth has 3" in caplog.text
    # All splits of a table may be audited at once, and no near-duplicate be of the one that is used.
    audited = NearDuplicates(["b"], 3, file_digest(truth))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "near_duplicates", lambda _: audited)
        config = EvaluateConfig(audit=tmp_path, split="x")
        near = evaluate_predictions(predictions, truth, config=config).near_duplicates
    assert near is not None
    assert near.n_left_out == 0


def test_streets_are_told_where_half_of_the_photos_are_placed_within_a_kilometre(tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv", "photo,lat,lng\na,0,0\nb,10,10\nc,20,20\n")
    near = csv(tmp_path / "p.csv", "photo,lat,lng\na,0,0\nb,10.003,10\nc,40,20\n")  # 0, 334 m, 2,224 km
    far = csv(tmp_path / "q.csv", "photo,lat,lng\na,0,0\nb,10.3,10\nc,40,20\n")  # 0, 33 km, 2,224 km
    lists = (str(csv(tmp_path / "l.csv", "photo\na\nb\n")),)
    config = EvaluateConfig(resampling=Resampling(100), against=far, exclude=lists)
    result = evaluate_predictions(near, truth, config=config)
    streets = ["0.05", "0.1", "0.2", "0.5", "1", "25", "200", "750", "2500"]
    assert list(result.accuracy.within) == streets
    assert [round(share) for share in result.accuracy.within.values()] == [33, 33, 33, 67, 67, 67, 67, 67, 100]
    assert result.against is not None
    assert result.left_out is not None
    assert result.left_out.evaluation is not None
    assert result.intervals is not None
    # What stands beside has the same distances, whatever its own median is.
    for within in (
        result.against.evaluation.accuracy.within,
        result.against.difference.within,
        result.left_out.evaluation.accuracy.within,
        result.intervals.within,
        *(group.within for group in result.by_country.values()),
    ):
        assert list(within) == streets
    usual = evaluate_predictions(far, truth, config=EvaluateConfig(against=near))
    assert list(usual.accuracy.within) == streets[4:]
    assert usual.against is not None
    assert list(usual.against.evaluation.accuracy.within) == streets[4:]
    asked = evaluate_predictions(near, truth, config=EvaluateConfig(thresholds_km=(1.0, 25.0)))
    assert list(asked.accuracy.within) == ["1", "25"]


def test_photos_of_an_album_that_err_alike_count_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    albums, photos = 40, 10
    lat = rng.uniform(-50, 50, albums).repeat(photos)
    error_deg = rng.exponential(2.0, albums).repeat(photos)
    names = [f"{row}" for row in range(albums * photos)]
    columns = {"photo": names, "lat": lat, "lng": 0.0 * lat, "trip": np.repeat(np.arange(albums), photos)}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    answers = {"photo": names, "lat": lat + error_deg, "lng": 0.0 * lat}
    pyarrow.parquet.write_table(pa.table(answers), tmp_path / "p.parquet")
    plain, together = (
        evaluate_predictions(tmp_path / "p.parquet", tmp_path / "t.parquet", config=EvaluateConfig(album=column))
        for column in (None, "trip")
    )
    assert plain.accuracy == together.accuracy
    assert (plain.n_albums, together.n_albums) == (None, albums)
    assert plain.intervals is not None
    assert together.intervals is not None
    for name in ("median_km", "mean_km", "geoscore"):
        narrow, wide = (getattr(each, name) for each in (plain.intervals, together.intervals))
        assert wide.high - wide.low > 2 * (narrow.high - narrow.low), name  # the root of 10 is 3.2
    rest = together.without(np.arange(albums * photos) < 5 * photos)
    assert rest is not None
    assert rest.n_albums == albums - 5
    with pytest.raises(InputError, match="no column 'day'"):
        evaluate_predictions(tmp_path / "p.parquet", tmp_path / "t.parquet", config=EvaluateConfig(album="day"))


def test_answers_to_albums_say_so_themselves(tmp_path: Path) -> None:
    (tmp_path / "O").mkdir()
    columns = {"row": [0, 1, 2], "photo": ["a", "b", "c"], "lat": [0.0, 10, 0], "lng": [0.0, 10, 179.9]}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "O" / "part-0.parquet")
    job = {"kind": "predictions", "schema_version": 1, "options": {"album": "trip"}, "inputs": {}}
    (tmp_path / "O" / "_job.json").write_text(json.dumps(job))
    (tmp_path / "O" / "_manifest.json").write_text("{}")
    known = csv(tmp_path / "t.csv", "photo,lat,lng,trip\na,0,0,x\nb,10,10,x\nc,0,179.9,\n")
    result = evaluate_predictions(tmp_path / "O", known)
    assert result.albums is not None
    assert result.albums.tolist() == [0, 0, 1]
    unknown = evaluate_predictions(tmp_path / "O", csv(tmp_path / "u.csv", TRUTH))
    assert (unknown.albums, unknown.unknown_album) == (None, "trip")


def album_answers(folder: Path, photos: list[str], album: list[int] | None) -> Path:
    """Predictions as `run --album trip` writes them: (1, 2) of every photo, and where they are known the albums."""
    folder.mkdir()
    columns = {"row": range(len(photos)), "photo": photos, "lat": [1.0] * len(photos), "lng": [2.0] * len(photos)}
    table = pa.table(columns if album is None else {**columns, "album": album})
    pyarrow.parquet.write_table(table, folder / "part-0.parquet")
    job = {"kind": "predictions", "schema_version": 1, "options": {"album": "trip"}, "inputs": {}}
    (folder / "_job.json").write_text(json.dumps(job))
    (folder / "_manifest.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("benchmark", "name", "content"), LAYOUTS, ids=[f"{b}-{n}" for b, n, _ in LAYOUTS])
def test_albums_are_those_of_the_answers_whatever_the_truth_is(
    benchmark: str, name: str, content: str, tmp_path: Path
) -> None:
    """The second photo was asked with one that the truth does not know, the first and the last together."""
    names = [photo for photo, _, _ in PHOTOS]
    answers = album_answers(tmp_path / "O", ["other.jpg", names[2], names[1], names[0]], [7, 4, 7, 4])
    alone = album_answers(tmp_path / "P", names[:2], [3, 3])  # the last one was not asked
    (tmp_path / name).write_text(content)
    config = EvaluateConfig(benchmark=benchmark)
    for truth in (tmp_path / name, tmp_path) if name != "any.csv" else (tmp_path / name,):
        result = evaluate_predictions(answers, truth, config=config)
        assert result.albums is not None
        assert result.albums.tolist() == [4, 7, 4]
        assert (result.n_albums, result.unknown_album) == (2, None)
        expected = haversine_km(*(np.array(column, float) for column in zip(*(at[1:] for at in PHOTOS), strict=True)),
                                np.ones(3), np.full(3, 2.0))  # fmt: skip
        np.testing.assert_allclose(result.distance_km, expected)  # each photo by its own place
        missed = evaluate_predictions(alone, truth, config=config)
        assert missed.albums is not None
        assert missed.albums[0] == missed.albums[1] != missed.albums[2]
        assert missed.accuracy.answered == 2


def test_intervals_are_the_same_whoever_says_which_photos_are_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lines = [json.dumps({"ID": f"{row}.jpg", "LAT": rng.uniform(-60, 60), "LON": 0.0}) for row in range(60)]
    csv(tmp_path / "meta.jsonl", "\n".join(lines))
    rows = [json.loads(line) for line in lines]
    text = "".join(f"{row['ID']},{row['LAT']},{row['LON']},{number % 12}\n" for number, row in enumerate(rows))
    table = csv(tmp_path / "t.csv", f"photo,lat,lng,event\n{text}")
    answers = album_answers(tmp_path / "O", [row["ID"] for row in rows], [number % 12 for number in range(60)])
    config = EvaluateConfig(benchmark="gws15k", resampling=Resampling(200))
    by_answers = evaluate_predictions(answers, tmp_path / "meta.jsonl", config=config)
    by_truth = evaluate_predictions(answers, table, config=EvaluateConfig(album="event", resampling=Resampling(200)))
    assert by_answers.n_albums == 12
    assert by_answers.intervals == by_truth.intervals


def test_a_benchmarks_own_table_may_say_which_photos_are_together(tmp_path: Path) -> None:
    lines = ["IMG_ID,AUTHOR,LAT,LON", "a.jpg,ann,0,0", "b.jpg,ben,10,10", "c.jpg,ann,20,20"]
    csv(tmp_path / "im2gps_places365.csv", "\n".join(lines) + "\n")
    answers = csv(tmp_path / "p.csv", "photo,lat,lng\na,0,0\nb,10,10\nc,20,20\n")  # of somebody else
    config = EvaluateConfig(benchmark="im2gps", album="AUTHOR")
    result = evaluate_predictions(answers, tmp_path, config=config)
    assert result.albums is not None
    assert result.albums.tolist() == [0, 1, 0]
    with pytest.raises(InputError, match="no column 'trip'"):
        evaluate_predictions(answers, tmp_path, config=EvaluateConfig(benchmark="im2gps", album="trip"))
    records = csv(tmp_path / "info.json", json.dumps({"a.jpg": ["latitude: 0", "longitude: 0"]}))
    with pytest.raises(InputError, match=r"has no columns\. Give the truth as a table with photo, lat, lng and AUTHOR"):
        evaluate_predictions(answers, records, config=config)


def test_answers_that_do_not_say_their_albums_take_a_column_of_the_truth_or_none(tmp_path: Path) -> None:
    answers = album_answers(tmp_path / "O", ["a.jpg", "b.jpg", "c.jpg"], None)
    csv(tmp_path / "im2gps_places365.csv", "IMG_ID,trip,LAT,LON\na.jpg,x,0,0\nb.jpg,y,10,10\nc.jpg,x,20,20\n")
    config = EvaluateConfig(benchmark="im2gps")
    known = evaluate_predictions(answers, tmp_path, config=config)
    assert known.albums is not None
    assert (known.albums.tolist(), known.unknown_album) == ([0, 1, 0], None)
    records = csv(tmp_path / "info.json", json.dumps({"a.jpg": ["latitude: 0", "longitude: 0"]}))
    unknown = evaluate_predictions(answers, records, config=config)
    assert (unknown.albums, unknown.unknown_album) == (None, "trip")


def test_an_album_with_a_near_duplicate_is_left_out_whole(tmp_path: Path) -> None:
    answers = album_answers(tmp_path / "O", list("abcd"), [0, 0, 1, 1])
    truth = csv(tmp_path / "t.csv", "photo,lat,lng\na,0,0\nb,10,10\nc,20,20\nd,30,30\n")
    lists = (str(csv(tmp_path / "l.csv", "photo\nb\n")),)
    config = EvaluateConfig(audit=written_audit(tmp_path / "A", ["b"]), exclude=lists)
    result = evaluate_predictions(answers, truth, config=config)
    near, named = result.near_duplicates, result.left_out
    assert near is not None
    assert near.evaluation is not None
    assert near.alone is not None
    assert (near.n_left_out, near.evaluation.photos.photo, near.alone.photos.photo) == (2, ["c", "d"], ["a", "b"])
    assert near.evaluation.n_albums == 1
    assert named is not None
    assert named.n_left_out == 1  # lists name photos
    assert "2 photos that have a near-duplicate, or whose album has one" in evaluation_text(result)


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
