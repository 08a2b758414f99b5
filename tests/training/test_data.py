"""Photos in memory: the right cells, no bad ones, every photo once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.config import FusionConfig
from encoder.model import GeoEncoder, GeoEncoderConfig
from indexer.cells import load_hierarchy
from indexer.errors import InputError
from tests.training.conftest import SIZE, with_maps
from training.config import DataConfig
from training.data import Batches, PhotoSet, load_photos


def small_encoder() -> GeoEncoder:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    vision = sizes | {"image_size": SIZE, "patch_size": SIZE}
    return GeoEncoder(GeoEncoderConfig(vision_config=vision, projection_dim=4))


def load(folder: Path, split: str = "train", encoder: GeoEncoder | None = None) -> PhotoSet:
    config = DataConfig(photos=folder / "photos.parquet")
    tree = load_hierarchy(folder / "H")
    return load_photos(config, split, hierarchy=tree, encoder=encoder or small_encoder())


def test_targets_are_the_cells_of_the_coordinates(toy: Path) -> None:
    photos = load(toy)
    assert photos.pixels.shape == (90, 3, SIZE, SIZE)
    assert photos.pixels.dtype == torch.uint8
    expected = load_hierarchy(toy / "H").locate(photos.lat_deg, photos.lng_deg)
    np.testing.assert_array_equal(photos.targets.numpy(), expected)


def test_bad_photos_are_left_out_and_counted(toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    (folder / "0003.png").write_bytes(b"")
    (folder / "0007.png").unlink()
    whole, rest = load(toy), load(folder)
    kept = [row for row in range(90) if row not in (3, 7)]
    assert torch.equal(rest.pixels, whole.pixels[kept])
    np.testing.assert_array_equal(rest.lat_deg, whole.lat_deg[kept])
    assert "2 photos left out (1 empty, 1 missing), first 0003.png" in caplog.text


def test_no_readable_photo_is_an_error(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "H", tmp_path / "H")
    shutil.copy(toy / "photos.parquet", tmp_path)
    with pytest.raises(InputError, match="no photo of split 'train' can be read"):
        load(tmp_path)


def test_plain_batches_hold_every_photo_in_order(toy: Path) -> None:
    photos = load(toy)
    batches = list(Batches(photos, 20))
    assert [len(pixels) for pixels, _, _ in batches] == [20, 20, 20, 20, 10]
    assert torch.equal(torch.cat([targets for _, _, targets in batches]), photos.targets)


def test_shuffled_batches_are_whole_new_each_pass_and_repeatable(toy: Path) -> None:
    photos = load(toy)
    batches = Batches(photos, 20, torch.Generator().manual_seed(0))
    first, second = ([pixels for pixels, _, _ in batches] for _ in range(2))
    assert [len(pixels) for pixels in first] == [20] * 4 == [len(batches) * 5] * 4
    assert not torch.equal(torch.cat(first), torch.cat(second))
    again = [pixels for pixels, _, _ in Batches(photos, 20, torch.Generator().manual_seed(0))]
    assert torch.equal(torch.cat(first), torch.cat(again))


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_pass_holds_every_photo_once_beside_its_own_cells(toy: Path, shuffled: bool) -> None:
    photos = load(toy)
    rows = torch.arange(len(photos))
    marked = PhotoSet(rows.view(-1, 1, 1, 1), None, torch.stack([rows, -rows], dim=1), photos.lat_deg, photos.lng_deg)
    for _ in range(2):
        batches = list(Batches(marked, 15, torch.Generator().manual_seed(0) if shuffled else None))
        pixels, _, targets = zip(*batches, strict=True)
        pixels, targets = torch.cat(pixels), torch.cat(targets)
        assert torch.equal(pixels.flatten().sort().values, rows)
        assert torch.equal(targets, torch.stack([pixels.flatten(), -pixels.flatten()], dim=1))


def test_fewer_photos_than_a_batch_make_one_batch(toy: Path) -> None:
    batches = Batches(load(toy, "validation"), 256, torch.Generator().manual_seed(0))
    assert len(batches) == 1
    assert [len(pixels) for pixels, _, _ in batches] == [30]


def test_every_photo_keeps_its_own_map(toy: Path, tmp_path: Path) -> None:
    folder = with_maps(toy, tmp_path / "toy")
    (folder / "0003.png").unlink()
    encoder = small_encoder()
    encoder.add_fusion(FusionConfig(classes=7, width=4, latent=4, heads=1, blocks=1, mlp_size=4))
    photos = load(folder, encoder=encoder)
    assert photos.class_maps is not None
    assert photos.class_maps.shape == (89, SIZE, SIZE)
    rows = [row for row in range(90) if row != 3]
    assert photos.class_maps[:, 5, 5].tolist() == [row % 7 for row in rows]
    batches = Batches(photos, 20, torch.Generator().manual_seed(0))
    for pixels, class_maps, _ in batches:
        assert class_maps is not None
        for one, class_map in zip(pixels, class_maps, strict=True):
            (row,) = [row for row in range(89) if torch.equal(photos.pixels[row], one)]
            assert torch.equal(photos.class_maps[row], class_map)


def test_photos_without_the_map_they_need_are_an_error_that_says_so(toy: Path) -> None:
    encoder = small_encoder()
    encoder.add_fusion(FusionConfig(classes=7, width=4, latent=4, heads=1, blocks=1, mlp_size=4))
    with pytest.raises(InputError, match="no_map: no class map of this photo: python -m encoder segment"):
        load(toy, encoder=encoder)
