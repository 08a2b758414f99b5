"""Photos of which every epoch sees another crop: in memory as in a stream, exactly, and no larger than was said.

Pixels say where in their photo they are, so that crops say what was cut.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from encoder.config import FusionConfig
from encoder.models.model import GeoEncoder
from encoder.photos.crops import crop_maps, crop_photos
from indexer.cells.table import load_hierarchy
from indexer.errors import InputError
from tests.training.conftest import PLACES, SIZE, changed, train
from tests.training.photos.test_run_photos import small_encoder
from training.config import Augmentation, DataConfig
from training.photos.batches import BatchPart, Share
from training.photos.run_photos import PhotoSet, open_half
from training.photos.stream import PhotoStream
from training.photos.uncut_photos import UncutPhotos

EDGE = 18  # 8/7 of SIZE: photos of this shorter edge are not resampled
CLASSES = 7
BOTH = Augmentation(random_crop=True, mirror=True)
KINDS = [Augmentation(random_crop=True), Augmentation(mirror=True), BOTH]
N = 36
SHAPES = [(EDGE, EDGE), (EDGE, 27), (40, EDGE)]  # height, width


@pytest.fixture(scope="module")
def world(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos whose red is the row, green the column, blue the photo; the class of a pixel is (row + column) % 7."""
    folder = tmp_path_factory.mktemp("uncut")
    for number in range(N):
        height, width = SHAPES[number % 3]
        row, column = np.mgrid[:height, :width]
        colours = np.stack([row, column, np.full((height, width), number)], axis=2)
        Image.fromarray(colours.astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(((row + column) % CLASSES).astype(np.uint8)).save(folder / f"map{number}.png")
    lat, lng = PLACES[np.arange(N) % len(PLACES)].T
    columns = {
        "photo": [f"{n}.png" for n in range(N)],
        "map": [f"map{n}.png" for n in range(N)],
        "lat": lat,
        "lng": lng,
    }
    split = ["train"] * (N - 6) + ["validation"] * 6
    pyarrow.parquet.write_table(pa.table(columns | {"split": split}), folder / "photos.parquet")
    (folder / "H").symlink_to(toy / "H")
    return folder


def with_fusion() -> GeoEncoder:
    encoder = small_encoder()
    encoder.add_fusion(FusionConfig(classes=CLASSES, width=4, latent=4, heads=1, blocks=1, mlp_size=4))
    return encoder


def open_(world: Path, augmentation: Augmentation, **options: object) -> UncutPhotos | PhotoStream:
    data = DataConfig(str(world / "photos.parquet"), workers=0, augmentation=augmentation)
    photos = open_half(
        replace(data, **options),  # type: ignore[arg-type]
        "train",
        hierarchy=load_hierarchy(world / "H"),
        encoder=with_fusion(),
    )
    assert isinstance(photos, UncutPhotos | PhotoStream)
    return photos


def epoch(photos: UncutPhotos | PhotoStream, share: Share | None = None, **options: int) -> list[BatchPart]:
    return list(photos.parts(10, share or Share(), **{"epoch": 0, "seed": 0, "skip": 0} | options))


def by_photo(parts: list[BatchPart]) -> dict[int, tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """Crop, map and cells of each photo."""
    found = {}
    for part in parts:
        assert part.class_maps is not None
        for pixels, class_map, cells in zip(part.pixels, part.class_maps, part.truth.targets, strict=True):
            found[int(pixels[2, 0, 0])] = pixels, class_map, cells.tolist()
    return found


@pytest.mark.parametrize("augmentation", KINDS)
def test_photos_in_memory_and_of_a_stream_are_cut_alike(world: Path, augmentation: Augmentation) -> None:
    held, stream = open_(world, augmentation), open_(world, augmentation, stream=True)
    assert isinstance(held, UncutPhotos)
    assert isinstance(stream, PhotoStream)
    for options in ({}, {"epoch": 1}, {"seed": 4}):
        ours, theirs = by_photo(epoch(held, **options)), by_photo(epoch(stream, **options))
        assert sorted(ours) == sorted(theirs) == list(range(N - 6))
        for number, (pixels, class_map, cells) in ours.items():
            assert torch.equal(pixels, theirs[number][0])
            assert torch.equal(class_map, theirs[number][1])
            assert cells == theirs[number][2]


def middle(world: Path, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The crop of a photo and of its map that an encoder answers by."""
    files = world / f"{number}.png", world / f"map{number}.png"
    image, classes = (torch.from_numpy(np.array(Image.open(file))) for file in files)
    preprocessing, shape = small_encoder().preprocessing, (image.shape[0], image.shape[1])
    pixels = crop_photos([image], preprocessing, crops="one")[0, 0]
    return pixels, crop_maps([classes], [shape], preprocessing, crops="one")[0, 0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("augmentation", KINDS)
def test_crops_are_exact_parts_of_photos_and_maps_go_along(
    world: Path, augmentation: Augmentation, stream: bool
) -> None:
    photos = open_(world, augmentation, stream=stream)
    centres = [middle(world, number) for number in range(N)]
    places, sides = set(), []
    for number in range(12):
        for pixels, class_map, _ in by_photo(epoch(photos, epoch=number)).values():
            row, column, photo = pixels.int()
            mirrored = bool(column[0, 0] > column[0, 1])
            if augmentation.random_crop:
                # Not resampled: rows and columns follow each other.
                assert torch.equal(row, row[:1, :1] + torch.arange(SIZE)[:, None].expand(SIZE, SIZE))
                along = torch.arange(SIZE).flip(0) if mirrored else torch.arange(SIZE)
                assert torch.equal(column, column.min() + along.expand(SIZE, SIZE))
                assert torch.equal(class_map.int(), (row + column) % CLASSES)
                places.add((int(photo[0, 0]) % 3, int(row[0, 0]), int(column.min())))
            else:
                plain, classes = (each.flip(-1) if mirrored else each for each in centres[int(photo[0, 0])])
                assert torch.equal(pixels, plain)
                assert torch.equal(class_map, classes)
            sides.append(mirrored)
    # 360 crops; 9 places in the squares, 3 x 12 in the wide photos, 25 x 3 in the high ones.
    assert not augmentation.random_crop or len(places) > 90
    assert max(row for _, row, _ in places) == 40 - SIZE if places else True
    assert 0.4 < np.mean(sides) < 0.6 if augmentation.mirror else not any(sides)


def test_photos_of_other_sizes_are_cut_from_what_the_ten_crops_come_from(tmp_path: Path, toy: Path) -> None:
    """The first of the five crops, at the top left, and the window that lies there are the same pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), dtype=np.uint8)
    for number, photo in enumerate(noise):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    table = {"photo": ["0.png", "1.png"], "lat": PLACES[:2, 0], "lng": PLACES[:2, 1], "split": ["train"] * 2}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "photos.parquet")
    data = DataConfig(str(tmp_path / "photos.parquet"), workers=0, batch_size=2, augmentation=BOTH)
    photos = open_half(data, "train", hierarchy=load_hierarchy(toy / "H"), encoder=small_encoder())
    assert isinstance(photos, UncutPhotos)
    assert photos.class_maps is None
    assert [tuple(image.shape) for image in photos.images] == [(3, EDGE, 25)] * 2
    corners = crop_photos([torch.from_numpy(photo) for photo in noise], small_encoder().preprocessing, crops="five")
    for image, crops in zip(photos.images, corners, strict=True):
        assert torch.equal(image[:, :SIZE, :SIZE], crops[0])
        assert torch.equal(image[:, -SIZE:, -SIZE:], crops[3])


def test_shares_make_up_the_batches_of_one_process(world: Path) -> None:
    photos = open_(world, BOTH)
    whole = epoch(photos, skip=1)
    shares = [epoch(photos, Share(rank, 5, 1), skip=1) for rank in range(5)]
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[number].pixels for share in shares]), batch.pixels)
        assert all(torch.equal(share[number].truth.everyone, batch.truth.targets) for share in shares)


def test_photos_to_measure_with_are_always_cut_in_their_middle(world: Path) -> None:
    hierarchy, found = load_hierarchy(world / "H"), []
    for augmentation in (BOTH, Augmentation()):
        config = DataConfig(str(world / "photos.parquet"), workers=0, augmentation=augmentation)
        photos = open_half(config, "validation", hierarchy=hierarchy, encoder=with_fusion())
        assert isinstance(photos, PhotoSet)
        found.append(photos.pixels)
    assert torch.equal(*found)


def held_bytes(augmentation: Augmentation) -> int:
    """What the training photos take, with their maps, by arithmetic."""
    shapes = [SHAPES[number % 3] if augmentation.random_crop else (SIZE, SIZE) for number in range(N - 6)]
    return sum(4 * height * width for height, width in shapes)


@pytest.mark.parametrize("augmentation", KINDS)
def test_photos_take_the_memory_that_is_allowed_and_no_more(world: Path, augmentation: Augmentation) -> None:
    size = held_bytes(augmentation)
    assert len(open_(world, augmentation, memory_limit_gb=(size + 1) / 1e9)) == N - 6
    with pytest.raises(InputError, match=r"decoded, more than data\.memory_limit_gb"):
        open_(world, augmentation, memory_limit_gb=(size - 1) / 1e9)


def test_what_squares_would_not_fit_in_is_refused_before_photos_are_decoded(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.photos.stream.PhotoStream.uncut", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"at least 0\.0 GB decoded"):
        open_(world, BOTH, memory_limit_gb=(30 * 4 * EDGE**2 - 1) / 1e9)


def test_photos_that_cannot_be_read_are_left_out(world: Path, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(world / "photos.parquet")
    names = ["gone.png" if n in (3, 20) else str(world / name) for n, name in enumerate(table["photo"].to_pylist())]
    maps = pa.array([str(world / name) for name in table["map"].to_pylist()])
    table = table.set_column(0, "photo", pa.array(names)).set_column(1, "map", maps)
    pyarrow.parquet.write_table(table, tmp_path / "photos.parquet")
    (tmp_path / "H").symlink_to(world / "H")
    photos = open_(tmp_path, BOTH)
    assert isinstance(photos, UncutPhotos)
    assert [int(image[2, 0, 0]) for image in photos.images] == [n for n in range(N - 6) if n not in (3, 20)]
    assert [image.shape[1:] for image in photos.images] == [each.shape for each in photos.class_maps or []]


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_learns_from_crops_and_mirror_images(toy: Path, tmp_path: Path, stream: bool) -> None:
    learn = partial(changed, trainer={"max_epochs": 3})
    plain, cut = (
        train(toy, tmp_path / str(number), learn(data={"augmentation": augmentation, "stream": stream}))
        for number, augmentation in enumerate((Augmentation(), BOTH))
    )
    assert cut.epochs[-1].loss < cut.epochs[0].loss
    assert cut.epochs[0].loss != plain.epochs[0].loss
