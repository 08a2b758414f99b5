"""Photo vectors on disk: our own folders, other people's files, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ArtifactError, BundleMismatch, InputError
from indexer.vectors import features
from indexer.vectors.features import FeatureBatch, FeatureSource, feature_table, joined, open_features, read_features
from indexer.vectors.geocells import load_geocells
from tests.conftest import unit_rows, write_features


def batch(n: int, seed: int, bad: int | None = None) -> FeatureBatch:
    vectors = unit_rows(n, 8, seed)
    status, reason, lat = ["ok"] * n, [""] * n, np.linspace(-80, 80, n)
    if bad is not None:
        vectors[bad], status[bad], reason[bad], lat[bad] = 0, "truncated", "ends too early", np.nan
    return FeatureBatch([f"{seed}-{row}" for row in range(n)], vectors, status, reason, lat, np.full(n, 7.0))


def folder(out: Path, *batches: FeatureBatch) -> Path:
    return write_features(out, *batches, encoder="abc")


def test_shards_come_back_as_written_and_in_order(tmp_path: Path) -> None:
    parts = [batch(5, 1, bad=2), batch(3, 2)]
    source = open_features(folder(tmp_path / "F", *parts))
    assert source.encoder == "abc"
    for read, written in zip(source, parts, strict=True):
        np.testing.assert_array_equal(read.embedding, written.embedding)
        np.testing.assert_array_equal(read.lat_deg, written.lat_deg)
        assert (read.photo, read.status, read.reason) == (written.photo, written.status, written.reason)
    whole = read_features(tmp_path / "F")
    assert len(whole) == 8
    assert whole.ok.tolist() == [True, True, False, True, True, True, True, True]


def test_which_photos_had_a_class_map_is_kept_where_it_is_known(tmp_path: Path) -> None:
    known = replace(batch(3, 1, bad=1), class_map=[True, None, False])
    assert read_features(folder(tmp_path / "F", known, known)).class_map == [True, None, False] * 2
    assert read_features(folder(tmp_path / "G", batch(3, 1))).class_map is None
    assert "class_map" not in feature_table(batch(3, 1)).column_names
    assert joined([batch(2, 1), known]).class_map == [None, None, True, None, False]
    ((_, cut),) = open_features(tmp_path / "F").cut(4, lambda shard: shard == 1)
    assert cut.class_map == [None, False]
    # What others call so may be something else.
    other = feature_table(batch(2, 1)).append_column("class_map", pa.array(["a.png", "b.png"]))
    pyarrow.parquet.write_table(other, tmp_path / "o.parquet")
    assert read_features(tmp_path / "o.parquet").class_map is None


def test_some_of_the_photos_keep_all_that_is_theirs() -> None:
    known = replace(batch(4, 1, bad=1), class_map=[True, None, False, True])
    for each in (known, batch(4, 1, bad=1)):
        taken = each.take([3, 1])
        whole = joined([each.take([row]) for row in range(4)])
        for have, want in ((taken, joined([each.take([3]), each.take([1])])), (whole, each)):
            assert (have.photo, have.status, have.reason, have.class_map) == (
                *(list(want.photo), list(want.status), list(want.reason)),
                want.class_map,
            )
            np.testing.assert_array_equal(have.embedding, want.embedding)
            np.testing.assert_array_equal(have.lat_deg, want.lat_deg)
            np.testing.assert_array_equal(have.lng_deg, want.lng_deg)


def test_a_plain_parquet_reader_sees_the_rows_alone(tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(folder(tmp_path / "F", batch(4, 1)))
    assert table.num_rows == 4
    assert {"photo", "embedding", "lat", "lng", "status", "reason"} <= set(table.column_names)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("fixed", [True, False])
def test_anybodys_parquet_is_welcome(tmp_path: Path, kind: pa.DataType, fixed: bool) -> None:
    vectors = unit_rows(6, 4, 0)
    flat = pa.array(vectors.ravel()).cast(kind)
    lists = pa.FixedSizeListArray.from_arrays(flat, 4)
    column = lists if fixed else lists.cast(pa.list_(kind))
    pyarrow.parquet.write_table(pa.table({"photo": list("abcdef"), "embedding": column}), tmp_path / "f.parquet")
    source = open_features(tmp_path / "f.parquet")
    assert source.encoder is None
    (read,) = source
    np.testing.assert_allclose(read.embedding, vectors, atol=1e-3)
    assert read.embedding.dtype == np.float32
    assert np.isnan(read.lat_deg).all()


def test_npy_beside_a_csv(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", unit_rows(3, 4, 0))
    with pytest.raises(InputError, match=r"needs v\.csv"):
        read_features(tmp_path / "v.npy")
    (tmp_path / "v.csv").write_text("photo,lat,lng\na,1,2\nb,3,4\nc,5,6\n")
    read = read_features(tmp_path / "v.npy")
    assert list(read.photo) == ["a", "b", "c"]
    assert read.lat_deg.tolist() == [1, 3, 5]
    (tmp_path / "v.csv").write_text("photo\na\n")
    with pytest.raises(InputError, match="1 rows"):
        read_features(tmp_path / "v.npy")


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "v.csv").write_text("photo\na\n")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_features(tmp_path / "v.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_vectors_that_mean_nothing_are_refused_by_row(tmp_path: Path, value: float) -> None:
    vectors = unit_rows(4, 4, 0)
    vectors[2] = value
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    pyarrow.parquet.write_table(pa.table({"photo": list("abcd"), "embedding": lists}), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="first in row 2"):
        read_features(tmp_path / "f.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"photo": ["a"]}, "no column 'embedding'"),
        ({"embedding": [[1.0, 0.0]]}, "no column 'photo'"),
        ({"photo": ["a", "b"], "embedding": [[1.0, 0.0], [1.0]]}, "different lengths"),
        ({"photo": ["a", "b"], "embedding": [[1.0, 0.0], None]}, "no embedding"),
        ({"photo": ["a"], "embedding": ["0.1 0.2"]}, "must be lists of numbers"),
        ({"photo": ["a"], "embedding": [0.5]}, "must be lists of numbers"),
        ({"photo": ["a"], "embedding": [["0.1"]]}, "must be lists of numbers"),
        ({"photo": [[1]], "embedding": [[1.0]]}, "photo must hold names"),
        ({"photo": ["a"], "embedding": [[1.0]], "lat": ["north"]}, "must be numbers"),
    ],
)
def test_tables_that_hold_no_vectors_say_why(tmp_path: Path, columns: dict, message: str) -> None:
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "f.parquet")
    with pytest.raises(InputError, match=message):
        read_features(tmp_path / "f.parquet")


def test_shards_of_two_encoders_are_told_apart(tmp_path: Path) -> None:
    for name, width in (("a", 2), ("b", 3)):
        pyarrow.parquet.write_table(
            pa.table({"photo": [name], "embedding": [[1.0] * width]}), tmp_path / f"{name}.parquet"
        )
    with pytest.raises(InputError, match=r"b\.parquet: embeddings of 3 values; a\.parquet beside it has 2"):
        read_features(tmp_path)


def test_absent_and_damaged_features(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no features here"):
        open_features(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_features(tmp_path / "x.parquet")


@pytest.mark.parametrize("crops", ["five", "ten"])
def test_vectors_longer_than_one_are_scaled_and_means_of_crops_stay(tmp_path: Path, crops: str) -> None:
    rows = unit_rows(3, 4, 0) * np.array([[100.0], [0.5], [1.0]])
    table = pa.table({"IMG_ID": list("abc"), "embedding": rows.tolist()})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    source = open_features(tmp_path / "f.parquet", crops=crops)
    batch = joined(list(source))
    np.testing.assert_allclose(np.linalg.norm(batch.embedding, axis=1), [1, 0.5, 1], rtol=1e-6)
    assert list(batch.photo) == ["a", "b", "c"]
    assert source.crops == crops


@pytest.mark.parametrize("crops", [None, "one"])
def test_other_vectors_are_scaled_to_one_and_the_first_short_one_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, crops: str | None
) -> None:
    unit = unit_rows(5, 4, 0)
    rows = unit * np.array([[0.995], [100.0], [0.9895], [0.15], [0.0]])
    table = pa.table({"photo": list("abcde"), "embedding": rows.tolist(), "status": ["ok"] * 4 + ["torn"]})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet", row_group_size=2)
    source = open_features(tmp_path / "f.parquet", crops=crops)
    for _ in range(2):
        read = joined(list(source)).embedding
        np.testing.assert_allclose(read[:4], unit[:4], atol=1e-6)
        assert not read[4].any()  # a photo without a vector
    warned = [record.getMessage() for record in caplog.records if "scaled to length 1" in record.getMessage()]
    assert len(warned) == 1
    assert "row 2 has 0.99" in warned[0]


def test_nearly_unit_vectors_stay_to_the_last_bit_and_nobody_is_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = unit_rows(50, 8, 0).astype(np.float16)
    kept = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 8)
    pyarrow.parquet.write_table(
        pa.table({"photo": list(map(str, range(50))), "embedding": kept}), tmp_path / "f.parquet"
    )
    np.testing.assert_array_equal(read_features(tmp_path / "f.parquet").embedding, rows.astype(np.float32))
    assert "scaled" not in caplog.text


def test_recorded_crops_decide_and_a_folder_written_at_once_records_them(tmp_path: Path) -> None:
    short = replace(batch(4, 1), embedding=0.4 * unit_rows(4, 8, 1))
    made = features.write_features(
        tmp_path / "F", [short, batch(3, 2)], encoder=None, options={"crops": "ten"}, inputs={"table": "a"}
    )
    source = open_features(made)
    assert (source.crops, source.rows) == ("ten", 7)
    np.testing.assert_allclose(np.linalg.norm(joined(list(source)).embedding, axis=1), [0.4] * 4 + [1] * 3, rtol=1e-6)
    assert open_features(made, crops="ten").means
    with pytest.raises(InputError, match="its vectors are of `crops` ten, not one"):
        open_features(made, crops="one")
    with pytest.raises(InputError, match="exists already"):
        features.write_features(made, [short], encoder=None, options={}, inputs={})


def test_whose_vectors_they_are_can_be_said_and_must_not_differ_from_what_was_recorded(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"photo": ["a"], "embedding": [[1.0, 0.0]]})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    encoder = load_geocells(checkpoint).encoder
    assert open_features(tmp_path / "f.parquet", encoder=checkpoint).encoder == encoder
    assert open_features(tmp_path / "f.parquet", encoder="ab" * 32).encoder == "ab" * 32
    assert "nobody recorded" not in caplog.text
    assert open_features(tmp_path / "f.parquet").encoder is None
    with pytest.raises(InputError, match="neither a checkpoint folder nor the digest"):
        open_features(tmp_path / "f.parquet", encoder="hf:some/clip")
    with pytest.raises(BundleMismatch, match=r"of encoder abc, not of .*Leave `encoder` out"):
        open_features(folder(tmp_path / "F", batch(3, 0)), encoder="ab" * 32)


def test_status_of_any_type_is_text_and_none_is_unknown(tmp_path: Path) -> None:
    for number, status in enumerate(([0, 1, None], ["ok", None, "bad"])):
        table = pa.table({"photo": list("abc"), "embedding": [[1.0, 0.0]] * 3, "status": status})
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.parquet")
    assert list(read_features(tmp_path / "0.parquet").status) == ["0", "1", "unknown"]
    assert list(read_features(tmp_path / "1.parquet").status) == ["ok", "unknown", "bad"]


def test_names_beside_a_npy_stay_as_written(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", unit_rows(2, 4, 0))
    (tmp_path / "f.csv").write_text("photo\n000\n001\n")
    assert list(read_features(tmp_path / "f.npy").photo) == ["000", "001"]


# Files by their sizes, rows in a shard, rows in a row group, rows read at once, and which shards are wanted.
CUTS = {
    "sizes": st.lists(st.integers(1, 30), min_size=1, max_size=5),
    "rows": st.integers(1, 25),
    "group": st.integers(1, 12),
    "at_once": st.integers(1, 9),
    "wanted": st.sets(st.integers(0, 160)),
}


def check_cut(source: FeatureSource, whole: FeatureBatch, *, rows: int, wanted: set[int]) -> None:
    """The shards that are wanted are those of all vectors one after another, and have their numbers."""
    n = len(whole)
    shards = {number: slice(number * rows, min((number + 1) * rows, n)) for number in range(-(-n // rows))}
    found = list(source.cut(rows, wanted.__contains__))
    assert [number for number, _ in found] == sorted(shards.keys() & wanted)
    for number, batch in found:
        cut = shards[number]
        np.testing.assert_array_equal(batch.embedding, whole.embedding[cut])
        np.testing.assert_array_equal(batch.lat_deg, whole.lat_deg[cut])
        np.testing.assert_array_equal(batch.lng_deg, whole.lng_deg[cut])
        for name in ("photo", "status", "reason"):
            assert list(getattr(batch, name)) == list(getattr(whole, name)[cut])


def batches_of(sizes: Sequence[int]) -> list[FeatureBatch]:
    return [batch(size, number, bad=size // 2) for number, size in enumerate(sizes)]


@settings(max_examples=60)
@given(**CUTS)
def test_a_cut_is_that_of_all_vectors_in_one_parquet(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    rows: int,
    group: int,
    at_once: int,
    wanted: set[int],
) -> None:
    folder, parts = tmp_path_factory.mktemp("F"), batches_of(sizes)
    for number, part in enumerate(parts):
        pyarrow.parquet.write_table(feature_table(part), folder / f"{number}.parquet", row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_ROWS", at_once)
        patch.setattr(features, "_CUT", at_once)
        source = open_features(folder)
        assert source.rows == sum(sizes)
        check_cut(source, joined(parts), rows=rows, wanted=wanted)
        check_cut(source, joined(list(source)), rows=rows, wanted=set(range(200)))


@settings(max_examples=30)
@given(**CUTS)
def test_a_cut_is_that_of_all_vectors_in_a_npy(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    rows: int,
    group: int,
    at_once: int,
    wanted: set[int],
) -> None:
    folder, whole = tmp_path_factory.mktemp("F"), batches_of([sum(sizes)])[0]
    np.save(folder / "v.npy", whole.embedding)
    lines = zip(whole.photo, whole.lat_deg, whole.lng_deg, whole.status, whole.reason, strict=True)
    table = "\n".join(
        f"{name},{'' if np.isnan(lat) else lat},{lng},{status},{why}" for name, lat, lng, status, why in lines
    )
    (folder / "v.csv").write_text(f"photo,lat,lng,status,reason\n{table}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_ROWS", at_once)
        patch.setattr(features, "_CUT", at_once)
        check_cut(open_features(folder / "v.npy"), whole, rows=rows, wanted=wanted)


def test_shards_that_are_not_wanted_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(feature_table(batch(100, 0)), tmp_path / "f.parquet", row_group_size=10)
    read: list[list[int]] = []
    iterate = pa.parquet.ParquetFile.iter_batches

    def noted(file: pa.parquet.ParquetFile, size: int, row_groups: list[int]) -> object:
        read.append(row_groups)
        return iterate(file, size, row_groups=row_groups)

    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", noted)
    (only,) = open_features(tmp_path / "f.parquet").cut(20, lambda number: number == 2)
    assert (only[0], only[1].photo[0]) == (2, "0-40")
    assert read == [[4], [5]]


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_files_without_rows_are_refused(tmp_path: Path, suffix: str) -> None:
    if suffix == "npy":
        np.save(tmp_path / "f.npy", np.empty((0, 4), np.float32))
        (tmp_path / "f.csv").write_text("photo\n")
    else:
        pyarrow.parquet.write_table(feature_table(batch(3, 0)).slice(0, 0), tmp_path / "f.parquet")
    for read in (read_features, lambda path: list(open_features(path).cut(3, lambda _: True))):
        with pytest.raises(InputError, match=r"no rows?\."):
            read(tmp_path / f"f.{suffix}")
