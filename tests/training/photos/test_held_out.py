"""The table of held-out photos: it opens as any table, and its photos are those of the source, byte for byte."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from encoder.config import EmbedConfig
from encoder.embedding import embed
from encoder.photos.reading import read_bytes
from indexer.photos.photo import FileRange, Photo
from indexer.photos.sources import PhotoSource, open_photos
from indexer.vectors.features import read_features
from tests.training.conftest import changed, train, with_maps
from training.photos.held_out import write_held_out
from training.photos.holding_out import by_name


def read(photo: Photo) -> tuple[str, bytes | None, float, float, bytes | None]:
    content, class_map = (None if data is None else read_bytes(data) for data in (photo.data, photo.class_map))  # type: ignore[arg-type]
    return photo.name, content, photo.lat_deg, photo.lng_deg, class_map


def tar_of(folder: Path, file: Path) -> Path:
    """The photos of a folder with maps, as a shard with a place and a map of each."""
    rows = pyarrow.parquet.read_table(folder / "photos.parquet").to_pylist()
    with tarfile.open(file, "w") as tar:
        for row in rows:
            stem = row["photo"].removesuffix(".png")
            (folder / "place.json").write_text(f'{{"lat": {row["lat"]}, "lng": {row["lng"]}}}')
            for name, inside in ((row["photo"], f"{stem}.png"), ("place.json", f"{stem}.json")):
                tar.add(folder / name, inside)
            tar.add(folder / row["map"], f"{stem}.map.png")
    (folder / "place.json").unlink()
    return file


@pytest.mark.parametrize("kind", ["files", "tar", "table", "no maps"])
def test_it_holds_the_photos_of_the_source(toy: Path, tmp_path: Path, kind: str) -> None:
    folder = with_maps(toy, tmp_path / "toy")
    source: Path | str = folder / "photos.parquet"
    if kind == "tar":
        source = tar_of(folder, tmp_path / "0.tar")
    elif kind == "no maps":
        source = toy / "photos.parquet"
    elif kind == "table":
        table = pyarrow.parquet.read_table(source)
        images = pa.array([(folder / name).read_bytes() for name in table["photo"].to_pylist()], pa.binary())
        source = tmp_path / "inside.parquet"
        pyarrow.parquet.write_table(table.drop_columns("map").append_column("image", images), source)
    photos = open_photos(source, coordinates=True)
    chosen = by_name(0.3)[1]
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "held_out.parquet"
    n = write_held_out(file, photos, chosen)
    wanted = [photo for photo in photos if chosen([photo.name])[0]]
    assert 0 < n == len(wanted) < 120
    opened = open_photos(file, coordinates=True)
    assert [read(photo) for photo in opened] == [read(photo) for photo in wanted]
    paths = [row["path"] for row in pyarrow.parquet.read_table(file)["image"].to_pylist()]
    assert all(path is None for path in paths) == (kind in ("tar", "table"))
    assert (file.stat().st_size < 20_000) == (kind not in ("tar", "table"))


def test_a_way_with_a_password_is_not_written_down(tmp_path: Path) -> None:
    uri = "ftp://me:secret@somewhere/a.jpg"  # refused at once, so that nobody is asked
    source = PhotoSource("somewhere", 1, None, lambda: iter([Photo("a.jpg", FileRange(uri), 1.0, 2.0)]))
    assert write_held_out(tmp_path / "h.parquet", source, None) == 1
    assert b"secret" not in (tmp_path / "h.parquet").read_bytes()
    (photo,) = open_photos(tmp_path / "h.parquet", coordinates=True)
    assert (photo.name, photo.data) == ("a.jpg", None)


def test_a_run_writes_its_own_once(toy: Path, tmp_path: Path) -> None:
    """The photos that it measured with, which `embed` turns into the vectors that they have anyway."""
    summary = train(toy, tmp_path / "C", changed(trainer={"max_epochs": 1}))
    file = tmp_path / "C" / "held_out.parquet"
    table, known = (pyarrow.parquet.read_table(path) for path in (file, toy / "photos.parquet"))
    known = known.filter(pa.compute.equal(known["split"], "validation"))
    for column in ("photo", "lat", "lng"):
        assert table[column].to_pylist() == known[column].to_pylist()
    encoder = str(summary.checkpoint)
    embed(file, encoder, tmp_path / "F")
    config = EmbedConfig(split="validation")
    embed(toy / "photos.parquet", encoder, tmp_path / "G", config=config)
    one, other = (read_features(tmp_path / name) for name in "FG")
    assert list(one.photo) == list(other.photo)
    np.testing.assert_array_equal(one.embedding, other.embedding)
