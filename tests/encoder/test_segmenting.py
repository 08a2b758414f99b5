"""`python -m encoder segment`: what is in the cache is skipped, bad photos are counted, a kill costs little."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from encoder import segmenting
from encoder.__main__ import COMMANDS
from encoder.class_maps.cache import open_cache
from encoder.class_maps.class_map import check_fit
from encoder.config import SegmentConfig
from encoder.models.segmentation import Segmenter
from encoder.photos.images import decode
from encoder.photos.photo_reader import PreparedPhoto, SegmenterInput
from encoder.segmenting import SegmentSummary, segment_photos
from indexer.cli import main
from indexer.errors import BadImage, InputError, WorkError
from indexer.jobs.stopping import Stopped
from indexer.photos.sources import listed_photos, open_photos
from tests.encoder.conftest import natural
from tests.kills import KILLED, fork

SIZES = [(100, 80), (90, 120), (100, 80), (64, 64), (300, 60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Fourteen photos of five sizes, one a copy; two that are none; a table of them, and of one that is absent."""
    (tmp_path / "P").mkdir()
    for row in range(13):
        natural(*SIZES[row % 5], seed=row).save(tmp_path / "P" / f"{row:02d}.jpg")
    shutil.copy(tmp_path / "P" / "00.jpg", tmp_path / "P" / "13.jpg")
    (tmp_path / "P" / "14.jpg").write_text("text")
    (tmp_path / "P" / "15.jpg").write_bytes((tmp_path / "P" / "01.jpg").read_bytes()[:300])
    names = [*(f"{row:02d}.jpg,{'ab'[row % 2]}" for row in range(16)), "absent.jpg,a"]
    (tmp_path / "P" / "photos.csv").write_text("\n".join(["photo,split", *names]))
    return tmp_path / "P"


def run(segmenter: Segmenter, folder: Path, out: Path, **options: int) -> SegmentSummary:
    return segment_photos(segmenter, open_photos(folder / "photos.csv"), out, config=SegmentConfig(**options))


def check(segmenter: Segmenter, folder: Path, out: Path, *, edge: int = 384) -> None:
    cache = open_cache(out)
    assert cache.origin.segmenter == segmenter.digest
    assert cache.origin.class_names == segmenter.class_names
    for row in range(14):
        path = folder / f"{row:02d}.jpg"
        image = decode(path.read_bytes())
        classes = cache.get(path.read_bytes())
        assert classes is not None
        check_fit(classes.shape, image.size)
        np.testing.assert_array_equal(classes, segmenter.segment([segmenter.input.prepare(image, map_edge=edge)])[0])
    for name, code in (("14.jpg", "not_an_image"), ("15.jpg", "damaged")):
        with pytest.raises(BadImage, match=code):
            cache.get((folder / name).read_bytes())


def test_every_photo_has_its_map_whatever_the_batches(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    failed = {"not_an_image": 1, "damaged": 1, "missing": 1}
    for n, options in enumerate(({"batch_size": 1, "workers": 1}, {"batch_size": 3, "shard_maps": 4}, {"workers": 5})):
        summary = run(segmenter, folder, tmp_path / f"S{n}", **options)
        assert (summary.rows, summary.new, summary.already_there, dict(summary.failed)) == (17, 13, 1, failed)
        check(segmenter, folder, tmp_path / f"S{n}")
    assert run(segmenter, folder, tmp_path / "small", map_edge=20).new == 13
    check(segmenter, folder, tmp_path / "small", edge=20)


def test_paths_alone_will_do(segmenter: Segmenter, oneformer_folder: Path, folder: Path, tmp_path: Path) -> None:
    summary = segmenting.segment(folder / "photos.csv", oneformer_folder, str(tmp_path / "S"))
    assert (summary.segmenter, summary.rows, summary.new) == (segmenter.digest, 17, 13)
    config = SegmentConfig(map_edge=99)
    with pytest.raises(InputError, match="Give `map_edge` 384"):
        segmenting.segment(folder / "photos.csv", oneformer_folder, tmp_path / "S", config=config)


def test_a_rerun_does_only_what_is_missing(
    segmenter: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "S"
    first = open_photos(folder / "photos.csv", split="a")
    summary = segment_photos(segmenter, first, out, config=SegmentConfig())
    assert (summary.rows, summary.new, summary.already_there) == (9, 7, 0)
    decoded: list[int] = []
    monkeypatch.setattr(
        "encoder.photos.photo_reader.decode", lambda stream, **options: decoded.append(1) or decode(stream, **options)
    )
    seen: list[int] = []
    table = open_photos(folder / "photos.csv")
    summary = segment_photos(segmenter, table, out, config=SegmentConfig(), advance=seen.append)
    assert (summary.rows, summary.new, summary.already_there) == (17, 6, 8)
    assert dict(summary.failed) == {"not_an_image": 1, "damaged": 1, "missing": 1}
    assert len(decoded) == 7  # six photos, and one that is damaged; what is not an image is known
    assert sum(seen) == 17
    shutil.copytree(folder, tmp_path / "renamed")
    (tmp_path / "renamed" / "00.jpg").rename(tmp_path / "renamed" / "new name.jpg")
    summary = segment_photos(segmenter, open_photos(tmp_path / "renamed"), out, config=SegmentConfig())
    assert (summary.rows, summary.new, summary.already_there, len(decoded)) == (16, 0, 14, 7)
    check(segmenter, folder, out)


def test_a_photo_too_large_for_one_run_is_segmented_by_another(
    segmenter: Segmenter, folder: Path, tmp_path: Path
) -> None:
    summary = run(segmenter, folder, tmp_path / "S", max_pixels=9000)
    assert summary.failed["too_large"] == 5
    assert run(segmenter, folder, tmp_path / "S").new == 5
    check(segmenter, folder, tmp_path / "S")


def test_rows_without_photos_are_counted(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    (folder / "folder.jpg").mkdir()
    (folder / "empty.jpg").touch()
    names = ["", "folder.jpg", "empty.jpg", "00.jpg/x.jpg", "a\0b", "00.jpg"]
    table = listed_photos([f"{folder}/{name}" if name else "" for name in names])
    summary = segment_photos(segmenter, table, tmp_path / "S", config=SegmentConfig())
    assert (summary.new, summary.already_there) == (1, 0)
    assert dict(summary.failed) == {"missing": 2, "not_an_image": 1, "empty": 1, "unreadable": 1}
    assert len(open_cache(tmp_path / "S")) == 1


def test_the_first_failure_of_a_kind_is_told_at_once(
    segmenter: Segmenter, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "12.jpg").write_text("also text")
    run(segmenter, folder, tmp_path / "S")
    assert [line.split(",")[0] for line in caplog.messages] == [
        "12.jpg: not_an_image",
        "15.jpg: damaged",
        "absent.jpg: missing",
    ]


def test_memory_is_bounded_whatever_the_number_of_photos(
    segmenter: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos of all shapes at once, so that no batch is ever full."""
    for row in range(60):
        natural(64 + row, 64, seed=row).save(folder / f"{row:02d}.jpg")
    done, most = 0, 0
    prepare = SegmenterInput.prepare

    def prepared(*arguments: object, **options: object) -> object:
        nonlocal most
        begun.append(1)
        most = max(most, len(begun) - done)
        return prepare(*arguments, **options)  # type: ignore[arg-type]

    def advance(photos: int) -> None:
        nonlocal done
        done += photos

    begun: list[int] = []
    monkeypatch.setattr(SegmenterInput, "prepare", prepared)
    table = listed_photos([f"{folder}/{row:02d}.jpg" for row in range(60)])
    summary = segment_photos(segmenter, table, tmp_path / "S", config=SegmentConfig(batch_size=2), advance=advance)
    assert (summary.new, done) == (60, 60)
    assert most <= 2 * (3 + 4) + 1 + 1  # ahead of the model, waiting for others of their shape, and one in hand


def test_too_little_memory_on_the_device_says_what_to_do_and_keeps_what_is_done(
    segmenter: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, calls = Segmenter.maps, iter([True, True, False])

    def limited(*arguments: object) -> object:
        if not next(calls):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return maps(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "maps", limited)
    with pytest.raises(WorkError, match="smaller `batch_size`"):
        run(segmenter, folder, tmp_path / "S", batch_size=2)
    assert len(open_cache(tmp_path / "S")) == 4


def segment(*arguments: object) -> int:
    try:
        return main("encoder", "test", COMMANDS, argv=["segment", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def test_the_command_reports_counts_and_exit_codes(
    folder: Path, oneformer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--photos", folder / "photos.csv", "--model", oneformer_folder, "--out", tmp_path / "S"]
    assert segment(*common, "--split", "b", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows"], data["new"], data["already_there"], data["failed"]) == (8, 7, 0, {"damaged": 1})
    assert data["segmented_per_second"] > 0
    assert segment(*common) == 0
    assert "17 photos in" in (text := capsys.readouterr().out)
    assert "6 segmented" in text
    assert "8 already there, failed: 1 not_an_image, 1 damaged, 1 missing" in text
    assert segment(*common, "--strict") == 1
    (tmp_path / "none.csv").write_text("photo\nno.jpg\n")
    assert segment("--photos", tmp_path / "none.csv", "--model", oneformer_folder, "--out", tmp_path / "S") == 1


def test_wrong_input_is_exit_2(
    folder: Path, oneformer_folder: Path, segmenter: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, model, out = ["--photos", folder], ["--model", oneformer_folder], ["--out", tmp_path / "S"]
    other = shutil.copytree(oneformer_folder, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text().replace('"dropout": 0.1', '"dropout": 0.2'))
    assert segment(*photos, *model, *out) == 0
    cases = [
        ([*photos, *model, "--out", folder], "holds other things"),
        ([*photos, *model, *out, "--map-edge", 100], "shorter edge of 384 pixels, not 100"),
        (
            [*photos, "--model", other, *out],
            f"made by segmenter {segmenter.digest[:12]} ({oneformer_folder}), this one is ",
        ),
        ([*photos, "--model", folder, *out], "the folder has no config.json"),
        (["--photos", tmp_path / "no.csv", *model, *out], "no such"),
        ([*photos, *model, *out, "--batch-size", 0], "--batch-size must be at least 1"),
    ]
    if not torch.cuda.is_available():
        cases.append(([*photos, *model, *out, "--device", "cuda"], "no CUDA device"))
    for arguments, message in cases:
        assert segment(*arguments) == 2
        assert message in capsys.readouterr().err


def slowly(*arguments: object) -> None:
    maps = Segmenter.maps
    Segmenter.maps = lambda *photos: (time.sleep(0.2), maps(*photos))[1]  # type: ignore[method-assign]
    segment(*arguments)


def test_a_killed_run_is_taken_up_where_it_was(
    segmenter: Segmenter, oneformer_folder: Path, folder: Path, tmp_path: Path
) -> None:
    """Shards of two maps, killed when the third is there; what is done again is less than a shard and a batch."""
    common = ["--photos", folder / "photos.csv", "--model", oneformer_folder, "--out", tmp_path / "S"]
    process = fork(slowly, *common, "--shard-maps", 2, "--batch-size", 1)
    while not (tmp_path / "S" / "index" / "00002.parquet").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == KILLED
    kept = len(open_cache(tmp_path / "S"))
    assert 6 <= kept < 13
    table = pyarrow.parquet.read_table(tmp_path / "S" / "index")
    assert table.num_rows == kept
    summary = run(segmenter, folder, tmp_path / "S")
    assert (summary.rows, summary.new + summary.already_there) == (17, 14)
    assert summary.new == 13 - table["status"].to_pylist().count("ok")
    check(segmenter, folder, tmp_path / "S")


@pytest.mark.parametrize(("size", "last"), [(1, 1), (1, 5), (13, 2)])
def test_sigterm_keeps_the_maps_that_are_done(
    segmenter: Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, last: int
) -> None:
    """Between two photos; and where no batch of 13 is ever full, among those that are left. A shard holds 1,024."""
    maps, done = Segmenter.maps, list[int]()

    def signalled(segmenter: Segmenter, photos: list[PreparedPhoto]) -> object:
        done.append(len(photos))
        if len(done) == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return maps(segmenter, photos)

    monkeypatch.setattr(Segmenter, "maps", signalled)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=f"{tmp_path / 'S'}: stopped as asked, the maps that are done are kept. Run the"):
        run(segmenter, folder, tmp_path / "S", batch_size=size)
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(done) == last
    table = pyarrow.parquet.read_table(tmp_path / "S" / "index")
    assert table["status"].to_pylist().count("ok") == sum(done) < 13
    monkeypatch.undo()
    assert run(segmenter, folder, tmp_path / "S").new == 13 - sum(done)
    check(segmenter, folder, tmp_path / "S")


def test_the_command_ends_with_143_when_asked_to(
    oneformer_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = Segmenter.maps
    monkeypatch.setattr(Segmenter, "maps", lambda *photos: (os.kill(os.getpid(), signal.SIGTERM), maps(*photos))[1])
    options = ["--model", oneformer_folder, "--out", tmp_path / "S", "--batch-size", 1]
    assert segment("--photos", folder / "photos.csv", *options) == 143
    assert len(open_cache(tmp_path / "S")) == 1


def test_the_segmenter_sees_jpegs_in_enough_detail(segmenter: Segmenter, folder: Path, tmp_path: Path) -> None:
    """Large JPEGs are decoded at a fraction of their size, and their maps are cut for the whole photo."""
    natural(1600, 1200, seed=1).save(folder / "large.jpg", quality=95)
    table = listed_photos([f"{folder}/large.jpg"])
    segment_photos(segmenter, table, tmp_path / "S", config=SegmentConfig(map_edge=96))
    classes = open_cache(tmp_path / "S").get((folder / "large.jpg").read_bytes())
    assert classes is not None
    assert classes.shape == (96, 128)
    whole = segmenter.input.prepare(decode((folder / "large.jpg").read_bytes()), map_edge=96)
    assert (classes == segmenter.segment([whole])[0]).mean() > 0.9


def segment_part(folder: Path, model: Path, out: Path, part: str) -> SegmentSummary:
    return segmenting.segment(folder / "photos.csv", model, out, config=SegmentConfig(part=part))


def test_parts_together_are_what_one_process_makes(
    segmenter: Segmenter, oneformer_folder: Path, folder: Path, tmp_path: Path
) -> None:
    parts = [segment_part(folder, oneformer_folder, tmp_path / "M" / str(n), f"{n}/3") for n in (1, 2, 3)]
    assert [each.rows for each in parts] == [6, 6, 5]
    check(segmenter, folder, tmp_path / "M")  # the folder that holds them
    cache = open_cache(tuple(tmp_path / "M" / str(n) for n in (3, 1, 2)))
    assert cache.get((folder / "05.jpg").read_bytes()) is not None
    assert len(cache) == sum(each.new for each in parts) + 2  # two photos that are none
    again = segment_part(folder, oneformer_folder, tmp_path / "M" / "2", "2/3")
    assert (again.new, again.already_there) == (0, parts[1].new)
    with pytest.raises(InputError, match=r"part 2/3 is missing"):
        open_cache((tmp_path / "M" / "1", tmp_path / "M" / "3"))
    for other in ("1/3", "1/1", "2/2"):
        with pytest.raises(InputError, match="Give the same `part`"):
            segment_part(folder, oneformer_folder, tmp_path / "M" / "2", other)


def test_a_part_that_was_cut_short_is_a_gap_until_it_is_done(
    oneformer_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_part(folder, oneformer_folder, tmp_path / "M" / "1", "1/2")
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "maps", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segment_part(folder, oneformer_folder, tmp_path / "M" / "2", "2/2")
    with pytest.raises(InputError, match=r"M/2: part 2/2 of .* was not ended"):
        open_cache(tmp_path / "M")
    segment_part(folder, oneformer_folder, tmp_path / "M" / "2", "2/2")
    assert len(open_cache(tmp_path / "M")) == 16  # of two copies each part has one
