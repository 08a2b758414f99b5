"""The photos of a run: in memory or as a stream, the right cells, no bad ones, every photo once, or refused.

They are divided by a split or by name.
"""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from encoder.config import FusionConfig
from encoder.models.model import GeoEncoder, GeoEncoderConfig
from indexer.cells.partition import PartitionRule
from indexer.cells.table import load_hierarchy
from indexer.errors import InputError
from indexer.photos.sources import open_photos
from tests.conftest import save_s2_hierarchy
from tests.training.conftest import SIZE, changed, train, with_maps
from training.config import DataConfig
from training.photos.batches import BatchPart, Share
from training.photos.holding_out import by_name
from training.photos.run_photos import PhotoSet, load_photos, open_half
from training.photos.stream import PhotoStream


def small_encoder() -> GeoEncoder:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    vision = sizes | {"image_size": SIZE, "patch_size": SIZE}
    return GeoEncoder(GeoEncoderConfig(vision_config=vision, projection_dim=4))


def load(folder: Path, split: str = "train", encoder: GeoEncoder | None = None) -> PhotoSet:
    config = DataConfig(photos=str(folder / "photos.parquet"), workers=0)
    source = open_photos(config.photos, split=split, coordinates=True)
    stream = PhotoStream(source, load_hierarchy(folder / "H"), encoder=encoder or small_encoder(), config=config)
    return load_photos(stream, memory_limit_gb=1.0)


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
    assert "2 of 90 photos of this pass could not be read and were left out (1 empty, 1 missing)" in caplog.text
    assert "0003.png: empty" in caplog.text


def test_no_readable_photo_is_an_error(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy / "H", tmp_path / "H")
    shutil.copy(toy / "photos.parquet", tmp_path)
    with pytest.raises(InputError, match="of the first 90 photos none can be read"):
        load(tmp_path)


ALONE = Share()


def epoch(photos: PhotoSet, batch_size: int, share: Share = ALONE, **options: int) -> list[BatchPart]:
    return list(photos.parts(batch_size, share, **{"epoch": 0, "seed": 0, "skip": 0} | options))


def marked(photos: PhotoSet) -> PhotoSet:
    """The same, with the number of each photo in place of its pixels and cells."""
    rows = torch.arange(len(photos))
    return replace(photos, pixels=rows.view(-1, 1, 1, 1), targets=torch.stack([rows, -rows], dim=1))


@pytest.mark.parametrize("processes", [1, 3])
def test_validation_sees_every_photo_once(toy: Path, processes: int) -> None:
    photos = marked(load(toy))
    parts = [list(photos.validation_parts(20, Share(rank, processes))) for rank in range(processes)]
    if processes == 1:
        assert [len(part.pixels) for part in parts[0]] == [20, 20, 20, 20, 10]
    seen = torch.cat([part.pixels.flatten() for mine in parts for part in mine])
    assert seen.sort().values.tolist() == list(range(90))
    for part in parts[-1]:
        rows = part.pixels.flatten()
        np.testing.assert_array_equal(part.lat_deg, photos.lat_deg[rows])
        assert torch.equal(part.truth.targets[:, 0], rows)


def test_epochs_are_whole_new_each_time_and_repeatable(toy: Path) -> None:
    photos = load(toy)
    first, second, again = ([part.pixels for part in epoch(photos, 20, epoch=number)] for number in (0, 1, 0))
    assert [len(pixels) for pixels in first] == [20] * 4
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(first), torch.cat(again))
    other = [part.pixels for part in epoch(photos, 20, seed=1)]
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_an_epoch_holds_every_photo_once_beside_its_own_cells(toy: Path) -> None:
    photos = marked(load(toy))
    parts = epoch(photos, 15)
    pixels = torch.cat([part.pixels for part in parts])
    targets = torch.cat([part.truth.targets for part in parts])
    assert torch.equal(pixels.flatten().sort().values, torch.arange(90))
    assert torch.equal(targets, torch.stack([pixels.flatten(), -pixels.flatten()], dim=1))
    assert all(part.ends_batch and torch.equal(part.truth.targets, part.truth.everyone) for part in parts)


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 3), (2, 3), (3, 2)])
def test_shares_make_up_the_batches_of_one_process(toy: Path, processes: int, parts: int) -> None:
    photos = marked(load(toy))
    whole = epoch(photos, 18)
    shares = [epoch(photos, 18, Share(rank, processes, parts)) for rank in range(processes)]
    for number, batch in enumerate(whole):
        mine = [part for share in shares for part in share[number * parts : (number + 1) * parts]]
        assert torch.equal(torch.cat([part.pixels for part in mine]), batch.pixels)
        for part in mine:
            assert torch.equal(part.truth.everyone, batch.truth.targets)
            assert torch.equal(
                part.truth.everyone[part.truth.first : part.truth.first + len(part.truth.targets)], part.truth.targets
            )
        assert sum(part.ends_batch for part in mine) == processes


def test_an_epoch_is_gone_on_with_where_it_was_left(toy: Path) -> None:
    photos = marked(load(toy))
    whole, rest = epoch(photos, 20), epoch(photos, 20, skip=3)
    assert [part.pixels.tolist() for part in rest] == [part.pixels.tolist() for part in whole[3:]]


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
    for part in epoch(photos, 20):
        assert part.class_maps is not None
        for one, class_map in zip(part.pixels, part.class_maps, strict=True):
            (row,) = [row for row in range(89) if torch.equal(photos.pixels[row], one)]
            assert torch.equal(photos.class_maps[row], class_map)


def test_photos_without_the_map_they_need_are_an_error_that_says_so(toy: Path) -> None:
    encoder = small_encoder()
    encoder.add_fusion(FusionConfig(classes=7, width=4, latent=4, heads=1, blocks=1, mlp_size=4))
    with pytest.raises(InputError, match="no_map: no class map of this photo: give `segmentation_cache` with one"):
        load(toy, encoder=encoder)


def test_photos_to_validate_with_can_be_chosen_by_name(toy: Path, tmp_path: Path) -> None:
    """A table without the column `split`."""
    table = pyarrow.parquet.read_table(toy / "photos.parquet").drop_columns(["split"])
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "photo", names), tmp_path / "photos.parquet")
    held_out = int(by_name(0.2)[1](names.to_pylist()).sum())
    for stream in (False, True):
        config = DataConfig(str(tmp_path / "photos.parquet"), workers=0, validation_share=0.2, stream=stream)
        open_ = partial(open_half, config, hierarchy=load_hierarchy(toy / "H"), encoder=small_encoder())
        assert (len(open_("validation")), len(open_("train"))) == (held_out, 120 - held_out)


@pytest.mark.parametrize("stream", [False, True])
def test_photos_elsewhere_than_the_hierarchy_are_refused(toy: Path, tmp_path: Path, stream: bool) -> None:
    rule = PartitionRule(tau_max=(40,), tau_min=5)
    save_s2_hierarchy(np.repeat([70.0, -70.0], 30), np.repeat([100.0, 100.0], 30), rule=rule, out=tmp_path / "H")
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    names = pa.array([str(toy / name) for name in table["photo"].to_pylist()])
    pyarrow.parquet.write_table(table.set_column(0, "photo", names), tmp_path / "photos.parquet")
    with pytest.raises(InputError, match="no training photo lies in a cell"):
        train(tmp_path, tmp_path / "C", changed(data={"stream": stream}))
    assert not (tmp_path / "C").exists()


def test_photos_that_do_not_fit_in_memory_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="memory_limit_gb"):
        train(toy, tmp_path / "C", changed(data={"memory_limit_gb": 1e-6}))


@pytest.mark.parametrize("stream", [False, True])
def test_photos_without_any_to_validate_with_are_refused_before_training(
    toy: Path, tmp_path: Path, stream: bool
) -> None:
    few = changed(data={"stream": stream, "validation_share": 0.0001})
    with pytest.raises(InputError, match="there is no photo"):
        train(toy, tmp_path / "C", few)
    assert not (tmp_path / "C").exists()
