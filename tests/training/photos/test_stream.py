"""Photos as a stream: each once, well mixed, shared and gone on with as those in memory are; bad ones do no harm."""

import io
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indexer.cells.table import load_hierarchy
from indexer.errors import InputError
from indexer.photos.photo import Photo
from indexer.photos.sources import open_photos
from tests.training.conftest import SIZE
from tests.training.photos.test_run_photos import small_encoder
from training.config import DataConfig
from training.photos.batches import BatchPart, Share, n_batches
from training.photos.stream import PhotoStream, shuffle

ALONE = Share()


def stream(source: str | Path, folder: Path, *, workers: int = 0, split: str | None = "train") -> PhotoStream:
    config = DataConfig(str(source), workers=workers, shuffle_photos=40, shuffle_mb=1)
    photos = open_photos(source, split=split, coordinates=True)
    return PhotoStream(photos, load_hierarchy(folder / "H"), encoder=small_encoder(), config=config, needs_cell=True)


def epoch(photos: PhotoStream, share: Share = ALONE, **options: int) -> list[BatchPart]:
    return list(photos.parts(18, share, **{"epoch": 0, "seed": 0, "skip": 0} | options))


def as_rows(parts: list[BatchPart]) -> list[bytes]:
    return [row.numpy().tobytes() for part in parts for row in part.pixels]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_photo_once_with_its_cells(toy: Path, workers: int) -> None:
    photos = stream(toy / "photos.parquet", toy, workers=workers)
    assert len(photos) == 90
    parts = epoch(photos)
    assert [len(part.pixels) for part in parts] == [18] * 5
    assert parts[0].pixels.shape == (18, 3, SIZE, SIZE)
    table = pyarrow.parquet.read_table(toy / "photos.parquet").slice(0, 90)
    hierarchy = load_hierarchy(toy / "H")
    cells = hierarchy.locate(table["lat"].to_numpy(), table["lng"].to_numpy())
    known = {
        np.asarray(Image.open(toy / name).convert("RGB")).transpose(2, 0, 1).tobytes(): row.tolist()
        for name, row in zip(table["photo"].to_pylist(), cells, strict=True)
    }
    seen = {
        row: target.tolist() for part in parts for row, target in zip(as_rows([part]), part.truth.targets, strict=True)
    }
    assert seen == known
    assert n_batches(len(photos), 18) == 5


def test_epochs_differ_and_are_repeatable(toy: Path) -> None:
    photos = stream(toy / "photos.parquet", toy)
    first, second, again = (as_rows(epoch(photos, epoch=number)) for number in (0, 1, 0))
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize(("processes", "n_parts"), [(2, 1), (1, 3), (3, 2)])
def test_shares_make_up_the_batches_of_one_process(toy: Path, processes: int, n_parts: int) -> None:
    photos = stream(toy / "photos.parquet", toy)
    whole = epoch(photos)
    shares = [epoch(photos, Share(rank, processes, n_parts)) for rank in range(processes)]
    for number, batch in enumerate(whole):
        mine = [part for share in shares for part in share[number * n_parts : (number + 1) * n_parts]]
        assert as_rows(mine) == as_rows([batch])
        assert all(torch.equal(part.truth.everyone, batch.truth.targets) for part in mine)


def test_an_epoch_is_gone_on_with_where_it_was_left(toy: Path) -> None:
    photos = stream(toy / "photos.parquet", toy)
    assert as_rows(epoch(photos, skip=3)) == as_rows(epoch(photos))[3 * 18 :]


@pytest.fixture
def shards(toy: Path, tmp_path: Path) -> Path:
    """The toy's training photos in nine tars."""
    table = pyarrow.parquet.read_table(toy / "photos.parquet").slice(0, 90).to_pylist()
    for number in range(9):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for row in table[10 * number : 10 * number + 10]:
                place = f'{{"lat": {row["lat"]}, "lng": {row["lng"]}}}'.encode()
                content = (toy / row["photo"]).read_bytes()
                for suffix, data in (("png", content), ("json", place)):
                    info = tarfile.TarInfo(f"{Path(row['photo']).stem}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return tmp_path


def test_shards_come_in_a_random_order(toy: Path, shards: Path) -> None:
    source = open_photos(shards, coordinates=True)
    orders = [
        [photo.name.split("/")[0] for photo in source.shuffled_shards(np.random.default_rng(seed))]
        for seed in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]
    assert sum(a != b for a, b in pairwise(orders[0])) == 8  # a shard is read from its beginning to its end
    photos = stream(shards, toy, split=None)
    assert len(photos) == 90
    assert sorted(as_rows(epoch(photos))) == sorted(as_rows(epoch(stream(toy / "photos.parquet", toy))))


def test_a_photo_that_cannot_be_read_has_no_cell_and_its_batch_stays_whole(
    toy: Path, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pyarrow.parquet.read_table(toy / "photos.parquet").slice(0, 90)
    lines = ["photo,lat,lng"]
    for row in table.to_pylist():
        name = toy / row["photo"] if int(Path(row["photo"]).stem) % 30 else "gone.png"
        lines.append(f"{name},{row['lat']},{row['lng']}")
    (shards / "some.csv").write_text("\n".join(lines))
    parts = epoch(stream(shards / "some.csv", toy, split=None))
    lost = torch.cat([(part.truth.targets < 0).all(dim=1) & (part.truth.everyone >= 0).any(dim=1) for part in parts])
    assert lost.sum() == 3
    assert [len(part.pixels) for part in parts] == [18] * 5
    assert not torch.cat([part.pixels for part in parts])[lost].any()
    assert caplog.text.count("gone.png: missing") == 1


@pytest.mark.parametrize("given_up_after", [30, 1024])
def test_photos_of_which_none_can_be_read_are_an_error(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_up_after: int
) -> None:
    monkeypatch.setattr("training.photos.stream._GIVEN_UP_AFTER", given_up_after)
    shutil.copy(toy / "photos.parquet", tmp_path)  # without the photos themselves
    seen = "36" if given_up_after == 30 else "90"
    with pytest.raises(InputError, match=rf"of the first {seen} photos none can be read.*png: missing"):
        epoch(stream(tmp_path / "photos.parquet", toy))
    with pytest.raises(InputError, match="of the first 30 photos none can be read"):
        list(stream(tmp_path / "photos.parquet", toy, split="validation").validation_parts(30, ALONE))


@pytest.mark.parametrize("processes", [1, 4])
def test_validation_sees_every_photo_once_over_all_processes(toy: Path, processes: int) -> None:
    photos = stream(toy / "photos.parquet", toy, split="validation")
    parts = [part for rank in range(processes) for part in photos.validation_parts(7, Share(rank, processes))]
    rows = sorted(row.numpy().tobytes() for part in parts for row in part.pixels)
    assert len(rows) == len(set(rows)) == 30
    hierarchy = load_hierarchy(toy / "H")
    for part in parts:
        np.testing.assert_array_equal(part.truth.targets, hierarchy.locate(part.lat_deg.numpy(), part.lng_deg.numpy()))


@given(n=st.integers(0, 200), photos=st.integers(1, 50), n_bytes=st.integers(1, 500), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_shuffling_loses_nothing_and_holds_no_more_than_it_may(n: int, photos: int, n_bytes: int, seed: int) -> None:
    held = most = 0

    def source() -> object:
        nonlocal held, most
        for row in range(n):
            held += 1
            most = max(most, held)
            yield Photo(str(row), b"x" * 10, 0.0, 0.0), np.array([row])

    seen = []
    for _, cells in shuffle(source(), np.random.default_rng(seed), photos=photos, n_bytes=n_bytes):  # type: ignore[arg-type]
        held -= 1
        seen.append(int(cells[0]))
    assert sorted(seen) == list(range(n))
    assert most <= min(photos, max(1, n_bytes // 10)) + 1
