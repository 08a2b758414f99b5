"""Photos to vectors: order, batches, threads and bad photos; the folder that comes out."""

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from encoder.config import SHARD_ROWS, CropName, EmbedConfig, FeedOptions
from encoder.embedding import embed, embed_photos, embed_source
from encoder.encode import PhotoEncoder
from encoder.models.checkpoint import LoadedEncoder, load_encoder
from encoder.photos.crops import crop_photos, normalise
from indexer.errors import InputError, WorkError
from indexer.jobs.stages import Line
from indexer.photos.photo import Photo
from indexer.photos.sources import PhotoSource, open_photos
from indexer.vectors.features import open_features, read_features
from tests.encoder.conftest import natural


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven photos of different sizes; the third is text, the ninth is absent."""
    folder = tmp_path_factory.mktemp("photos")
    for row in range(11):
        natural(40 + 7 * row, 60 - 2 * row, seed=row).save(folder / f"{row:02d}.png")
    (folder / "02.png").write_text("text")
    (folder / "08.png").unlink()
    return write_table(folder / "photos.csv", [f"{row:02d}.png" for row in range(11)])


@pytest.fixture
def photos(table: Path) -> PhotoSource:
    return open_photos(table)


def write_table(path: Path, names: Sequence[str]) -> Path:
    lines = [f"{name},{row % 90},{-(row % 90)}" for row, name in enumerate(names)]
    path.write_text("\n".join(["photo,lat,lng", *lines]))
    return path


def vectors(
    encoder: LoadedEncoder,
    photos: Iterable[Photo],
    *,
    crops: CropName = "one",
    shard_rows: int = SHARD_ROWS,
    **options: int,
) -> np.ndarray:
    encode = PhotoEncoder(encoder, crops=crops)
    return np.concatenate(
        [b.embedding for b in embed_photos(encode, photos, feed=FeedOptions(**options), shard_rows=shard_rows)]
    )


def test_batches_processes_and_shards_do_not_change_vectors(encoder: LoadedEncoder, photos: PhotoSource) -> None:
    one = vectors(encoder, photos, batch_size=1, workers=0)
    for options in ({"batch_size": 4}, {"batch_size": 2, "workers": 2}, {"batch_size": 3, "shard_rows": 5}, {}):
        np.testing.assert_allclose(vectors(encoder, photos, **options), one, atol=1e-6)


@pytest.mark.parametrize(("crops", "n"), [("five", 5), ("ten", 10)])
def test_several_crops_are_the_mean_of_their_vectors(
    encoder: LoadedEncoder, photos: PhotoSource, table: Path, crops: CropName, n: int
) -> None:
    row = 5
    with Image.open(table.parent / f"{row:02d}.png") as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB")))
    cuts = crop_photos([pixels], encoder.preprocessing, crops=crops)[0]
    with torch.inference_mode():
        each = encoder.model(normalise(cuts, encoder.preprocessing))
    assert len(each) == n
    mean = vectors(encoder, photos, crops=crops, batch_size=12)[row]
    np.testing.assert_allclose(mean, each.mean(dim=0).numpy(), atol=1e-6)
    assert np.linalg.norm(mean) < 1  # not made longer again: what the crops disagree on counts less


def test_mirrored_photos_have_the_same_ten_crops(encoder: LoadedEncoder, tmp_path: Path) -> None:
    image = natural(70, 50)
    image.save(tmp_path / "a.png")
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    ten = vectors(encoder, open_photos(tmp_path), crops="ten")
    np.testing.assert_allclose(ten[0], ten[1], atol=2e-3)  # the middle of an odd width is half a pixel off


def test_a_bad_photo_is_a_row_and_the_rest_is_right(encoder: LoadedEncoder, photos: PhotoSource) -> None:
    (batch,) = embed_photos(PhotoEncoder(encoder), photos, feed=FeedOptions(batch_size=4))
    assert list(batch.photo) == [f"{row:02d}.png" for row in range(11)]
    assert {row: status for row, status in enumerate(batch.status) if status != "ok"} == {
        2: "not_an_image",
        8: "missing",
    }
    np.testing.assert_allclose(np.linalg.norm(batch.embedding, axis=1), batch.ok.astype(float), atol=1e-5)
    assert all(bool(reason) != ok for reason, ok in zip(batch.reason, batch.ok, strict=True))
    np.testing.assert_allclose(vectors(encoder, [list(photos)[9]])[0], batch.embedding[9], atol=1e-6)


def test_the_folder_holds_every_row_and_says_what_made_it(
    encoder: LoadedEncoder, photos: PhotoSource, tmp_path: Path
) -> None:
    summary = embed_source(PhotoEncoder(encoder), photos, tmp_path / "F", feed=FeedOptions(batch_size=2), shard_rows=4)
    assert (summary.rows, summary.ok, summary.failed) == (11, 9, {"not_an_image": 1, "missing": 1})
    assert summary.embedded_before == 0
    source = open_features(tmp_path / "F")
    assert source.encoder == encoder.digest
    assert [len(batch) for batch in source] == [4, 4, 3]
    read = read_features(tmp_path / "F")
    np.testing.assert_array_equal(read.lat_deg, np.arange(11))
    np.testing.assert_allclose(read.embedding, vectors(encoder, photos), atol=1e-6)
    assert pyarrow.parquet.read_table(tmp_path / "F").num_rows == 11


def test_paths_alone_will_do(checkpoint: Path, encoder: LoadedEncoder, table: Path, tmp_path: Path) -> None:
    summary = embed(table, checkpoint, str(tmp_path / "F"))
    assert (summary.encoder, summary.rows, summary.ok) == (encoder.digest, 11, 9)
    other = embed(table, checkpoint, tmp_path / "G", config=EmbedConfig(crops="five", shard_rows=4))
    assert (other.rows, other.ok) == (11, 9)
    assert [len(batch) for batch in open_features(tmp_path / "G")] == [4, 4, 3]
    assert open_features(tmp_path / "G").crops == "five"


def test_failures_are_counted_before_their_shard_is_done(encoder: LoadedEncoder, photos: PhotoSource) -> None:
    line = Line()
    with line:
        (batch,) = embed_photos(PhotoEncoder(encoder), photos, feed=FeedOptions(batch_size=2, workers=0), line=line)
    assert line.failed == len(batch) - batch.ok.sum() == 2


def test_an_existing_folder_is_kept(encoder: LoadedEncoder, photos: PhotoSource, tmp_path: Path) -> None:
    (tmp_path / "F").mkdir()
    (tmp_path / "F" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        embed_source(PhotoEncoder(encoder), photos, tmp_path / "F")


def test_stopping_early_ends_the_decoding(encoder: LoadedEncoder, photos: PhotoSource) -> None:
    batches = embed_photos(PhotoEncoder(encoder), photos, feed=FeedOptions(batch_size=1), shard_rows=2)
    assert len(next(batches)) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_a_row_that_names_no_photo_is_a_row(encoder: LoadedEncoder, table: Path, tmp_path: Path) -> None:
    names = [str(table.parent / "00.png"), "", "", str(table.parent / "03.png")]
    nameless = open_photos(write_table(tmp_path / "photos.csv", names))
    summary = embed_source(PhotoEncoder(encoder), nameless, tmp_path / "F")
    assert (summary.ok, summary.failed) == (2, {"missing": 2})


def test_a_table_of_bad_photos_alone_is_still_a_table(encoder: LoadedEncoder, tmp_path: Path) -> None:
    bad = open_photos(write_table(tmp_path / "photos.csv", [f"{n}.jpg" for n in range(5)]))
    summary = embed_source(PhotoEncoder(encoder), bad, tmp_path / "F", feed=FeedOptions(batch_size=2), shard_rows=3)
    assert (summary.rows, summary.ok, summary.failed) == (5, 0, {"missing": 5})
    assert not read_features(tmp_path / "F").embedding.any()


def test_a_job_that_ran_out_of_memory_goes_on_in_smaller_batches(
    encoder: LoadedEncoder, photos: PhotoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = PhotoEncoder(encoder)
    calls = iter(range(100))

    def short_of_memory(batch: torch.Tensor, maps: object) -> torch.Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("no more")
        return encoder.model.forward(batch, maps)

    with monkeypatch.context() as patch:
        patch.setattr(type(encoder.model), "__call__", lambda self, *given: short_of_memory(*given))
        with pytest.raises(WorkError, match="with `batch_size` below 2"):
            embed_source(encode, photos, tmp_path / "F", feed=FeedOptions(batch_size=4), shard_rows=4)
    assert len(list((tmp_path / "F").glob("part-*"))) == 2
    summary = embed_source(encode, photos, tmp_path / "F", feed=FeedOptions(batch_size=1), shard_rows=4)
    assert (summary.rows, summary.embedded_before) == (11, 8)
    np.testing.assert_allclose(read_features(tmp_path / "F").embedding, vectors(encoder, photos), atol=1e-6)
    with pytest.raises(InputError, match="shard_rows"):
        embed_source(encode, photos, tmp_path / "F", feed=FeedOptions(batch_size=4), shard_rows=5)


def test_the_first_failure_of_a_kind_is_told_at_once(
    encoder: LoadedEncoder, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [str(table.parent / f"{row:02d}.png") for row in range(11)]
    twice = open_photos(write_table(tmp_path / "photos.csv", [*names, "absent_too.jpg"]))
    embed_source(PhotoEncoder(encoder), twice, tmp_path / "F", shard_rows=4)
    messages = [record.message for record in caplog.records if record.name == "encoder.bad_images"]
    shown = [line.split(",")[0].rsplit("/", 1)[-1] for line in messages]
    assert shown == ["02.png: not_an_image", "08.png: missing"]


def test_the_manifest_says_how_vectors_were_made(encoder: LoadedEncoder, photos: PhotoSource, tmp_path: Path) -> None:
    encode = PhotoEncoder(encoder, crops="five")
    embed_source(encode, photos, tmp_path / "F", feed=FeedOptions(batch_size=3))
    manifest = json.loads((tmp_path / "F" / "_manifest.json").read_text())
    settings = {name: manifest["config"][name] for name in ("batch_size", "crops", "precision")}
    assert settings == {"batch_size": 3, "crops": "five", "precision": "float32"}
    assert manifest["facts"]["ok"] + sum(manifest["facts"]["failed"].values()) == manifest["facts"]["rows"] == 11
    assert manifest["inputs"] == {"photos": photos.digest, "encoder": encoder.digest, "maps": None}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_is_read_only_as_far_ahead_as_there_is_room(
    encoder: LoadedEncoder, photos: PhotoSource, workers: int
) -> None:
    taken = 0

    def many() -> Iterator[Photo]:
        nonlocal taken
        first = next(iter(photos))
        for _ in range(500):
            taken += 1
            yield first

    batches = embed_photos(PhotoEncoder(encoder), many(), feed=FeedOptions(batch_size=4, workers=workers), shard_rows=4)
    next(batches)
    assert taken <= 4 * (1 + 3 + 2 * workers)  # one batch used, a few looked at, two for each worker
    batches.close()


def test_a_name_that_is_no_text_is_embedded_and_written_with_escapes(
    encoder: LoadedEncoder, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    content = (table.parent / "00.png").read_bytes()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes(content)
    embed_source(PhotoEncoder(encoder), open_photos(tmp_path / "in"), tmp_path / "F")
    batch = read_features(tmp_path / "F")
    assert (list(batch.photo), list(batch.status)) == (["caf\\xe9.png"], ["ok"])


def test_a_source_without_photos_is_an_error(encoder: LoadedEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        embed_source(PhotoEncoder(encoder), open_photos(tmp_path), tmp_path.parent / "none")
    assert not (tmp_path.parent / "none").exists()


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(checkpoint: Path, encoder: LoadedEncoder, photos: PhotoSource) -> None:
    fast = load_encoder(checkpoint, device=torch.device("cuda"))
    cosine = (vectors(fast, photos) * vectors(encoder, photos)).sum(axis=1)
    assert cosine[[0, 1, 3, 4, 5, 6, 7, 9, 10]].min() > 0.999
