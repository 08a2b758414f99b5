"""Albums: the sum of their vectors is one query, and every photo of one gets its answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import InputError
from indexer.vectors.features import FeatureBatch, open_features
from indexer.vectors.scoring import log_product
from search.answers.album import Albums, album_numbers, albums_of_features, albums_of_table, answer_albums
from search.answers.answer import album_answer
from search.answers.engine import Engine
from search.answers.recall import RecallCheck
from search.answers.row_texts import RowTexts
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH

N = 24
NAMES = ["a", "b", "", "a", None, "c", "b", "a"] * 3
ALBUM = [f"{name}{row // 8}" if name else name for row, name in enumerate(NAMES)]


def shards(sizes: list[int], bad: set[int] = frozenset()) -> list[FeatureBatch]:
    vectors = unit_rows(sum(sizes), WIDTH, seed=0)
    result, start = [], 0
    for size in sizes:
        rows = range(start, start + size)
        status = ["damaged" if row in bad else "ok" for row in rows]
        unknown = np.full(size, np.nan)
        names = [f"{row}.jpg" for row in rows]
        result.append(FeatureBatch(names, vectors[start : start + size], status, [""] * size, unknown, unknown))
        start += size
    return result


def numbered(names: list[str | None]) -> Albums:
    rows = RowTexts(pa.array(names, pa.string()), [f"{n}.jpg" for n in range(len(names))], "T", "trip", None)
    return Albums(album_numbers(rows.text), rows)


def test_every_photo_gets_the_answer_to_the_sum(engine: Engine) -> None:
    vectors = unit_rows(N, WIDTH, seed=0)
    table = pa.concat_tables(answer_albums(engine, shards([10, 1, 13]), numbered(ALBUM), k=3))
    assert table["row"].to_pylist() == list(range(N))
    assert table["album"].to_pylist() == numbered(ALBUM).of_row.tolist()
    for row, answer in enumerate(table.to_pylist()):
        members = [other for other in range(N) if other == row or (ALBUM[row] and ALBUM[other] == ALBUM[row])]
        product = sum(log_product(engine.bundle.model, vectors[[member]])[0] for member in members)
        assert answer["key"] == engine.bundle.hierarchy.leaves.keys[product.argmax()]
        assert answer["n_photos"] == len(members)
        assert answer["top_key"] == engine.bundle.hierarchy.leaves.keys[np.argsort(-product)[:3]].tolist()


def test_an_album_by_itself_has_the_answer_of_a_job(engine: Engine) -> None:
    (batch,) = shards([5], {1})
    job = pa.concat_tables(answer_albums(engine, [batch], numbered(["a"] * 5), k=2)).to_pylist()[0]
    answer = album_answer(engine, batch, k=2)
    assert (answer.photo, answer.n_photos) == ("0.jpg", 4)
    told = answer.to_dict()
    assert {name: told[name] for name in ("lat", "lng", "key", "score", "probability", "city", "evidence")} == {
        name: job[name] for name in ("lat", "lng", "key", "score", "probability", "city", "evidence")
    }
    assert [place.key for place in answer.top] == job["top_key"]
    assert answer.path[-1].key == answer.key


def test_an_album_of_nothing_says_what_is_wrong_with_its_first_photo(engine: Engine) -> None:
    (batch,) = shards([2], {0, 1})
    answer = album_answer(engine, replace(batch, reason=["it is torn", "so is this"]), k=1)
    assert (answer.photo, answer.status, answer.reason, answer.lat_deg) == ("0.jpg", "damaged", "it is torn", None)


def test_a_photo_that_could_not_be_read_keeps_its_reason_and_its_album_goes_on_without_it(engine: Engine) -> None:
    bad = {0, 5, 8}  # the only photo of c0 is among them
    table = pa.concat_tables(answer_albums(engine, shards([N], bad), numbered(ALBUM), k=1))
    rows = table.to_pylist()
    assert [row["row"] for row in rows if row["key"] is None] == sorted(bad)
    assert {row["status"] for row in rows if row["key"] is None} == {"damaged"}
    assert [row["album"] for row in rows] == numbered(ALBUM).of_row.tolist()
    assert rows[3]["n_photos"] == 2  # of a0, which had three


def test_photos_that_are_all_alone_are_answered_as_without_albums(engine: Engine) -> None:
    table = pa.concat_tables(answer_albums(engine, shards([N]), numbered([None] * N), k=1))
    hits = engine.search(unit_rows(N, WIDTH, seed=0))
    assert table["key"].to_pylist() == engine.bundle.hierarchy.leaves.keys[hits.leaf[:, 0]].tolist()
    np.testing.assert_allclose(table["probability"].to_numpy(), hits.probability[:, 0], rtol=1e-6)


def test_more_albums_than_are_searched_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pa.concat_tables(answer_albums(engine, shards([N]), numbered(ALBUM), k=2))
    monkeypatch.setattr("search.answers.album._ANSWERED", 3)
    parts = pa.concat_tables(answer_albums(engine, shards([N]), numbered(ALBUM), k=2))
    assert parts["key"].to_pylist() == whole["key"].to_pylist()


def test_nothing_readable_is_rows_without_answers(engine: Engine) -> None:
    table = pa.concat_tables(answer_albums(engine, shards([3], {0, 1, 2}), numbered(["a", "a", "b"]), k=1))
    assert table["key"].to_pylist() == [None] * 3


def test_albums_are_the_queries_of_which_recall_is_measured(engine: Engine) -> None:
    recall = RecallCheck(engine, 100)
    list(answer_albums(engine, shards([N]), numbered(ALBUM), k=1, recall=recall))
    measured = recall.measure()
    assert measured is not None
    assert measured.queries == len(numbered(ALBUM))


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", "c", "", None]), min_size=1, max_size=30))
def test_albums_arealbum_numbers_as_they_appear_and_the_nameless_stand_alone(names: list[str | None]) -> None:
    known: dict[object, int] = {}
    expected = [known.setdefault(name or ("alone", row), len(known)) for row, name in enumerate(names)]
    albums = numbered(names)
    assert albums.of_row.tolist() == expected
    assert len(albums) == len(known)


def test_columns_come_from_tables_and_from_features(tmp_path: Path) -> None:
    names = [f"{row}.jpg" for row in range(N)]
    columns = {"photo": names, "split": ["x" if row % 2 else "y" for row in range(N)], "Trip": ALBUM}
    pa.parquet.write_table(pa.table(columns), tmp_path / "photos.parquet")
    whole = albums_of_table(tmp_path / "photos.parquet", "trip")
    assert whole.of_row.tolist() == numbered(ALBUM).of_row.tolist()
    half = albums_of_table(tmp_path / "photos.parquet", "trip", split="x")
    assert half.of_row.tolist() == numbered(ALBUM[1::2]).of_row.tolist()
    assert list(half.rows.photo) == names[1::2]
    vectors = unit_rows(N, WIDTH, seed=0)
    folder = tmp_path / "F"
    folder.mkdir()
    for number, part in enumerate((slice(0, 9), slice(9, N))):
        shard = {"photo": names[part], "trip": ALBUM[part], "embedding": vectors[part].tolist()}
        pa.parquet.write_table(pa.table(shard), folder / f"{number}.parquet")
    assert albums_of_features(open_features(folder), "trip").of_row.tolist() == whole.of_row.tolist()
    np.save(tmp_path / "v.npy", vectors)
    lines = [f"{name},{album or ''}" for name, album in zip(names, ALBUM, strict=True)]
    (tmp_path / "v.csv").write_text("\n".join(["photo,trip", *lines]) + "\n")
    assert albums_of_features(open_features(tmp_path / "v.npy"), "trip").of_row.tolist() == whole.of_row.tolist()
    with pytest.raises(InputError, match=r"no column 'event'; it has photo, split, Trip"):
        albums_of_table(tmp_path / "photos.parquet", "event")


def test_albums_of_other_photos_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="its photos are not those of the vectors, from row 10 on"):
        list(answer_albums(engine, shards([10, 14]), numbered(ALBUM[:20]), k=1))
    with pytest.raises(InputError, match="24 rows, where there are vectors of 10 photos"):
        list(answer_albums(engine, shards([10]), numbered(ALBUM), k=1))
