"""Photos ahead of the model: the same in any process, every row once, whatever dies."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.config import MAX_ASPECT, Resizing
from encoder.photos.decoded_batch import DecodedBatch
from encoder.photos.decoding import decoded_batches
from encoder.photos.photo_reader import PhotoReader
from indexer.errors import BadImage, InputError, MissingBackend, WorkError
from indexer.photos.photo import FileRange, Photo
from tests.encoder.conftest import natural
from tests.encoder.deadly import Deadly


def photo(path: Path, class_map: Path | None = None) -> Photo:
    return Photo(path.name, FileRange(str(path)), 1.0, 2.0, None if class_map is None else FileRange(str(class_map)))


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    found = []
    for row in range(14):
        natural(30 + row, 40 - row, seed=row).save(tmp_path / f"{row}.png")
        found.append(photo(tmp_path / f"{row}.png"))
    (tmp_path / "5.png").write_bytes(b"")
    return found


def in_twos(photos: list[Photo]) -> Iterator[list[Photo]]:
    return (photos[row : row + 2] for row in range(0, len(photos), 2))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_photo_comes_once_in_order_wherever_it_is_decoded(photos: list[Photo], workers: int) -> None:
    batches = list(decoded_batches(in_twos(photos), PhotoReader(Resizing(16)), workers=workers))
    assert [name for batch in batches for name in batch.name] == [each.name for each in photos]
    assert [status for batch in batches for status in batch.status] == ["ok"] * 5 + ["empty"] + ["ok"] * 8
    pixels = [each for batch in batches for each in batch.pixels()]
    good = [row for row in range(14) if row != 5]
    for row, have in zip(good, pixels, strict=True):
        np.testing.assert_array_equal(have.numpy(), np.asarray(natural(30 + row, 40 - row, seed=row)))
    assert not multiprocessing.active_children()


def test_images_in_memory_are_decoded_in_this_process_alone() -> None:
    photos = [Photo(str(row), natural(30 + row, 40, seed=row)) for row in range(14)]
    batches = list(decoded_batches(in_twos(photos), PhotoReader(Resizing(16)), workers=0))
    for row, have in enumerate(each for batch in batches for each in batch.pixels()):
        np.testing.assert_array_equal(have.numpy(), np.asarray(natural(30 + row, 40, seed=row)))
    with pytest.raises(InputError, match="give `workers` 0"):
        list(decoded_batches(in_twos(photos), PhotoReader(Resizing(16)), workers=1))


def test_a_photo_travels_with_its_map(tmp_path: Path) -> None:
    class_map = np.arange(30 * 40, dtype=np.uint32).reshape(30, 40).astype(np.uint8) % 150
    Image.fromarray(class_map).save(tmp_path / "map.png")
    natural(40, 30).save(tmp_path / "a.png")
    good, bad = photo(tmp_path / "a.png", tmp_path / "map.png"), photo(tmp_path / "absent.png", tmp_path / "map.png")
    (batch,) = decoded_batches([[bad, good, good]], PhotoReader(Resizing(30), classes=150), workers=0)
    assert batch.rows == [1, 2]
    for each in batch.class_maps():
        assert each is not None
        np.testing.assert_array_equal(each.numpy(), class_map)
    np.testing.assert_array_equal(batch.pixels()[1].numpy(), np.asarray(natural(40, 30)))


def reason(read: PhotoReader, each: Photo) -> BadImage:
    result = read(each)
    assert isinstance(result, BadImage)
    return result


def test_what_is_wrong_with_a_map_is_the_photos_own_reason(tmp_path: Path) -> None:
    natural(40, 30).save(tmp_path / "a.png")
    for name, size, value in (("fits", (20, 15), 3), ("turned", (30, 40), 3), ("strange", (40, 30), 200)):
        Image.new("L", size, value).save(tmp_path / f"{name}.png")
    natural(40, 30).save(tmp_path / "colours.png")
    read = PhotoReader(Resizing(16), classes=150)
    image = tmp_path / "a.png"
    assert not isinstance(read(photo(image, tmp_path / "fits.png")), BadImage)
    assert reason(read, photo(image, tmp_path / "turned.png")).code == "map_size"
    assert reason(read, photo(image, tmp_path / "strange.png")).code == "map_class"
    assert "class 200" in reason(read, photo(image, tmp_path / "strange.png")).reason
    assert reason(read, photo(image, tmp_path / "colours.png")).code == "bad_map"
    assert reason(read, photo(image)).code == "no_map"
    assert reason(read, photo(image, tmp_path / "absent.png")).reason.startswith("its class map, missing")


def test_maps_are_not_even_read_where_nobody_uses_them(tmp_path: Path) -> None:
    natural(40, 30).save(tmp_path / "a.png")
    assert not isinstance(PhotoReader(Resizing(16))(photo(tmp_path / "a.png", tmp_path / "absent.png")), BadImage)


def test_what_waits_for_the_model_is_bounded(tmp_path: Path) -> None:
    Image.new("RGB", (2001, 3001)).save(tmp_path / "large.png")
    result = PhotoReader(Resizing(336))(photo(tmp_path / "large.png"))
    assert not isinstance(result, BadImage)
    assert result.pixels.shape == (503, 336, 3)


def test_a_strip_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10 * MAX_ASPECT)).save(tmp_path / "long.png")
    Image.new("RGB", (10, 10 * MAX_ASPECT + 1)).save(tmp_path / "strip.png")
    assert not isinstance(PhotoReader(Resizing(16))(photo(tmp_path / "long.png")), BadImage)
    assert reason(PhotoReader(Resizing(16)), photo(tmp_path / "strip.png")).code == "too_long"


def test_a_worker_that_dies_costs_no_photo(photos: list[Photo]) -> None:
    many = [photo for photo in photos if photo.name != "5.png"] * 20
    batches = decoded_batches(in_twos(many), PhotoReader(Resizing(16)), workers=2)
    names = list(next(batches).name)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    for batch in batches:
        assert set(batch.status) == {"ok"}
        names += batch.name
    assert names == [photo.name for photo in many]


def test_a_photo_that_ends_its_process_is_a_row_with_its_reason(photos: list[Photo]) -> None:
    many = [replace(photo, name=f"{row}") for row, photo in enumerate([photos[0], photos[1]] * 20)]
    deadly = {5, 6, 17}
    for row in deadly:
        many[row] = replace(many[row], name=f"deadly {row}")
    batches = list(decoded_batches(in_twos(many), Deadly(Resizing(16)), workers=2))
    assert [name for batch in batches for name in batch.name] == [photo.name for photo in many]
    status = [status for batch in batches for status in batch.status]
    assert {row for row, code in enumerate(status) if code == "crashed"} == deadly
    assert set(status) == {"ok", "crashed"}


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError("cut off"), RuntimeError("broken")])
def test_what_the_source_raises_is_nobodys_death(photos: list[Photo], error: Exception) -> None:
    def failing() -> Iterator[list[Photo]]:
        yield from in_twos(photos * 2)
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(decoded_batches(failing(), PhotoReader(Resizing(16)), workers=1))


def test_a_few_photos_can_be_kept_from_this_process(photos: list[Photo]) -> None:
    few = [photos[0], replace(photos[1], name="deadly")]
    (batch,) = decoded_batches(in_twos(few), Deadly(Resizing(16)), workers=1, few_here=False)
    assert list(batch.status) == ["ok", "crashed"]


def test_photo_after_photo_that_ends_its_process_ends_the_work(
    photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder.photos.decoding._MOST_DEATHS", 2)
    deadly = [replace(photos[0], name=f"deadly {row}") for row in range(30)]
    with pytest.raises(WorkError, match="2 photos in a row"):
        list(decoded_batches(in_twos(deadly), Deadly(Resizing(16)), workers=1))


def test_what_ends_the_work_in_a_worker_is_the_same_error_as_here(photos: list[Photo]) -> None:
    unknown = [Photo("a", FileRange("gs://bucket/a.jpg"), 0.0, 0.0)] * 20
    errors = []
    for workers in (0, 1):
        with pytest.raises(MissingBackend, match="pip install gcsfs") as caught:
            list(decoded_batches(in_twos(unknown), PhotoReader(Resizing(16)), workers=workers))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    natural(300, 200).save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def test_too_little_shared_memory_is_an_error_and_not_a_wait(image: Path) -> None:
    """A limit on the size of files is one on shared memory, too; workers inherit the one of the server."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["encoder.photos.decoding"])
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    soft, hard = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(WorkError, match=r"too little shared memory.*`workers` 0"):
            list(decoded_batches(([photo(image)] * 8 for _ in range(100)), PhotoReader(Resizing(16)), workers=1))
    finally:
        resource.prlimit(server, resource.RLIMIT_FSIZE, (soft, hard))


# What a shell starts in the background ignores Ctrl-C, and so would what tests start.
ENDED_TWICE = """
import itertools, multiprocessing, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from encoder.config import Resizing
from encoder.photos.decoding import decoded_batches
from encoder.photos.photo_reader import PhotoReader
from indexer.photos.photo import FileRange, Photo
photo = Photo("a", FileRange(sys.argv[1]), 0.0, 0.0)
def begun():
    batches = decoded_batches(([photo] * 8 for _ in itertools.count()), PhotoReader(Resizing(16)), workers=1)
    next(batches)
    return batches
batches = begun()
try:
    print("ready", flush=True)
    for batch in batches: pass
except KeyboardInterrupt:
    batches.close()
    print(len(multiprocessing.active_children()), "left", flush=True)
print("--", file=sys.stderr, flush=True)
batches = begun()
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


def test_nothing_is_left_after_ctrl_c_or_the_death_of_the_main_process(image: Path) -> None:
    """First the one, with neither processes nor tracebacks of theirs; then, in the same process, the other."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDED_TWICE, image],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a terminal starts it
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        assert process.stdout.readline() == "0 left\n"
        assert process.stderr.readline() == "--\n"
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 1
        process.kill()
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail("a worker is still there")


WITHOUT_GUARD = """
import sys
from encoder.config import Resizing
from encoder.photos.decoding import decoded_batches
from encoder.photos.photo_reader import PhotoReader
from indexer.photos.photo import FileRange, Photo
print("begun", __spec__ and __spec__.name, flush=True)
names = (__file__, __spec__)
photos = [Photo("a", FileRange(sys.argv[1]), 0.0, 0.0)] * 8
print(sum(map(len, decoded_batches([photos] * 9, PhotoReader(Resizing(16)), workers=1))), names == (__file__, __spec__))
"""


def test_a_script_without_a_guard_is_not_run_again_by_workers(image: Path, tmp_path: Path) -> None:
    """Which is a module here, so that it has both names that a worker could find it by; both are there afterwards."""
    (tmp_path / "script.py").write_text(WITHOUT_GUARD)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "script", str(image)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (run.stdout, run.stderr) == ("begun script\n72 True\n", "")


@pytest.mark.gpu
def test_pinned_pixels_arrive_on_the_gpu(photos: list[Photo]) -> None:
    for batch in decoded_batches(in_twos(photos), PhotoReader(Resizing(16)), workers=1, pin=True):
        assert isinstance(batch, DecodedBatch)
        assert batch.buffer.is_pinned()
        there = batch.to(torch.device("cuda"))
        for one, other in zip(batch.pixels(), there.pixels(), strict=True):
            assert torch.equal(one, other.cpu())
