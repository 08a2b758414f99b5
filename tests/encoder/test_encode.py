"""An encoder with semantic fusion from photo files to vectors: maps of their own, from a cache, or made on the way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.class_maps.cache import SegmentationCache, open_cache
from encoder.class_maps.class_map import NO_CLASS
from encoder.config import CropName, FeedOptions, FusionConfig, ReadOptions, SegmentConfig
from encoder.embedding import embed_photos, embed_source
from encoder.encode import MapSource, PhotoEncoder
from encoder.models.checkpoint import LoadedEncoder, load_encoder, save_checkpoint
from encoder.models.segmentation import Segmenter
from encoder.photos import photo_reader
from encoder.photos.crops import crop_maps, crop_photos, normalise
from encoder.photos.photo_reader import DecodedPhoto
from encoder.segmenting import segment_photos
from indexer.errors import InputError, WorkError
from indexer.photos.photo import FileRange
from indexer.photos.sources import PhotoSource, open_photos
from indexer.vectors.features import FeatureBatch, read_features
from tests.encoder.conftest import EDGE, natural, tiny_encoder

SIZES = [(90, 60), (64, 64), (50, 70), (120, 80)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoSource:
    folder = tmp_path_factory.mktemp("photos")
    for row, size in enumerate(SIZES):
        natural(*size, seed=row).save(folder / f"{row}.png")
    return open_photos(folder)


@pytest.fixture(scope="module")
def cache(photos: PhotoSource, segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> SegmentationCache:
    out = tmp_path_factory.mktemp("maps") / "S"
    segment_photos(segmenter, photos, out, config=SegmentConfig())
    return open_cache(out)


@pytest.fixture(scope="module")
def fused(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> LoadedEncoder:
    """An encoder whose fusion says something: its output projections are no longer zero."""
    model = tiny_encoder()
    sizes = FusionConfig(classes=segmenter.n_classes, width=12, latent=6, heads=4, blocks=2, mlp_size=24)
    model.add_fusion(replace(sizes, segmenter=segmenter.digest))
    assert model.fusion is not None
    for weight in model.fusion.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    folder = tmp_path_factory.mktemp("fused") / "C"
    save_checkpoint(folder, encoder=model, geocells=None, config={}, inputs={})
    return load_encoder(folder)


def embedded(
    encoder: LoadedEncoder, photos: PhotoSource, maps: MapSource | None = None, crops: CropName = "one"
) -> FeatureBatch:
    (batch,) = embed_photos(PhotoEncoder(encoder, crops=crops, maps=maps), photos, feed=FeedOptions(workers=0))
    return batch


@pytest.mark.parametrize("crops", ["one", "ten"])
def test_vectors_are_those_of_photo_and_map_cut_alike(
    fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, crops: CropName
) -> None:
    have = embedded(fused, photos, MapSource(cache), crops).embedding
    for row, size in enumerate(SIZES):
        image = natural(*size, seed=row)
        pixels = crop_photos([torch.from_numpy(np.array(image))], fused.preprocessing, crops=crops)[0]
        class_map = cache.get(Path(photos.location, f"{row}.png").read_bytes())
        assert class_map is not None
        shapes = [(image.height, image.width)]
        maps = crop_maps([torch.from_numpy(class_map)], shapes, fused.preprocessing, crops=crops)[0]
        with torch.inference_mode():
            want = fused.model(normalise(pixels, fused.preprocessing), maps).mean(dim=0)
            blind = fused.model(normalise(pixels, fused.preprocessing), torch.zeros_like(maps)).mean(dim=0)
        np.testing.assert_allclose(have[row], want.numpy(), atol=1e-5)
        assert not np.allclose(have[row], blind.numpy(), atol=1e-4)


def test_maps_made_on_the_way_are_those_of_the_cache(
    fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, segmenter: Segmenter
) -> None:
    cached, made, both = (
        embedded(fused, photos, maps).embedding
        for maps in (MapSource(cache), MapSource(segmenter=segmenter), MapSource(cache, segmenter))
    )
    np.testing.assert_allclose(made, cached, atol=1e-5)
    np.testing.assert_array_equal(both, cached)


def test_maps_of_large_photos_are_the_same_wherever_they_are_made(
    fused: LoadedEncoder, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEGs that are decoded at a fraction of their size, and photos resized before they are sent; with odd edges."""
    monkeypatch.setattr(photo_reader, "MAX_SENT_PIXELS", 200_000)
    (tmp_path / "photos").mkdir()
    for number, (size, suffix) in enumerate([((640, 512), "jpg"), ((541, 391), "jpg"), ((541, 391), "png")]):
        natural(*size, seed=number).save(tmp_path / "photos" / f"{number}.{suffix}")
    photos = open_photos(tmp_path / "photos")
    segment_photos(segmenter, photos, tmp_path / "S", config=SegmentConfig(map_edge=96))
    cache = open_cache(tmp_path / "S")
    encode = PhotoEncoder(fused, maps=MapSource(cache, segmenter))
    reader = encode.reader(ReadOptions())
    for photo in photos:
        assert isinstance(photo.data, FileRange)
        known = cache.get(Path(photo.data.uri).read_bytes())
        read = replace(reader, cache=None)(photo)
        assert isinstance(read, DecodedPhoto)
        assert read.to_segment is not None
        np.testing.assert_array_equal(segmenter.segment([read.to_segment])[0], known)
    cached, both = (embedded(fused, photos, maps).embedding for maps in (MapSource(cache), MapSource(cache, segmenter)))
    np.testing.assert_array_equal(both, cached)


def test_few_photos_go_through_the_segmenter_at_once_whatever_the_batch(
    fused: LoadedEncoder, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(11):
        natural(90, 70, seed=number).save(tmp_path / f"{number:02d}.png")
    sizes: list[int] = []
    maps = Segmenter.maps
    monkeypatch.setattr(Segmenter, "maps", lambda self, batch: sizes.append(len(batch)) or maps(self, batch))
    made = embedded(fused, open_photos(tmp_path), MapSource(segmenter=segmenter))
    assert list(made.status) == ["ok"] * 11
    assert sizes == [4, 4, 3]


def test_too_little_memory_on_the_device_says_what_to_do(
    fused: LoadedEncoder, photos: PhotoSource, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Segmenter, "maps", full)
    with pytest.raises(WorkError, match=r"class maps of 4 photos beside the encoder\. Make them first \(python -m"):
        embedded(fused, photos, MapSource(segmenter=segmenter))


@pytest.mark.parametrize(
    ("crops", "n", "advice"),
    [
        ("one", 4, r"for 4 crops at once\. Run again with `batch_size` below 4 \(.*\), or with `device` cpu\."),
        ("one", 1, r"for 1 crop at once\. Run again with `device` cpu\."),
        ("ten", 4, r"for 10 crops at once\. Run again with fewer `crops`, or with `device` cpu\."),
    ],
)
def test_too_little_memory_advises_only_what_helps(
    encoder: LoadedEncoder,
    photos: PhotoSource,
    monkeypatch: pytest.MonkeyPatch,
    crops: CropName,
    n: int,
    advice: str,
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PhotoEncoder, "_vectors", full)
    with pytest.raises(WorkError, match=advice):
        list(
            embed_photos(
                PhotoEncoder(encoder, crops=crops), list(photos)[:n], feed=FeedOptions(batch_size=8, workers=0)
            )
        )


@pytest.mark.parametrize(("batch_size", "photos"), [(1, 1), (10, 1), (19, 1), (20, 2)])
def test_the_crops_of_a_photo_are_never_parted(encoder: LoadedEncoder, batch_size: int, photos: int) -> None:
    assert PhotoEncoder(encoder, crops="ten").photos_in(batch_size) == photos


def test_a_photo_without_a_map_is_a_row_that_says_so(
    fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, tmp_path: Path
) -> None:
    natural(80, 80, seed=9).save(tmp_path / "new.png")
    new = open_photos(tmp_path)
    batch = embedded(fused, new, MapSource(cache))
    assert (list(batch.status), batch.embedding.any()) == (["no_map"], False)
    assert "python -m encoder segment" in batch.reason[0]
    assert "`model.fusion.leave_out`" in batch.reason[0]
    assert list(embedded(fused, photos).status) == ["no_map"] * 4
    assert embedded(fused, photos, MapSource(cache)).class_map == [True] * 4


def test_photos_that_cannot_bring_maps_are_refused_before_any_is_read(
    fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none come with these. Give `segmentation_cache` .* or `segmenter`"):
        embed_source(PhotoEncoder(fused), photos, tmp_path / "F")
    PhotoEncoder(fused, maps=MapSource(cache)).check_source(photos)
    for column, refused in (("map", False), ("caption", True)):
        (tmp_path / "photos.csv").write_text(f"photo,{column}\n0.png,x\n")
        assert open_photos(tmp_path / "photos.csv").may_have_maps != refused


@pytest.fixture(scope="module")
def frugal(fused: LoadedEncoder, tmp_path_factory: pytest.TempPathFactory) -> LoadedEncoder:
    """The same encoder as if it had learned to do without maps."""
    model = load_encoder(fused.name).model
    model.config.fusion["leave_out"] = 0.3
    folder = tmp_path_factory.mktemp("frugal") / "C"
    save_checkpoint(folder, encoder=model, geocells=None, config={}, inputs={})
    return load_encoder(folder)


@pytest.mark.parametrize("crops", ["one", "ten"])
def test_a_photo_without_a_map_is_seen_with_a_map_of_no_class(
    frugal: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, tmp_path: Path, crops: CropName
) -> None:
    """Beside photos that have theirs, or all by themselves; and of each it is said which it was."""
    mixed = [*photos, replace(next(iter(photos)), class_map=np.full((60, 90), NO_CLASS, np.uint8))]
    natural(80, 80, seed=9).save(tmp_path / "new.png")
    mixed += open_photos(tmp_path)
    encode = PhotoEncoder(frugal, crops=crops, maps=MapSource(cache))
    (batch,) = embed_photos(encode, mixed, feed=FeedOptions(workers=0))
    assert batch.ok.all()
    assert batch.class_map == [True] * 5 + [False]
    bare = embedded(frugal, photos, crops=crops)
    assert bare.class_map == [False] * 4
    np.testing.assert_allclose(bare.embedding[0], batch.embedding[4], atol=1e-6)
    np.testing.assert_array_less(1e-4, np.abs(bare.embedding - batch.embedding[:4]).max(axis=1))


def test_jobs_take_photos_that_bring_no_maps_and_tell_of_the_first(
    frugal: LoadedEncoder, photos: PhotoSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        summary = embed_source(PhotoEncoder(frugal), photos, tmp_path / "F", feed=FeedOptions(workers=0))
    assert (summary.ok, summary.failed) == (4, {})
    assert read_features(tmp_path / "F").class_map == [False] * 4
    assert caplog.text.count("0.png: has no class map") == 1
    assert "1.png: has no" not in caplog.text


def test_a_map_that_is_no_good_stays_an_error(frugal: LoadedEncoder, photos: PhotoSource) -> None:
    first, second, *_ = photos
    given = [replace(first, class_map=b"none"), second]
    (batch,) = embed_photos(PhotoEncoder(frugal), given, feed=FeedOptions(workers=0))
    assert (list(batch.status), batch.class_map) == (["bad_map", "ok"], [None, False])


def test_encoders_without_fusion_say_nothing_of_maps(encoder: LoadedEncoder, photos: PhotoSource) -> None:
    assert embedded(encoder, photos).class_map is None


def test_maps_that_came_with_the_photos_are_used_first(
    fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, tmp_path: Path
) -> None:
    """In the table's column `map`: here one class all over, which no segmenter said."""
    lines = ["photo,map"]
    for row, (width, height) in enumerate(SIZES):
        Image.new("L", (width // 2, height // 2), 3).save(tmp_path / f"map{row}.png")
        lines.append(f"{photos.location}/{row}.png,map{row}.png")
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    own = embedded(fused, open_photos(tmp_path / "photos.csv"), MapSource(cache))
    assert list(own.status) == ["ok"] * 4
    image = natural(*SIZES[0], seed=0)
    pixels = crop_photos([torch.from_numpy(np.array(image))], fused.preprocessing, crops="one")[0]
    with torch.inference_mode():
        maps = torch.full((1, EDGE, EDGE), 3, dtype=torch.uint8)
        want = fused.model(normalise(pixels, fused.preprocessing), maps)[0]
    np.testing.assert_allclose(own.embedding[0], want.numpy(), atol=1e-5)


def test_maps_of_another_model_are_refused(
    fused: LoadedEncoder, cache: SegmentationCache, segmenter: Segmenter, encoder: LoadedEncoder
) -> None:
    other = replace(segmenter, digest="f" * 64)
    with pytest.raises(InputError, match="The cache holds maps of the segmentation model"):
        PhotoEncoder(fused, maps=MapSource(cache, other))
    with pytest.raises(InputError, match="The encoder learned from maps of the segmentation model"):
        PhotoEncoder(fused, maps=MapSource(segmenter=other))
    model = tiny_encoder()
    model.add_fusion(FusionConfig(classes=3, width=12, latent=6, heads=4, blocks=1, mlp_size=8))
    for maps in (MapSource(cache), MapSource(segmenter=segmenter)):
        with pytest.raises(InputError, match=f"of {segmenter.n_classes} classes for an encoder that knows 3"):
            PhotoEncoder(replace(fused, model=model), maps=maps)
    with pytest.raises(InputError, match="no semantic fusion: leave out"):
        PhotoEncoder(encoder, maps=MapSource(cache))


def test_half_the_bits_keep_the_direction(fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache) -> None:
    folder = fused.name
    half = load_encoder(folder, dtype=torch.bfloat16)
    one, other = (embedded(each, photos, MapSource(cache)).embedding for each in (fused, half))
    assert (one * other).sum(axis=1).min() >= 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("crops", ["one", "ten"])
def test_a_gpu_gives_the_vectors_of_the_cpu(
    fused: LoadedEncoder, photos: PhotoSource, cache: SegmentationCache, crops: CropName
) -> None:
    there = load_encoder(fused.name, device=torch.device("cuda"), dtype=torch.bfloat16)
    one, other = (embedded(each, photos, MapSource(cache), crops).embedding for each in (fused, there))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    assert ((one * other).sum(axis=1) / lengths).min() >= 0.999
