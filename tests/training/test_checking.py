"""A run is looked at before it begins: what it lacks is named at once, nothing is written, and `fit` agrees."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from encoder.class_maps.cache import MapOrigin, content_digest, write_cache
from encoder.config import FusionConfig
from indexer.cells.partition import PartitionRule
from indexer.errors import InputError
from tests.conftest import save_s2_hierarchy
from tests.training.conftest import LEARN, changed, train
from training import checking
from training.checking import check
from training.config import Augmentation, FitConfig
from training.runs import photo_survey
from training.runs.check_report import CheckReport

STREAM = changed(LEARN, data={"stream": True})


def of(toy: Path, out: Path, config: FitConfig = STREAM, *, hierarchy: str = "H") -> CheckReport:
    data = replace(config.data, photos=str(toy / config.data.photos))
    return check(toy / hierarchy, out, config=replace(config, data=data))


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_lacks_nothing(toy: Path, tmp_path: Path, stream: bool) -> None:
    before, random = files(toy), torch.get_rng_state()
    report = of(toy, tmp_path / "C", changed(LEARN, data={"stream": stream}))
    assert report.problems == []
    assert report.estimate is not None
    assert (report.estimate.train_photos, report.estimate.validation_photos) == (90, 30)
    assert report.estimate.photos_at_once == 15
    assert report.estimate.hours is not None
    assert 0 < report.estimate.hours < 1
    assert 0 < report.estimate.need_bytes < 200_000_000
    assert files(toy) == before
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), random)


def test_a_run_begins_as_if_nobody_had_looked(toy: Path, tmp_path: Path) -> None:
    short = changed(STREAM, trainer={"max_epochs": 1})
    train(toy, tmp_path / "A", short)
    of(toy, tmp_path / "B", short)
    train(toy, tmp_path / "B", short)
    one, other = ((tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in "AB")
    assert one == other
    assert "this run has ended" in of(toy, tmp_path / "B", short).text()


def tars(toy: Path, folder: Path) -> Path:
    """The training photos in three tar shards with their places."""
    folder.mkdir()
    rows = pyarrow.parquet.read_table(toy / "photos.parquet").slice(0, 90).to_pylist()
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for row in rows[number::3]:
                stem = row["photo"].removesuffix(".png")
                (folder / "place.json").write_text(f'{{"LAT": {row["lat"]}, "LON": {row["lng"]}}}')
                tar.add(toy / row["photo"], f"{stem}.png")
                tar.add(folder / "place.json", f"{stem}.json")
    (folder / "place.json").unlink()
    return folder


def cache(toy: Path, folder: Path, segmenter: str) -> Path:
    with write_cache(folder, MapOrigin(segmenter, "some/model", tuple("abcdefg"), 384)) as writer:
        for path in sorted(toy.glob("*.png")):
            writer.add(content_digest(path.read_bytes()), torch.zeros((16, 16), dtype=torch.uint8).numpy())
    return folder


FUSION = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=1, mlp_size=8, segmenter="b" * 64)


def test_all_that_is_missing_is_told_at_once(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing shard, maps of another segmenter, a level of few photos, too small a device, another run's folder."""
    shards = tars(toy, tmp_path / "tars")
    (shards / "1.tar").unlink()
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "other.txt").touch()
    monkeypatch.setattr(checking, "free_bytes", lambda device: 100_000)
    config = changed(
        STREAM,
        data={
            "photos": str(shards / "{0..3}.tar"),
            "validation_share": 0.2,
            "segmentation_cache": cache(toy, tmp_path / "S", "a" * 64),
        },
        model={"fusion": FUSION},
    )
    report = check(toy / "H", tmp_path / "C", config=config)
    text = report.text()
    assert "1.tar: no such file. 2 shards are missing; the others: 3.tar" in text
    assert "learned from maps of the segmentation model bbbbbbbb; these are of aaaaaaaa" in text
    assert "15 photos at once need about" in text
    assert "Take a device with more" in text
    assert "exists" in text
    assert len(report.problems) == 4, text
    save_fine_cells(toy, tmp_path / "H")
    (shards / "2.tar").write_bytes((shards / "2.tar").read_bytes()[:4000])
    more = check(tmp_path / "H", tmp_path / "C", config=config).text()
    for part in ("1.tar: no such file. 2 shards are missing", "Level 1 (tau_max 3) has", "lie in them: too few"):
        assert part in more
    for part in ("2.tar: ", "learned from maps of the segmentation model", "photos at once need", "exists"):
        assert part in more


def save_fine_cells(toy: Path, out: Path) -> None:
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    rule = PartitionRule(tau_max=(31, 3), tau_min=0)
    save_s2_hierarchy(table["lat"].to_numpy(), table["lng"].to_numpy(), rule=rule, out=out)


def test_parts_that_fit_are_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(STREAM, data={"batch_size": 16})
    whole = of(toy, tmp_path / "C", config).estimate
    assert whole is not None
    parts = changed(config, trainer={"accumulate_grad_batches": 4})
    small = of(toy, tmp_path / "C", parts).estimate
    assert small is not None
    assert small.photos_at_once == 4
    assert small.need_bytes < whole.need_bytes
    room = (small.need_bytes + 1000) / 0.9
    monkeypatch.setattr(checking, "free_bytes", lambda device: int(room))
    assert "Set trainer.accumulate_grad_batches to 4." in of(toy, tmp_path / "C", config).text()
    assert of(toy, tmp_path / "C", parts).problems == []


def test_a_batch_that_is_larger_than_the_sample_is_estimated_whole(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(STREAM, data={"batch_size": 40}, trainer={"accumulate_grad_batches": 1})
    by_photos = of(toy, tmp_path / "C", config).estimate
    monkeypatch.setattr(photo_survey, "_SAMPLE", 10)
    by_sample = of(toy, tmp_path / "C", config).estimate
    assert by_photos is not None
    assert by_sample is not None
    assert by_sample.photos_at_once == by_photos.photos_at_once == 40
    assert by_sample.need_bytes == pytest.approx(by_photos.need_bytes, rel=0.02)


def test_photos_that_are_absent_or_no_good(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    (folder / "0004.png").unlink()
    (folder / "0009.png").write_text("text")
    report = of(folder, tmp_path / "C")
    assert "1 of 90 are not there, the first 0004.png" in report.text()
    monkeypatch.setattr(checking, "_MAY_BE_ABSENT", 0.05)
    monkeypatch.setattr(checking, "_DECODED", 90)
    report = of(folder, tmp_path / "C")
    assert report.problems == []
    assert "2 of 90 photos that were tried cannot be used" in report.text()
    monkeypatch.setattr(photo_survey, "_LOOK_S", -1.0)
    assert "only 0 of 90 were looked for, for want of time" in of(folder, tmp_path / "C").text()
    for path in folder.glob("*.png"):
        path.write_text("text")
    assert "90 of 90 photos that were tried cannot be used" in of(folder, tmp_path / "C").text()


def test_every_damaged_shard_is_told(toy: Path, tmp_path: Path) -> None:
    shards = tars(toy, tmp_path / "tars")
    for number in (0, 2):
        path = shards / f"{number}.tar"
        path.write_bytes(path.read_bytes()[:4000])
    data = {"photos": str(shards / "{0..2}.tar"), "validation_share": 0.2}
    report = check(toy / "H", tmp_path / "C", config=changed(STREAM, data=data))
    assert {finding.text.split(".tar")[0][-1] for finding in report.problems} == {"0", "2"}, report.text()


def test_maps_that_some_photos_lack(toy: Path, tmp_path: Path) -> None:
    fused = changed(STREAM, model={"fusion": FUSION})
    assert "none come with these. Give data.segmentation_cache" in of(toy, tmp_path / "C", fused).text()
    made = cache(toy, tmp_path / "S", "b" * 64)
    with_maps = changed(fused, data={"segmentation_cache": made})
    assert of(toy, tmp_path / "C", with_maps).problems == []
    other = Path(shutil.copytree(toy, tmp_path / "toy"))
    for path in other.glob("00[0-4]?.png"):
        path.write_bytes(path.read_bytes() + b"another file")
    assert "no_map" in of(other, tmp_path / "C", with_maps).text()


def test_maps_that_cannot_be_opened_are_one_problem(toy: Path, tmp_path: Path) -> None:
    """And no second one for every photo, whose map nobody could look up; photos that are no good are told, too."""
    made = cache(toy, tmp_path / "S", "b" * 64)
    (made / "manifest.json").unlink()
    other = Path(shutil.copytree(toy, tmp_path / "toy"))
    for path in other.glob("00[0-6]?.png"):
        path.write_text("text")
    fused = changed(STREAM, data={"segmentation_cache": made}, model={"fusion": FUSION})
    report = of(toy, tmp_path / "C", fused)
    assert [finding.subject for finding in report.problems] == ["data.segmentation_cache"]
    assert report.estimate is not None
    assert report.estimate.read_s is not None
    text = of(other, tmp_path / "C", fused).text()
    assert "photos that were tried cannot be used" in text
    assert "no_map" not in text


def test_a_device_that_is_not_there(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = of(toy, tmp_path / "C", changed(STREAM, trainer={"accelerator": "gpu", "devices": 3}))
    assert [finding.subject for finding in report.problems] == ["trainer"]
    assert report.estimate is not None
    assert report.estimate.hours is None
    assert "time: not known" in report.text()


def test_too_small_a_disk(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    report = of(toy, tmp_path / "C")
    assert "1000" not in report.text()
    assert [finding.subject for finding in report.problems] == ["out"]
    assert "are free there" in report.text()


def test_a_model_that_is_not_there(toy: Path, tmp_path: Path) -> None:
    """As the paper's: a folder that `convert` makes, and whose weights are still missing."""
    start = changed(STREAM, model={"start_from": f"hf:{tmp_path / 'clip'}"})
    (tmp_path / "clip").mkdir()
    report = of(toy, tmp_path / "C", start)
    assert [finding.subject for finding in report.problems] == ["model"]
    assert "clip" in report.text()
    assert "no batch could be tried" in report.text()


def test_the_table_must_have_its_halves(toy: Path, tmp_path: Path) -> None:
    text = of(toy, tmp_path / "C", changed(STREAM, data={"validation_split": "test"})).text()
    assert "no row of split 'test'" in text
    table = pyarrow.parquet.read_table(toy / "photos.parquet")
    far = table.set_column(1, "lat", pa.array([-80.0] * table.num_rows))
    pyarrow.parquet.write_table(far, tmp_path / "far.parquet")
    config = changed(STREAM, data={"photos": str(tmp_path / "far.parquet")})
    text = check(toy / "H", tmp_path / "C", config=config).text()
    assert "data.photos (train): none of them can be used" in text
    assert "Was it made from these photos?" in text


def test_photos_are_looked_for_without_a_hierarchy(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    for number in range(20):
        (folder / f"{number:04d}.png").unlink()
    report = of(folder, tmp_path / "C", hierarchy="nowhere")
    assert {finding.subject for finding in report.problems} == {"hierarchy", "data.photos (train)"}, report.text()
    assert "20 of 90 are not there, the first 0000.png" in report.text()


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(random_crop=True)])
def test_photos_that_do_not_fit_into_memory(toy: Path, tmp_path: Path, augmentation: Augmentation) -> None:
    """What `fit` would end at, in its own words, and of both halves."""
    small = changed(LEARN, data={"memory_limit_gb": 1e-5, "augmentation": augmentation})
    report = of(toy, tmp_path / "C", small)
    assert {finding.subject for finding in report.problems} == {"data.memory_limit_gb"}, report.text()
    with pytest.raises(InputError, match="Raise that limit") as refused:
        train(toy, tmp_path / "C", small)
    assert str(refused.value) in {finding.text for finding in report.problems}
    assert of(toy, tmp_path / "C", changed(small, data={"stream": True})).problems == []
