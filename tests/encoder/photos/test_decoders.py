"""Processes that decode: what they are given comes back, and they end with the block and with who started them."""

import io
import multiprocessing
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from encoder.config import Resizing
from encoder.photos.decoders import decode_batch, decode_one, decoders
from encoder.photos.photo_reader import DecodedPhoto, PhotoReader
from indexer.errors import BadImage
from indexer.photos.photo import Photo
from tests.encoder.conftest import natural
from tests.encoder.deadly import Deadly


def photo(seed: int, size: tuple[int, int]) -> Photo:
    stream = io.BytesIO()
    natural(*size, seed=seed).save(stream, "PNG")
    return Photo(str(seed), stream.getvalue())


def test_photos_are_decoded_as_in_this_process_for_any_encoder() -> None:
    read, other = PhotoReader(Resizing(16)), Resizing(8, squash=True)
    photos = [photo(0, (50, 40)), photo(1, (2000, 1800)), photo(2, (40, 50))]  # the second is sent smaller
    with decoders(read, 2) as pool:
        for resizing in (None, other):
            for each, found in zip(photos, [pool.submit(decode_one, each, resizing) for each in photos], strict=True):
                have, want = found.result(), (read if resizing is None else PhotoReader(other))(each)
                assert isinstance(have, DecodedPhoto)
                assert isinstance(want, DecodedPhoto)
                np.testing.assert_array_equal(have.pixels, want.pixels)
        bad = pool.submit(decode_one, Photo("bad", b"no image")).result()
        assert isinstance(bad, BadImage)
        assert bad.code == "not_an_image"
        batch = pool.submit(decode_batch, [*photos, Photo("bad", b"")]).result()
        assert list(batch.status) == ["ok", "ok", "ok", "empty"]
    assert not multiprocessing.active_children()


def test_a_death_breaks_the_pool_and_the_block_ends_all_the_same() -> None:
    with decoders(Deadly(Resizing(16)), 2) as pool:
        pool.submit(decode_one, Photo("a", b"")).result()
        with pytest.raises(BrokenProcessPool):
            pool.submit(decode_one, Photo("deadly", b"")).result()
    assert not multiprocessing.active_children()
    with decoders(Deadly(Resizing(16)), 1) as pool:  # and another one begins
        assert isinstance(pool.submit(decode_one, Photo("a", b"")).result(), BadImage)


def test_processes_do_not_wait_for_what_they_were_given() -> None:
    started = time.monotonic()
    with decoders(PhotoReader(Resizing(16)), 1) as pool:
        pool.submit(decode_one, Photo("a", b"")).result()
        left = [pool.submit(time.sleep, 60) for _ in range(3)]
        (pid,) = pool._processes
    assert time.monotonic() - started < 50
    assert all(each.done() for each in left)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
