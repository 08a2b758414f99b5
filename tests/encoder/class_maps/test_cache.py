"""The cache of class maps: what goes in comes out, whatever dies meanwhile; damage and other models are told."""

import itertools
import json
import os
import pickle
import shutil
import signal
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from encoder.class_maps.cache import MapOrigin, check_cache, content_digest, open_cache, write_cache
from encoder.class_maps.class_map import decode_map
from indexer.disk.artifact import write_folder
from indexer.errors import ArtifactError, BadImage, BundleMismatch, InputError
from tests.kills import KILLED, Forks, die_after

ORIGIN = MapOrigin("a" * 64, "some/model", ("wall", "sky", "tree"), 384)
MAPS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20))
ENTRIES = st.dictionaries(st.binary(max_size=4), MAPS | st.sampled_from(["damaged", "not_an_image"]), max_size=12)


def classes_of(photo: bytes) -> np.ndarray:
    """A map of its own for each photo."""
    rng = np.random.default_rng(list(photo))
    return rng.integers(0, 3, rng.integers(1, 30, 2), dtype=np.uint8)


def fill(folder: Path, photos: list[bytes], *, shard_maps: int = 4) -> None:
    with write_cache(folder, ORIGIN, shard_maps=shard_maps) as cache:
        for photo in photos:
            if photo.startswith(b"bad"):
                cache.fail(content_digest(photo), BadImage("damaged", f"{photo!r} is no photo"))
            else:
                cache.add(content_digest(photo), classes_of(photo))


def check(folder: Path, photos: list[bytes]) -> None:
    cache = open_cache(folder)
    for photo in photos:
        if photo.startswith(b"bad"):
            with pytest.raises(BadImage, match=r"damaged: .* is no photo"):
                cache.get(photo)
        else:
            np.testing.assert_array_equal(cache.get(photo), classes_of(photo))
    assert cache.get(b"another photo") is None
    assert len(cache) == len(photos)


PHOTOS = [b"%d" % number for number in range(9)] + [b"bad 1", b"bad 2", b"10"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of four photos."""
    fill(tmp_path / "S", PHOTOS)
    return tmp_path / "S"


@settings(max_examples=30)
@given(ENTRIES, ENTRIES, st.integers(1, 5))
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[bytes, np.ndarray | str],
    second: dict[bytes, np.ndarray | str],
    shard_maps: int,
) -> None:
    folder = tmp_path_factory.mktemp("cache") / "S"
    known: dict[bytes, np.ndarray | str] = {}
    for entries in (first, second):
        with write_cache(folder, ORIGIN, shard_maps=shard_maps) as cache:
            for photo, entry in entries.items():
                digest = content_digest(photo)
                if isinstance(known.get(photo), str):
                    with pytest.raises(BadImage):
                        cache.has(digest)
                    continue
                assert cache.has(digest) == (photo in known)
                if photo in known:
                    continue
                known[photo] = entry
                if isinstance(entry, str):
                    cache.fail(digest, BadImage(entry, "why"))
                else:
                    cache.add(digest, entry)
                    assert cache.has(digest)
    cache = open_cache(str(folder))
    assert cache.origin == ORIGIN
    assert len(cache) == len(known)
    for photo, entry in known.items():
        for key in (photo, content_digest(photo)):
            if isinstance(entry, str):
                with pytest.raises(BadImage, match=f"{entry}: why"):
                    cache.get(key)
            else:
                np.testing.assert_array_equal(cache.get(key), entry)


def test_shards_are_what_any_tool_opens(folder: Path) -> None:
    check(folder, PHOTOS)
    table = pyarrow.parquet.read_table(folder / "index")
    assert table["sha256"].to_pylist() == [content_digest(photo) for photo in PHOTOS]
    assert duckdb.sql(f"SELECT count(*) FROM '{folder}/index/*.parquet' WHERE status = 'ok'").fetchall() == [(10,)]
    for shard in range(3):
        with tarfile.open(folder / "maps" / f"{shard:05d}.tar") as tar:
            found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for photo in PHOTOS[4 * shard : 4 * shard + 4]:
            png = found.pop(f"{content_digest(photo)}.png", None)
            assert (png is None) == photo.startswith(b"bad")
            if png is not None:
                np.testing.assert_array_equal(decode_map(png), classes_of(photo))
        assert not found


def test_a_cache_is_read_while_it_is_written_and_without_its_lookup(tmp_path: Path) -> None:
    with write_cache(tmp_path / "S", ORIGIN, shard_maps=2) as cache:
        assert len(open_cache(tmp_path / "S")) == 0
        for number, photo in enumerate(PHOTOS[:9], start=1):
            cache.add(content_digest(photo), classes_of(photo))
            assert len(open_cache(tmp_path / "S")) == number // 2 * 2
        check(tmp_path / "S", PHOTOS[:8])
    check(tmp_path / "S", PHOTOS[:9])
    (tmp_path / "S" / "lookup.arrow").unlink()
    check(tmp_path / "S", PHOTOS[:9])
    fill(tmp_path / "S", [])
    assert (tmp_path / "S" / "lookup.arrow").exists()
    fill(tmp_path / "S", PHOTOS[9:])
    check(tmp_path / "S", PHOTOS)


def test_the_lookup_of_many_shards_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with write_cache(tmp_path / "S", ORIGIN, shard_maps=1) as cache:
        for number in range(12):
            cache.add(content_digest(b"%d" % number), classes_of(b"%d" % number))
    assert len(open_cache(tmp_path / "S")) == 12
    assert not caplog.records


def test_a_rerun_with_nothing_new_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    fill(folder, [])
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def test_threads_share_a_cache_and_pickling_reopens_it(folder: Path) -> None:
    cache = open_cache(folder)
    good = [photo for photo in PHOTOS if not photo.startswith(b"bad")]
    with ThreadPoolExecutor(4) as pool:
        for photo, classes in zip(good * 20, pool.map(cache.get, good * 20), strict=True):
            np.testing.assert_array_equal(classes, classes_of(photo))
    text = pickle.dumps(cache)
    assert len(text) < 1000
    np.testing.assert_array_equal(pickle.loads(text).get(b"3"), classes_of(b"3"))


def test_what_was_added_before_an_error_is_kept(tmp_path: Path) -> None:
    writing = write_cache(tmp_path / "S", ORIGIN)
    cache = writing.__enter__()
    cache.add(content_digest(b"1"), classes_of(b"1"))
    assert not writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    check(tmp_path / "S", [b"1"])


def test_a_shard_that_is_long_in_filling_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.class_maps.cache._SHARD_SECONDS", 0.0)
    with write_cache(tmp_path / "S", ORIGIN) as cache:
        for photo in PHOTOS[:3]:
            cache.add(content_digest(photo), classes_of(photo))
        assert len(open_cache(tmp_path / "S")) == 3


def test_a_tar_without_index_is_a_leftover_and_is_cleared_away(folder: Path) -> None:
    (folder / "lookup.arrow").unlink()
    (folder / "index" / "00002.parquet").unlink()  # as if killed between the two
    for name in ("maps/00002.tar.tmp-1-1", "index/00002.parquet.tmp-1-1", "lookup.arrow.tmp-1-1"):
        (folder / name).mkdir()
    check(folder, PHOTOS[:8])
    fill(folder, PHOTOS[8:])
    check(folder, PHOTOS)
    assert sorted(path.name for path in folder.rglob("*")) == sorted(
        [".lock", "index", "lookup.arrow", "manifest.json", "maps"]
        + [f"0000{n}{suffix}" for n in range(3) for suffix in (".tar", ".parquet")]
    )


def test_a_damaged_shard_is_named_and_can_be_removed(folder: Path) -> None:
    tar = folder / "maps" / "00001.tar"
    good = tar.read_bytes()
    tar.write_bytes(good[:-1])
    with pytest.raises(ArtifactError, match=rf"00001.tar: {len(good) - 1} bytes instead of {len(good)}. Remove"):
        open_cache(folder)
    tar.unlink()
    with pytest.raises(ArtifactError, match=r"00001\.tar: missing"):
        open_cache(folder)
    with pytest.raises(ArtifactError, match=r"00001\.tar: missing"):
        fill(folder, [])
    (folder / "index" / "00001.parquet").unlink()
    check(folder, PHOTOS[:4] + PHOTOS[8:])
    fill(folder, PHOTOS[4:8])
    check(folder, PHOTOS)
    assert not tar.exists()
    for path in (folder / "maps" / "00003.tar", folder / "index" / "00003.parquet"):
        path.unlink()  # the last: its number is given again
    fill(folder, PHOTOS[4:8])
    check(folder, PHOTOS)


def test_a_byte_changed_anywhere_never_gives_another_map(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One byte at a time, in every kind of file: the right map, or a clean error."""
    (folder / "index" / "00001.parquet").unlink()
    (folder / "index" / "00002.parquet").unlink()
    fill(folder, [])
    rng, damage = np.random.default_rng(0), 0
    for name, count in (("maps/00000.tar", 60), ("index/00000.parquet", 250), ("lookup.arrow", 60)):
        path = folder / name
        good, lookup = path.read_bytes(), (folder / "lookup.arrow").read_bytes()
        if name.startswith("index"):
            (folder / "lookup.arrow").unlink()
        for offset in rng.choice(len(good), count, replace=False):
            path.write_bytes(good[:offset] + bytes([good[offset] ^ rng.integers(1, 256)]) + good[offset + 1 :])
            try:
                cache = open_cache(folder)
                for photo in PHOTOS[:4]:
                    np.testing.assert_array_equal(cache.get(photo), classes_of(photo))
            except ArtifactError as error:
                damage += 1
                assert "Remove" in str(error)  # noqa: PT017 (not every byte matters)
        path.write_bytes(good)
        (folder / "lookup.arrow").write_bytes(lookup)
    assert damage > 100
    assert any("lookup.arrow: damaged" in message for message in caplog.messages)


def hold(folder: str, ready: str) -> None:
    with write_cache(Path(folder), ORIGIN):
        Path(ready).touch()
        time.sleep(60)


def test_only_one_process_writes(started: Forks, folder: Path, tmp_path: Path) -> None:
    other, deadline = started.start("hold", folder, tmp_path / "ready"), time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(InputError, match="another process is writing"):
        fill(folder, [])
    check(folder, PHOTOS)
    os.kill(other, signal.SIGKILL)
    assert started.end() == KILLED
    fill(folder, [b"new"])
    check(folder, [*PHOTOS, b"new"])


FEW = [b"1", b"bad 2", b"3"]


def killed(folder: str, changes: int) -> None:
    fill(Path(folder), FEW[:1], shard_maps=1)
    die_after(changes)
    fill(Path(folder), FEW[1:], shard_maps=1)


def mended(folder: str) -> None:
    kept = len(open_cache(Path(folder)))
    check(Path(folder), FEW[:kept])
    fill(Path(folder), FEW[kept:], shard_maps=1)
    check(Path(folder), FEW)
    assert not [path for path in Path(folder).rglob("*") if ".tmp-" in path.name]


def test_a_kill_at_any_step_leaves_a_cache_that_is_read_and_added_to(started: Forks, tmp_path: Path) -> None:
    for steps in itertools.count(0, 3):
        folder = tmp_path / str(steps)
        status = started.run("killed", folder, steps)
        assert status in (0, KILLED)
        assert started.run("mended", folder) == 0, steps
        if status == 0:
            break
    assert steps > 30  # changes to the file system, all of them tried in steps of three


def test_maps_of_another_model_or_size_are_refused_by_name(folder: Path) -> None:
    other = replace(ORIGIN, segmenter="b" * 64, model="other/model")
    with pytest.raises(BundleMismatch, match=r"segmenter a{12} \(some/model\), this one is b{12} \(other/model\)"):
        write_cache(folder, other).__enter__()
    other = replace(ORIGIN, map_edge=200)
    with pytest.raises(InputError, match="shorter edge of 384 pixels, not 200"):
        write_cache(folder, other).__enter__()
    check(folder, PHOTOS)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a class_maps folder"):
        open_cache(tmp_path / "absent")
    with write_folder(tmp_path / "F", kind="features", schema_version=1):
        pass
    with pytest.raises(ArtifactError, match="this is a features folder"):
        fill(tmp_path / "F", PHOTOS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "file", "file/S", "link"):
        for action in (check_cache, lambda folder: fill(folder, PHOTOS)):
            with pytest.raises(InputError, match=r"holds other things|exists already|cannot be written"):
                action(tmp_path / name)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]


def test_a_kill_before_the_manifest_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "S" / "manifest.json.tmp-1-1").mkdir(parents=True)
    (tmp_path / "S" / ".lock").touch()
    fill(tmp_path / "S", PHOTOS)
    check(tmp_path / "S", PHOTOS)
    assert not (tmp_path / "S" / "manifest.json.tmp-1-1").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"facts": {}},
        {"config": {"map_edge": "x"}},
        {"facts": {"segmenter": "a", "classes": []}},
    ],
)
def test_a_manifest_of_another_kind_is_a_clean_error(folder: Path, change: dict[str, object]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=r"damaged manifest|schema version 99"):
        open_cache(folder)


def test_a_moved_cache_is_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    check(tmp_path / "elsewhere", PHOTOS)


def test_folders_of_one_origin_are_one_cache(folder: Path, tmp_path: Path) -> None:
    fill(tmp_path / "T", [b"20", b"bad 3"])
    for cache in (open_cache((folder, tmp_path / "T")), open_cache(tmp_path)):
        again = pickle.loads(pickle.dumps(cache))
        for each in (cache, again):
            assert len(each) == len(PHOTOS) + 2
            for photo in (b"1", b"20"):
                np.testing.assert_array_equal(each.get(photo), classes_of(photo))
            with pytest.raises(BadImage, match="bad 3"):
                each.get(b"bad 3")
            assert each.get(b"21") is None
    with pytest.raises(InputError, match="named twice"):
        open_cache((folder, folder))


@pytest.mark.parametrize("other", [replace(ORIGIN, segmenter="b" * 64), replace(ORIGIN, map_edge=99)])
def test_folders_of_two_origins_are_refused(folder: Path, tmp_path: Path, other: MapOrigin) -> None:
    with write_cache(tmp_path / "T", other) as cache:
        cache.add(content_digest(b"20"), classes_of(b"20"))
    with pytest.raises(BundleMismatch, match=r"S and .*T are class maps of two origins"):
        open_cache((folder, tmp_path / "T"))
