"""Photos to vectors: order, batches, threads and bad photos; the folder that comes out."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from encoder.checkpoint import LoadedEncoder, load_encoder
from encoder.embed import EmbedConfig, embed_photos, embed_table
from encoder.reading import ReadLimits, read_bytes
from indexer.errors import InputError
from indexer.features import open_features, read_features
from indexer.photos import PhotoTable, read_photos
from tests.encoder.conftest import natural


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoTable:
    """Eleven photos of different sizes; the third is text, the ninth is absent."""
    folder = tmp_path_factory.mktemp("photos")
    for row in range(11):
        natural(40 + 7 * row, 60 - 2 * row, seed=row).save(folder / f"{row:02d}.png")
    (folder / "02.png").write_text("text")
    (folder / "08.png").unlink()
    lines = [f"{row:02d}.png,{row},{-row}" for row in range(11)]
    (folder / "photos.csv").write_text("\n".join(["photo,lat,lng", *lines]))
    return read_photos(folder / "photos.csv")


def vectors(encoder: LoadedEncoder, photos: PhotoTable, **options: int) -> np.ndarray:
    return np.concatenate([b.embedding for b in embed_photos(encoder, photos, config=EmbedConfig(**options))])


def test_batches_threads_and_shards_do_not_change_vectors(encoder: LoadedEncoder, photos: PhotoTable) -> None:
    one = vectors(encoder, photos, batch_size=1, workers=1)
    for options in ({"batch_size": 4}, {"batch_size": 32, "workers": 4}, {"batch_size": 3, "shard_rows": 5}):
        np.testing.assert_allclose(vectors(encoder, photos, **options), one, atol=1e-6)


def test_a_bad_photo_is_a_row_and_the_rest_is_right(encoder: LoadedEncoder, photos: PhotoTable) -> None:
    (batch,) = embed_photos(encoder, photos, config=EmbedConfig(batch_size=4))
    assert list(batch.photo) == list(photos.photo)
    assert {row: status for row, status in enumerate(batch.status) if status != "ok"} == {
        2: "not_an_image",
        8: "missing",
    }
    np.testing.assert_allclose(np.linalg.norm(batch.embedding, axis=1), batch.ok.astype(float), atol=1e-5)
    assert all(bool(reason) != ok for reason, ok in zip(batch.reason, batch.ok, strict=True))
    alone = PhotoTable([photos.photo[9]], photos.root, photos.lat_deg[9:10], photos.lng_deg[9:10])
    np.testing.assert_allclose(vectors(encoder, alone)[0], batch.embedding[9], atol=1e-6)


def test_the_folder_holds_every_row_and_says_what_made_it(
    encoder: LoadedEncoder, photos: PhotoTable, tmp_path: Path
) -> None:
    seen: list[int] = []
    config = EmbedConfig(batch_size=2, shard_rows=4)
    summary = embed_table(encoder, photos, tmp_path / "F", config=config, inputs={}, advance=seen.append)
    assert (summary.rows, summary.ok, summary.failed) == (11, 9, {"not_an_image": 1, "missing": 1})
    assert sum(seen) == 11
    source = open_features(tmp_path / "F")
    assert source.encoder == encoder.digest
    assert [len(batch) for batch in source] == [4, 4, 3]
    read = read_features(tmp_path / "F")
    np.testing.assert_array_equal(read.lat_deg, photos.lat_deg)
    np.testing.assert_allclose(read.embedding, vectors(encoder, photos), atol=1e-6)
    assert pyarrow.parquet.read_table(tmp_path / "F").num_rows == 11


def test_an_existing_folder_is_kept(encoder: LoadedEncoder, photos: PhotoTable, tmp_path: Path) -> None:
    (tmp_path / "F").mkdir()
    (tmp_path / "F" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        embed_table(encoder, photos, tmp_path / "F", config=EmbedConfig(), inputs={})


def test_stopping_early_ends_the_decoding(encoder: LoadedEncoder, photos: PhotoTable) -> None:
    batches = embed_photos(encoder, photos, config=EmbedConfig(batch_size=2, shard_rows=2))
    assert len(next(batches)) == 2
    batches.close()


def test_a_row_that_names_no_photo_is_a_row(encoder: LoadedEncoder, photos: PhotoTable, tmp_path: Path) -> None:
    nameless = replace(photos, photo=[photos.photo[0], "", "", *photos.photo[3:]])
    summary = embed_table(encoder, nameless, tmp_path / "F", config=EmbedConfig(), inputs={})
    assert (summary.ok, summary.failed) == (8, {"missing": 3})
    assert read_features(tmp_path / "F").reason[1] == "the table names no photo in this row"


def test_a_table_of_bad_photos_alone_is_still_a_table(encoder: LoadedEncoder, tmp_path: Path) -> None:
    unknown = np.full(5, np.nan)
    table = PhotoTable([f"{n}.jpg" for n in range(5)], tmp_path, unknown, unknown)
    summary = embed_table(encoder, table, tmp_path / "F", config=EmbedConfig(batch_size=2, shard_rows=3), inputs={})
    assert (summary.rows, summary.ok, summary.failed) == (5, 0, {"missing": 5})
    assert not read_features(tmp_path / "F").embedding.any()
    assert np.isnan(read_features(tmp_path / "F").lat_deg).all()


def test_the_first_failure_of_a_kind_is_told_at_once(
    encoder: LoadedEncoder, photos: PhotoTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [*photos.photo, "absent_too.jpg"]
    table = PhotoTable(names, photos.root, np.zeros(12), np.zeros(12))
    embed_table(encoder, table, tmp_path / "F", config=EmbedConfig(shard_rows=4), inputs={})
    assert [line.split(",")[0] for line in caplog.messages] == ["02.png: not_an_image", "08.png: missing"]


def test_the_manifest_says_how_vectors_were_made(encoder: LoadedEncoder, photos: PhotoTable, tmp_path: Path) -> None:
    embed_table(encoder, photos, tmp_path / "F", config=EmbedConfig(batch_size=3), inputs={"photos": "abc"})
    manifest = json.loads((tmp_path / "F" / "_manifest.json").read_text())
    assert manifest["config"]["batch_size"] == 3
    assert manifest["config"]["precision"] == "float32"
    assert manifest["facts"]["ok"] + sum(manifest["facts"]["failed"].values()) == manifest["facts"]["rows"] == 11
    assert manifest["inputs"] == {"photos": "abc"}


@pytest.mark.parametrize("name", ["batch_size", "workers", "shard_rows", "max_pixels"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} must be at least 1"):
        EmbedConfig(**{name: 0})


def test_memory_is_bounded_whatever_the_number_of_photos(
    encoder: LoadedEncoder, photos: PhotoTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    data = PhotoTable.data
    monkeypatch.setattr(PhotoTable, "data", lambda table, row: begun.append(row) or data(table, row))
    many = PhotoTable([photos.photo[0]] * 200, photos.root, np.zeros(200), np.zeros(200))
    batches = embed_photos(encoder, many, config=EmbedConfig(batch_size=4, shard_rows=4))
    next(batches)
    assert len(begun) <= 4 + 3 * 4 + 1  # one batch used, three decoded ahead
    batches.close()


def test_a_name_that_is_no_text_is_embedded_and_written_with_escapes(
    encoder: LoadedEncoder, photos: PhotoTable, tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(read_bytes(photos.data(0), ReadLimits()))
    embed_table(encoder, read_photos(tmp_path / "in"), tmp_path / "F", config=EmbedConfig(), inputs={})
    batch = read_features(tmp_path / "F")
    assert (list(batch.photo), list(batch.status)) == (["caf\\xe9.png"], ["ok"])


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(checkpoint: Path, encoder: LoadedEncoder, photos: PhotoTable) -> None:
    fast = load_encoder(checkpoint, device=torch.device("cuda"))
    cosine = (vectors(fast, photos) * vectors(encoder, photos)).sum(axis=1)
    assert cosine[[0, 1, 3, 4, 5, 6, 7, 9, 10]].min() > 0.999
